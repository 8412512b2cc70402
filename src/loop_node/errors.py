"""Every error of ours, in one tree.

The type says whose fault it is and what to do about it; the text is written for the person who has to act::

    LoopNodeError
    |- SettingsError         the operator's settings: exit 78, all faults at once
    |- InputError            what a client or a file said: 4xx, never retried as it stands
    |  |- ImageError            bytes that are no image we accept
    |  |- SchemaError           a body with missing or wrong fields, all of them at once
    |  |- Malformed             a body that does not follow its own form: 400
    |  |- TooLarge              over a stated bound: 413
    |  |- LoginNeeded           who asks is not known, or the password was wrong: 401
    |  |- NotFound              there is nothing of this name: 404
    |  `- Conflict              not as things stand: 409
    |- ModelError            a model that cannot be read, understood or built
    |- Unavailable           try again: 503 with Retry-After
    |  |- NoModel               no model serves (yet)
    |  |- Overloaded            the waiting line is full
    |  |- RateLimited           this client asks too often: 429
    |  `- StorageFull           the disk, or the room that is meant for this: 507
    |- ProtocolError         a Socket.IO peer broke the protocol; `reply` says how to answer
    |- LoopError             the Learning Loop
    |  |- LoopUnavailable       not reached, or it failed: try again
    |  `- LoopRefused           it answered no: trying the same again is useless
    `- TaskGivenUp           a vital task used up its crash budget: the node exits non-zero
"""

from collections.abc import Sequence
from typing import Any

__all__ = [
    "Conflict",
    "ImageError",
    "InputError",
    "LoginNeeded",
    "LoopError",
    "LoopNodeError",
    "LoopRefused",
    "LoopUnavailable",
    "Malformed",
    "ModelError",
    "NoModel",
    "NotFound",
    "Overloaded",
    "ProtocolError",
    "RateLimited",
    "SchemaError",
    "SettingsError",
    "StorageFull",
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


class Malformed(InputError):
    """A body that does not follow the form it announces."""


class TooLarge(InputError):
    """More bytes or pixels than the stated bound."""


class LoginNeeded(InputError):
    """Who asks has to log in; the text does not tell what was wrong with a login."""


class NotFound(InputError):
    """There is nothing of this name; the text says what was looked for."""


class Conflict(InputError):
    """Not as things stand.

    Attributes:
        detail: What the client is told; the text, unless the contract wants an object.
    """

    def __init__(self, message: str, *, detail: Any = None) -> None:
        self.detail = message if detail is None else detail
        super().__init__(message)


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


class RateLimited(Unavailable):
    """This client asks more often than it may."""


class StorageFull(Unavailable):
    """No room is left for what has to be kept; nothing of it was kept."""


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
    """The Learning Loop was not reached or failed itself: try again later.

    Attributes:
        kind: What is wrong, as one word for metrics: see `loop.faults`.
        retry_after_s: When the Loop itself said how long to wait.
    """

    def __init__(self, message: str, *, kind: str = "unreachable", retry_after_s: float | None = None) -> None:
        self.kind = kind
        self.retry_after_s = retry_after_s
        super().__init__(message)


class LoopRefused(LoopError):
    """The Learning Loop answered no.

    Attributes:
        status: The HTTP status.
        excerpt: The beginning of the body, for the log.
        kind: "login" where the user name or the password was refused; see `loop.faults`.
    """

    def __init__(self, status: int, excerpt: str, *, kind: str = "") -> None:
        self.status = status
        self.excerpt = excerpt
        self.kind = kind
        super().__init__(f"the Learning Loop answered {status}: {excerpt}")


class TaskGivenUp(LoopNodeError):
    """A vital task failed more often than its crash budget allows."""
