"""Every error of ours, in one tree.

The type says whose fault it is and what to do about it; the text is written for the person who has to act::

    LoopNodeError
    |- SettingsError         the operator's settings: exit 78, all faults at once
    |- InputError            what a client or a file said: 4xx, never retried as it stands
    |  |- ImageError            bytes that are no image we accept
    |  |- SchemaError           a body with missing or wrong fields, all of them at once
    |  `- TooLarge              over a stated bound
    |- ModelError            a model that cannot be read, understood or built
    |- Unavailable           try again: 503 with Retry-After
    |  |- NoModel               no model serves (yet)
    |  `- Overloaded            the waiting line is full
    |- ProtocolError         a Socket.IO peer broke the protocol; `reply` says how to answer
    |- LoopError             the Learning Loop
    |  |- LoopUnavailable       not reached, or it failed: try again
    |  `- LoopRefused           it answered no: trying the same again is useless
    `- TaskGivenUp           a vital task used up its crash budget: the node exits non-zero
"""

from collections.abc import Sequence

__all__ = [
    "ImageError",
    "InputError",
    "LoopError",
    "LoopNodeError",
    "LoopRefused",
    "LoopUnavailable",
    "ModelError",
    "NoModel",
    "Overloaded",
    "ProtocolError",
    "SchemaError",
    "SettingsError",
    "TaskGivenUp",
    "TooLarge",
    "Unavailable",
]


class LoopNodeError(Exception):
    """The root: whatever this package raises on purpose."""


class SettingsError(LoopNodeError):
    """Settings that cannot be used; `problems` has one readable line per fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class InputError(LoopNodeError):
    """What came in cannot be used; the text names the field and the cure."""


class ImageError(InputError):
    """Bytes that are no image, or none of a form we accept."""


class SchemaError(InputError):
    """A body that does not fit its schema; `problems` has one readable line per fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class TooLarge(InputError):
    """More bytes or pixels than the stated bound."""


class ModelError(LoopNodeError):
    """A model that cannot be read, understood or built; the text says why and what is known."""


class Unavailable(LoopNodeError):
    """Not now: the same request may succeed after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class NoModel(Unavailable):
    """No model serves: none is there yet, or it is being exchanged."""


class Overloaded(Unavailable):
    """The waiting line before the engine is full."""


class ProtocolError(LoopNodeError):
    """A peer broke Engine.IO or Socket.IO.

    Attributes:
        reply: What the transport answers before it closes, for example an HTTP status text; empty for nothing.
    """

    def __init__(self, message: str, *, reply: str = "") -> None:
        self.reply = reply
        super().__init__(message)


class LoopError(LoopNodeError):
    """Something between this node and the Learning Loop went wrong."""


class LoopUnavailable(LoopError):
    """The Learning Loop was not reached or failed itself: try again later."""


class LoopRefused(LoopError):
    """The Learning Loop answered no.

    Attributes:
        status: The HTTP status.
        excerpt: The beginning of the body, for the log.
    """

    def __init__(self, status: int, excerpt: str) -> None:
        self.status = status
        self.excerpt = excerpt
        super().__init__(f"the Learning Loop answered {status}: {excerpt}")


class TaskGivenUp(LoopNodeError):
    """A vital task failed more often than its crash budget allows."""
