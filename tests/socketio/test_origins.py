import pytest

from loop_node.socketio.origins import is_accepted_origin


@pytest.mark.parametrize(
    ("origin", "hosts", "allowed"),
    [
        (None, ["node"], []),
        ("", ["node"], []),
        ("http://node", ["node"], []),
        ("http://node:80", ["node"], []),
        ("https://node", ["node:443"], []),
        ("https://node", ["node"], []),
        ("http://NODE:8004", ["node:8004"], []),
        ("http://[::1]:8004", ["[::1]:8004"], []),
        ("https://public", ["public", "inner:80"], []),
        ("https://hmi.example", ["node"], ["https://hmi.example/"]),
        ("https://anyone", ["node"], ["*"]),
        ("null", ["node"], ["null"]),
    ],
)
def test_accepted(origin, hosts, allowed):
    """No origin, our own host behind any proxy, and those listed."""
    assert is_accepted_origin(origin, hosts, allowed)


@pytest.mark.parametrize(
    ("origin", "hosts"),
    [
        ("http://evil", ["node"]),
        ("http://node.evil", ["node"]),
        ("http://node:81", ["node"]),
        ("http://node", ["node:8004"]),
        ("null", ["node"]),
        ("null", []),
        ("file://node", ["node"]),
        ("http://", ["node"]),
        ("http://node:port", ["node:port"]),
        ("http://[", ["["]),
    ],
)
def test_refused(origin, hosts):
    """Another host, another port, and what is no origin."""
    assert not is_accepted_origin(origin, hosts, ["https://hmi.example"])
