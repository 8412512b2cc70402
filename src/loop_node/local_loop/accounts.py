"""Who may ask: users with hashed passwords, sessions by cookie, and the brake on those who guess.

A session lives 30 days, over restarts too; of its cookie only the hash is kept. There are at most 10,000: a new one then
takes the place of the oldest.
"""

import hashlib
import hmac
import logging
import secrets
import sqlite3
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio
from attrs import define, field

from loop_node.errors import LoginNeeded, RateLimited, SettingsError

from .database import Database

__all__ = ["DEFAULT_USER", "Accounts", "Brake", "open_accounts"]

log = logging.getLogger(__name__)

DEFAULT_USER: Final = ("admin", "admin")
SESSION_S: Final = 30 * 24 * 3600
_MAX_SESSIONS: Final = 10_000
_MAX_LOGIN_CHARACTERS: Final = 1000
_HASHES_AT_ONCE: Final = 2  # each takes 16 MiB and 50 ms


def _hash(password: str, salt: bytes) -> bytes:
    """Scrypt (RFC 7914) with 16 MiB."""
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


@define
class Brake:
    """Slows down whoever gives a wrong password again and again. PURE: times are handed in.

    After `free_failures` in a row each further attempt waits, 1 s, 2 s, 4 s, at most `longest_s`; failures are forgotten
    after `forget_s`, or with a login. Remembers `max_remembered` guessers, the last ones.
    """

    free_failures: int = 5
    longest_s: float = 16
    forget_s: float = 900
    max_remembered: int = 1000
    _failures: OrderedDict[str, tuple[int, float]] = field(factory=OrderedDict)

    def delay_s(self, who: str, now_s: float) -> float:
        """How long the next attempt has to wait."""
        count, since_s = self._failures.get(who, (0, now_s))
        if count < self.free_failures or now_s - since_s > self.forget_s:
            return 0
        return float(min(self.longest_s, 2 ** min(count - self.free_failures, 30)))

    def failed(self, who: str, now_s: float) -> None:
        """Count a wrong password."""
        count, since_s = self._failures.pop(who, (0, now_s))
        self._failures[who] = (1 if now_s - since_s > self.forget_s else count + 1, now_s)
        if len(self._failures) > self.max_remembered:
            self._failures.popitem(last=False)

    def succeeded(self, who: str) -> None:
        """Forget the failures before."""
        self._failures.pop(who, None)


@define(eq=False)
class _Door:
    """Attempts of one guesser go one after another; `waiting` counts those inside."""

    lock: trio.Lock = field(factory=trio.Lock)
    waiting: int = 0


