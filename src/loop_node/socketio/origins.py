"""Which web pages may talk to this node: the rule shared by Socket.IO and REST."""

from collections.abc import Collection
from urllib.parse import urlsplit

__all__ = ["is_accepted_origin"]

_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_accepted_origin(origin: str | None, hosts: Collection[str], allowed: Collection[str]) -> bool:
    """Tell whether a request with this Origin header may be answered.

    Robots and scripts send none; browsers always do. A page of this very host is accepted, whatever the scheme: a proxy may have
    taken off the TLS.

    Args:
        origin: The Origin header, None or empty if there is none.
        hosts: The Host header and, behind a proxy, X-Forwarded-Host.
        allowed: Origins like `https://hmi.example`; `*` is every one.
    """
    if not origin or "*" in allowed:
        return True
    origin = origin.lower().rstrip("/")
    if origin in {entry.lower().rstrip("/") for entry in allowed}:
        return True
    scheme, _, host = origin.partition("://")
    if scheme not in _DEFAULT_PORTS:
        return False
    page = _split_host(host, scheme)
    return page is not None and page in [_split_host(own, scheme) for own in hosts]


def _split_host(host: str, scheme: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(f"//{host.strip()}")
        return (parts.hostname, parts.port or _DEFAULT_PORTS[scheme]) if parts.hostname else None
    except ValueError:
        return None
