"""The description of the HTTP side, as a client sees it."""

import re
from urllib.parse import urljoin

import httpx
import pytest
from openapi_spec_validator import validate

pytestmark = pytest.mark.process


async def test_openapi_json_is_valid_and_complete(client: httpx.AsyncClient) -> None:
    """The document is valid OpenAPI, and every GET it describes is there."""
    document = (await client.get("/openapi.json")).json()
    validate(document)
    for path, operations in document["paths"].items():
        if "get" in operations:
            assert (await client.get(path)).status_code == 200


async def test_the_page_needs_no_internet(client: httpx.AsyncClient) -> None:
    """Whatever the page refers to is served by the node itself."""
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"(?:https?:)?//", page.text.replace("<!DOCTYPE", ""))
    wanted = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert len(wanted) >= 3
    for reference in wanted:
        answer = await client.get(urljoin(str(page.url), reference))
        assert answer.status_code == 200
        assert answer.content
    start = (await client.get("/docs/start.js")).text
    assert "//" not in start
    (described_at,) = re.findall(r"url: '([^']+)'", start)
    assert (await client.get(urljoin(str(page.url), described_at))).json()["openapi"]


async def test_the_styles_load_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    """Fonts and pictures of the page's style sheet are inside of it."""
    styles = (await client.get("/docs/swagger-ui.css")).text
    assert all(url.startswith("data:") for url in re.findall(r"""url\(["']?([^"')]+)""", styles))
