"""From LOOP_HOST to the address that is asked. Pure.

A scheme that is written out wins. Without one, the public Learning Loop and its subdomains are asked by https, every
other host by http: Loops on a company's own network often have no certificate.
"""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

__all__ = ["login_in_clear", "loop_url"]

_PUBLIC_LOOP: Final = "learning-loop.ai"


def loop_url(host: str) -> str:
    """The address of a Learning Loop, with scheme and without a closing slash.

    Args:
        host: What LOOP_HOST may say: a host, `host:port`, or either with http:// or https:// before it.
    """
    scheme, separator, place = host.rpartition("://")
    place = place.rstrip("/")
    if not separator:
        scheme = "https" if _is_public_loop(place) else "http"
    return f"{scheme.lower()}://{place}"


def login_in_clear(url: str) -> bool:
    """Whether a user name and password sent to `url` could be read on the way: http to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def _is_public_loop(place: str) -> bool:
    name = (urlsplit(f"//{place}").hostname or "").removesuffix(".")
    return name == _PUBLIC_LOOP or name.endswith(f".{_PUBLIC_LOOP}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host.removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")
