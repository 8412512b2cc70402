"""Users, sessions and the brake."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import LoginNeeded, RateLimited, SettingsError
from loop_node.local_loop.accounts import Accounts, Brake, open_accounts
from loop_node.local_loop.database import Database, open_database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "loop.sqlite3") as database:
        yield database


async def opened(
    database: Database, username: str | None = None, password: str | None = None, *, is_loopback: bool = True
) -> Accounts:
    async with open_accounts(database, username=username, password=password, is_loopback=is_loopback) as accounts:
        return accounts


async def test_a_new_store_lets_the_default_user_in(database: Database) -> None:
    """On loopback admin logs in with admin, and nobody else with anything."""
    accounts = await opened(database)
    token = await accounts.log_in("admin", "admin", "here")
    assert accounts.user_of(token) == "admin"
    for name, password in (("admin", "wrong"), ("nobody", "admin"), ("", ""), ("admin", "a" * 5000)):
        with pytest.raises(LoginNeeded, match=r"^wrong user name or password$"):
            await accounts.log_in(name, password, "here")
    assert accounts.user_of("made up") is None
    assert accounts.user_of(None) is None


async def test_sessions_outlive_a_restart_until_logged_out(database: Database) -> None:
    """A node need not log in again because the Loop was started anew."""
    accounts = await opened(database)
    token = await accounts.log_in("admin", "admin", "here")
    accounts = await opened(database)
    assert accounts.user_of(token) == "admin"
    await accounts.log_out(token)
    await accounts.log_out(token)
    assert accounts.user_of(token) is None
    assert (await opened(database)).user_of(token) is None


async def test_a_user_of_ones_own_replaces_the_default(database: Database) -> None:
    """Naming a user ends the default one and its sessions; a new password ends the sessions of the old one."""
    accounts = await opened(database)
    default = await accounts.log_in("admin", "admin", "here")
    accounts = await opened(database, "ops", "first", is_loopback=False)
    assert accounts.user_of(default) is None
    with pytest.raises(LoginNeeded):
        await accounts.log_in("admin", "admin", "here")
    token = await accounts.log_in("ops", "first", "here")
    assert (await opened(database, "ops", "first")).user_of(token) == "ops"
    accounts = await opened(database, "ops", "second")
    assert accounts.user_of(token) is None
    with pytest.raises(LoginNeeded):
        await accounts.log_in("ops", "first", "here")
    assert await accounts.log_in("ops", "second", "here")


@pytest.mark.parametrize("named", [(None, None), ("admin", "admin")])
async def test_the_default_password_is_for_this_machine_alone(
    database: Database, named: tuple[str | None, str | None]
) -> None:
    """On a network it is refused, in a new store and in one that has it already, with the cure."""
    with pytest.raises(SettingsError, match="LOOP_PASSWORD"):
        await opened(database, *named, is_loopback=False)
    await opened(database, *named)
    with pytest.raises(SettingsError, match="LOOP_PASSWORD"):
        await opened(database, is_loopback=False)


async def test_a_user_needs_a_password(database: Database) -> None:
    """Half of the two is a setting that was forgotten."""
    with pytest.raises(SettingsError, match="needs both"):
        await opened(database, "ops")


async def test_no_password_is_in_the_store(database: Database, tmp_path: Path) -> None:
    """Neither it nor a cookie can be read from the disk."""
    accounts = await opened(database, "ops", "correct horse")
    token = await accounts.log_in("ops", "correct horse", "here")
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"correct horse" not in kept
    assert token.encode() not in kept


async def test_sessions_are_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes when there are too many."""
    monkeypatch.setattr("loop_node.local_loop.accounts._MAX_SESSIONS", 4)
    accounts = await opened(database)
    tokens = [await accounts.log_in("admin", "admin", "here") for _ in range(4)]
    assert all(accounts.user_of(token) for token in tokens)
    tokens += [await accounts.log_in("admin", "admin", "here") for _ in range(2)]
    assert [accounts.user_of(token) for token in tokens] == [None, None, *["admin"] * 4]

    def count(db: sqlite3.Connection) -> int:
        return int(db.execute("SELECT count(*) FROM sessions").fetchone()[0])

    assert await database.read(count) == 4


async def test_guesses_at_once_wait_in_one_line(database: Database) -> None:
    """Asking in parallel is not faster, and the line is short."""
    accounts = await opened(database)
    accounts.max_waiting = 2
    refused = []

    async def guess() -> None:
        with pytest.raises((LoginNeeded, RateLimited)) as caught:
            await accounts.log_in("admin", "guess", "there")
        refused.append(caught.type)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(guess)
    assert sorted(refused, key=str) == [LoginNeeded, LoginNeeded, RateLimited, RateLimited]


def test_the_brake_grips_after_five_failures() -> None:
    """1, 2, 4, 8, 16 s; forgotten with a login, or after a quarter of an hour."""
    brake = Brake()
    delays = []
    for _ in range(12):
        delays.append(brake.delay_s("a", 0))
        brake.failed("a", 0)
    assert delays == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 16, 16]
    assert brake.delay_s("b", 0) == 0
    assert brake.delay_s("a", 901) == 0
    brake.succeeded("a")
    assert brake.delay_s("a", 0) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.floats(0, 5000)), max_size=200))
def test_the_brake_stays_small_and_bounded(steps: list[tuple[int, bool, float]]) -> None:
    """Whoever guesses: no delay above the longest, no more guessers than stated."""
    brake = Brake(max_remembered=7)
    now_s = 0.0
    for who, is_right, later_s in steps:
        now_s += later_s
        assert 0 <= brake.delay_s(str(who), now_s) <= brake.longest_s
        if is_right:
            brake.succeeded(str(who))
        else:
            brake.failed(str(who), now_s)
        assert len(brake._failures) <= 7
