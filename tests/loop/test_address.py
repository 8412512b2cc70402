"""Which address LOOP_HOST means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.loop.address import login_in_clear, loop_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("learning-loop.ai", "https://learning-loop.ai"),
        ("Preview.Learning-Loop.AI.", "https://Preview.Learning-Loop.AI."),
        ("learning-loop.ai:8443", "https://learning-loop.ai:8443"),
        ("http://learning-loop.ai", "http://learning-loop.ai"),
        ("HTTPS://loop.factory.local/", "https://loop.factory.local"),
        ("loop.factory.local", "http://loop.factory.local"),
        ("x-learning-loop.ai", "http://x-learning-loop.ai"),
        ("learning-loop.ai.evil.example", "http://learning-loop.ai.evil.example"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_the_scheme(host, url):
    """One that is written wins; else https for the public Loop and its subdomains alone."""
    assert loop_url(host) == url


labels = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=8)


@given(st.lists(labels, max_size=3), st.sampled_from(["", ".", ":443", ".:80"]), st.booleans())
def test_every_subdomain_is_asked_by_https(subdomains, end, loud):
    """Any case, any depth, with a closing dot, with a port."""
    host = ".".join([*subdomains, "learning-loop.ai"]) + end
    assert loop_url(host.upper() if loud else host).startswith("https://")


@given(labels, st.lists(labels, min_size=1, max_size=3))
def test_the_name_of_the_loop_inside_of_another_is_no_loop(before, after):
    """Neither glued to a label nor followed by another domain."""
    assert loop_url(f"{before}learning-loop.ai").startswith("http://")
    assert loop_url(".".join(["learning-loop.ai", *after])).startswith("http://") or after[-2:] == [
        "learning-loop",
        "ai",
    ]


@pytest.mark.parametrize(
    ("url", "readable"),
    [
        ("http://loop.factory.local", True),
        ("http://192.168.1.5:8000", True),
        ("https://192.168.1.5", False),
        ("http://127.8.0.1", False),
        ("http://[::1]:80", False),
        ("http://LocalHost:80", False),
        ("http://localhost.evil.example", True),
        ("http://0.0.0.0", True),
    ],
)
def test_who_could_read_a_password(url, readable):
    """Only http that leaves this machine is worth the warning."""
    assert login_in_clear(url) is readable
