"""What is kept, and what the accounts say of it."""

import pytest

from loop_node.detector.outbox import Limits

from .conftest import METADATA, OUTBOX, Loop, balanced, open_running


async def test_x(disk, autojump_clock):
    """X."""
    loop = Loop()
    async with open_running(disk, loop) as outbox:
        await outbox.store(b"jpeg", METADATA, priority=True)
        await outbox.wait_idle()
        print(outbox.stats(), disk.names())
        assert balanced(outbox.stats())
    assert 0