@define(eq=False)
class Accounts:
    """Users and sessions of a store."""

    _database: Database
    _sessions: dict[bytes, tuple[str, float]]
    _brake: Brake = field(factory=Brake)
    _doors: dict[str, _Door] = field(factory=dict)
    _hashing: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(_HASHES_AT_ONCE))

    max_waiting: int = 10

    async def log_in(self, name: str, password: str, address: str) -> str:
        """Open a session; returns the token for its cookie.

        Raises:
            LoginNeeded: No such user, or another password; the text does not tell which.
            RateLimited: Too many attempts of this user from this address wait already.
        """
        if len(name) + len(password) > _MAX_LOGIN_CHARACTERS:
            raise LoginNeeded("wrong user name or password")
        who = f"{address} {name}"
        door = self._doors.setdefault(who, _Door())
        if door.waiting >= self.max_waiting:
            raise RateLimited("too many logins at once", retry_after_s=int(self._brake.longest_s))
        door.waiting += 1
        try:
            async with door.lock:
                return await self._try(name, password, who)
        finally:
            door.waiting -= 1
            if not door.waiting:
                self._doors.pop(who, None)

    async def _try(self, name: str, password: str, who: str) -> str:
        delay_s = self._brake.delay_s(who, trio.current_time())
        if delay_s:
            log.warning(
                "a login of %.60r is held up for %g s after wrong passwords (%s)", name, delay_s, who.split()[0]
            )
            await trio.sleep(delay_s)
        if not await self._is_right(name, password):
            self._brake.failed(who, trio.current_time())
            raise LoginNeeded("wrong user name or password")
        self._brake.succeeded(who)
        return await self._open_session(name)

    async def _is_right(self, name: str, password: str) -> bool:
        found = await self._database.read(lambda db: _find_user(db, name))
        salt, right = found or (b"", b"")
        given = await trio.to_thread.run_sync(_hash, password, salt, limiter=self._hashing)
        return hmac.compare_digest(given, right)  # the same work for an unknown user, so that time tells nothing

    async def _open_session(self, name: str) -> str:
        token, now_s = secrets.token_urlsafe(32), time.time()
        digest, expires_s = _digest(token), now_s + SESSION_S
        too_many = max(0, len(self._sessions) - _MAX_SESSIONS + 1)
        stale = sorted(self._sessions, key=lambda one: self._sessions[one][1])[:too_many]
        gone = [*stale, *(one for one, (_, until_s) in self._sessions.items() if until_s <= now_s)]

        def change(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM sessions WHERE token_hash = ?", [(one,) for one in gone])
            db.execute("INSERT INTO sessions VALUES (?, ?, ?)", (digest, name, expires_s))

        await self._database.write(change)
        for one in gone:
            self._sessions.pop(one, None)
        self._sessions[digest] = (name, expires_s)
        return token

    def user_of(self, token: str | None) -> str | None:
        """Whose session this cookie belongs to; None for none that is still good."""
        name, expires_s = self._sessions.get(_digest(token), (None, 0.0)) if token else (None, 0.0)
        return name if expires_s > time.time() else None

    async def log_out(self, token: str | None) -> None:
        """End the session of this cookie, if there is one."""
        if token and self._sessions.pop(_digest(token), None):
            await self._database.write(
                lambda db: db.execute("DELETE FROM sessions WHERE token_hash = ?", (_digest(token),))
            )


@asynccontextmanager
async def open_accounts(
    database: Database, *, username: str | None, password: str | None, is_loopback: bool
) -> AsyncIterator[Accounts]:
    """Accounts with at least one user.

    Args:
        database: The store's.
        username: The operator's user; gets this password, also if it had another one before. None: the default user,
            for a store that has none.
        password: Its password.
        is_loopback: Whether only this machine can ask.

    Raises:
        SettingsError: Others can ask, and the default password would let them in; or one of the two is missing.
    """
    if (username is None) != (password is None):
        raise SettingsError(["LOOP_USERNAME and LOOP_PASSWORD: the Learning Loop's user needs both"])
    named = None if username is None or password is None else (username, password)
    has_default = await database.write(lambda db: _ensure_user(db, named, allow_default=is_loopback))
    if has_default and not is_loopback:
        raise SettingsError(
            [
                "NODE_HOST is no loopback address, and the Learning Loop would let in everybody with the default password: "
                "set LOOP_USERNAME and LOOP_PASSWORD to a user and a password of yours"
            ]
        )
    yield Accounts(database, await database.read(_sessions))


def _find_user(db: sqlite3.Connection, name: str) -> tuple[bytes, bytes] | None:
    row = db.execute("SELECT salt, password_hash FROM users WHERE name = ?", (name,)).fetchone()
    return tuple(row) if row else None


def _ensure_user(db: sqlite3.Connection, named: tuple[str, str] | None, *, allow_default: bool) -> bool:
    """See to it that there is a user; returns whether the default password lets somebody in."""
    if named is None:
        has_default = bool(db.execute("SELECT 1 FROM users WHERE is_default").fetchone())
        if not has_default and not db.execute("SELECT 1 FROM users").fetchone():
            if allow_default:
                _put_user(db, *DEFAULT_USER, is_default=True)
            return True
        return has_default
    is_default = named == DEFAULT_USER
    if not is_default:
        db.execute("DELETE FROM users WHERE is_default")
    name, password = named
    known = _find_user(db, name)
    if known is None or not hmac.compare_digest(_hash(password, known[0]), known[1]):
        _put_user(db, name, password, is_default=is_default)
    return is_default


def _put_user(db: sqlite3.Connection, name: str, password: str, *, is_default: bool) -> None:
    """Write a user down; with another password than before, the sessions of the old one end."""
    salt = secrets.token_bytes(16)
    db.execute("DELETE FROM users WHERE name = ?", (name,))
    db.execute("INSERT INTO users VALUES (?, ?, ?, ?)", (name, salt, _hash(password, salt), is_default))


def _sessions(db: sqlite3.Connection) -> dict[bytes, tuple[str, float]]:
    rows = db.execute("SELECT token_hash, user, expires_s FROM sessions WHERE expires_s > ?", (time.time(),))
    return {digest: (user, expires_s) for digest, user, expires_s in rows}
