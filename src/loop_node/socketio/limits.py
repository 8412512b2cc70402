"""How much a Socket.IO peer may cost, in one place."""

from typing import Any

from attrs import Attribute, field, frozen

__all__ = ["Limits"]

_MIB = 1024 * 1024


def _positive(_: object, attribute: "Attribute[Any]", value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} must be more than 0, not {value}")


@frozen(kw_only=True)
class Limits:
    """Bounds and periods of a server or a client; a server announces the first three.

    Memory per peer, the worst case: four messages of `max_payload_bytes` in the web server (one complete, one queued, one handed over,
    one read), one packet of `max_packet_bytes` being put together, handlers with `max_handler_bytes` and one packet more,
    `max_outgoing_bytes` and one packet more waiting, one message in three copies on its way out. With the defaults that is 1 GiB for a
    peer that does all of it at once. Parsed JSON takes more room than its text; `max_json_values` keeps that below 250 MiB per packet.

    Attributes:
        max_payload_bytes: The largest message, and the largest single attachment; announced as maxPayload.
        ping_interval_s: Seconds between two pings of the server.
        ping_timeout_s: Seconds a peer may be silent after a ping.
        connect_timeout_s: Seconds between the open transport and the Socket.IO CONNECT.
        linger_s: Seconds a transport stays after a goodbye, for the other side to close it.
        max_attachments: Binary attachments of one packet.
        max_packet_bytes: A packet with all its attachments.
        max_json_values: Commas and opening brackets in the JSON text of one packet, that is, about the number of values.
        max_outgoing_bytes: Bytes waiting for the peer to read; beyond it whoever sends waits.
        max_outgoing_frames: Frames waiting, likewise.
        stall_s: Seconds one waits for a peer to read; then the peer is dropped.
        max_handlers: Events of one peer handled at the same time; beyond it its messages are not read.
        max_handler_bytes: Bytes of the events in handlers, likewise.
        handler_grace_s: Seconds handlers have to finish after their peer is gone.
        max_peers: Peers of a server; the next one is answered 503.
    """

    max_payload_bytes: int = field(default=64 * _MIB, validator=_positive)
    ping_interval_s: float = field(default=25.0, validator=_positive)
    ping_timeout_s: float = field(default=20.0, validator=_positive)
    connect_timeout_s: float = field(default=45.0, validator=_positive)
    linger_s: float = field(default=5.0, validator=_positive)
    max_attachments: int = field(default=256, validator=_positive)
    max_packet_bytes: int = field(default=128 * _MIB, validator=_positive)
    max_json_values: int = field(default=1_000_000, validator=_positive)
    max_outgoing_bytes: int = field(default=64 * _MIB, validator=_positive)
    max_outgoing_frames: int = field(default=1024, validator=_positive)
    stall_s: float = field(default=45.0, validator=_positive)
    max_handlers: int = field(default=8, validator=_positive)
    max_handler_bytes: int = field(default=128 * _MIB, validator=_positive)
    handler_grace_s: float = field(default=10.0, validator=_positive)
    max_peers: int = field(default=64, validator=_positive)
