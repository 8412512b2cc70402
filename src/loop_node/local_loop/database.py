"""SQLite under Trio: every statement runs in a worker thread, writes one at a time.

What `write` has returned from is on disk (`synchronous=FULL`): neither a kill nor a power cut takes it back. A write that
raises, or whose process dies, has happened not at all.
"""

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final, TypeVar

import trio
from attrs import define, field

from loop_node.errors import LoopNodeError, SettingsError, StorageFull, Unavailable

from .schema import SCHEMA, SCHEMA_VERSION

__all__ = ["Database", "open_database"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_READERS: Final = 3
_PAGE_CACHE_KIB: Final = 8 << 10
_BUSY_S: Final = 30


@define(eq=False)
class Database:
    """A pool of connections, each used by one worker thread at a time."""

    _writer: sqlite3.Connection
    _readers: list[sqlite3.Connection]
    _write_lock: trio.Lock = field(factory=trio.Lock)
    _read_places: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(_READERS))
    _write_places: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1))

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run `query` in a thread, on one state of the database. Cancelled, it finishes unheard.

        Raises:
            Unavailable: The disk is at fault.
        """

        def run() -> T:
            connection = self._readers.pop()
            try:
                connection.execute("BEGIN")
                return query(connection)
            except sqlite3.OperationalError as error:
                raise _told(error) from error
            finally:
                connection.rollback()
                self._readers.append(connection)

        return await trio.to_thread.run_sync(run, limiter=self._read_places)

    async def write(self, change: Callable[[sqlite3.Connection], T], *, undo: Callable[[], object] = lambda: None) -> T:
        """Run `change` in a thread as one transaction. Cancelled while it waits, nothing happened; later, all of it.

        Args:
            change: Reads and writes.
            undo: Called in the thread, once, when `change` or its commit has failed: for what it did to files.

        Raises:
            StorageFull: The disk is full; nothing was changed.
            Unavailable: Another program keeps the database to itself; nothing was changed.
        """

        def run() -> T:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                changed = change(self._writer)
                self._writer.execute("COMMIT")
            except BaseException as error:
                if self._writer.in_transaction:
                    self._writer.rollback()
                undo()
                if isinstance(error, sqlite3.OperationalError):
                    raise _told(error) from error  # noqa: ASYNC104  # a thread knows no cancellation
                raise
            return changed

        async with self._write_lock:
            return await trio.to_thread.run_sync(run, limiter=self._write_places)


def _told(error: sqlite3.OperationalError) -> Exception:
    code = error.sqlite_errorcode & 0xFF  # without the details of extended codes
    if code == sqlite3.SQLITE_FULL:
        return StorageFull("the disk of the Learning Loop is full")
    if code == sqlite3.SQLITE_BUSY:
        return Unavailable("another program keeps the database of the Learning Loop locked")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        log.error("the database of the Learning Loop cannot be used: %s", error)
        return Unavailable(f"the database of the Learning Loop cannot be used: {error}", retry_after_s=30)
    return error


@asynccontextmanager
async def open_database(file: Path) -> AsyncIterator[Database]:
    """Open or create the database; the folder is there already.

    Raises:
        SettingsError: It cannot be opened, is no database of ours, or one of a later version.
    """
    try:
        connections = await trio.to_thread.run_sync(_connect_all, file)
    except (sqlite3.Error, OSError, LoopNodeError) as error:
        raise SettingsError([f"LOCAL_LOOP_FOLDER: {file} cannot be opened: {error}"]) from error
    database = Database(connections[0], connections[1:])
    try:
        yield database
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_close_all, connections)


def _connect_all(file: Path) -> list[sqlite3.Connection]:
    connections: list[sqlite3.Connection] = []
    try:
        connections.append(_connect(file))
        _prepare(connections[0])
        connections += [_connect(file) for _ in range(_READERS)]
    except BaseException:
        _close_all(connections)
        raise
    return connections


def _prepare(writer: sqlite3.Connection) -> None:
    (version,) = writer.execute("PRAGMA user_version").fetchone()
    if version not in (0, SCHEMA_VERSION):
        raise SettingsError([f"it is of version {version}, this program knows {SCHEMA_VERSION}"])
    if version == 0:
        writer.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
    writer.execute(
        f"PRAGMA user_version={SCHEMA_VERSION}"
    )  # a disk that cannot be written is found now, not at a login


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size=-{_PAGE_CACHE_KIB}")
    except sqlite3.Error:  # the first statement is what finds that it is no database
        connection.close()
        raise
    return connection


def _close_all(connections: list[sqlite3.Connection]) -> None:
    for connection in reversed(connections):  # the writer last: the last one to close empties the write-ahead log
        with closing(connection):
            pass
