"""The switch by which tests of nodes silence one."""

import httpx
import pytest
import trio
import trio.testing

from loop_node.detector.talking import Talk
from loop_node.serving.app import create_app
from loop_node.serving.http_server import HttpLimits, listening_url, open_listeners, serve_http
from loop_node.supervision import Health


async def test_who_waits_goes_on_when_it_is_switched_on() -> None:
    """Off, on, off: each wait ends with the next on."""
    talk = Talk(is_on=False)
    gone_on = []

    async def wait() -> None:
        await talk.wait_on()
        gone_on.append(talk.is_on)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        talk.switch(on=False)
        await trio.testing.wait_all_tasks_blocked()
        assert gone_on == []
        talk.switch(on=True)
    assert gone_on == [True]
    with trio.fail_after(1):
        await talk.wait_on()


@pytest.mark.parametrize(("word", "status", "is_on"), [("off", 200, False), ("on", 200, True), ("maybe", 400, True)])
async def test_its_endpoint_takes_two_words(word: str, status: int, is_on: bool) -> None:
    """The same word comes back; another changes nothing."""
    talk = Talk()
    app = create_app("t", [talk.endpoint()], health=Health(), not_ready=list, max_body_bytes=1000)
    async with open_listeners("127.0.0.1", 0) as listeners, trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: serve_http(app, listeners, stop=trio.Event(), limits=HttpLimits(), ready=lambda: None)
        )
        async with httpx.AsyncClient(base_url=listening_url(listeners), trust_env=False) as client:
            answer = await client.put("/socketio", content=word)
        nursery.cancel_scope.cancel()
    assert (answer.status_code, talk.is_on) == (status, is_on)
    assert answer.json() == (word if status == 200 else {"detail": "Invalid state"})
