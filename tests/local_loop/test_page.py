"""The pages for people: what stands in them, whom they let in, and that nothing in them is taken for markup."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import httpx
import pytest
import trio
from attrs import define, field

from loop_node.local_loop.accounts import SESSION_S, Accounts, Brake, open_accounts
from loop_node.local_loop.database import Database, open_database
from loop_node.local_loop.images import newest_of_state
from loop_node.local_loop.models import create_model, set_target
from loop_node.local_loop.nodes import NodeKind, put_node
from loop_node.local_loop.page import IMAGES_PER_PAGE, page_endpoints
from loop_node.local_loop.projects import Categories, Project, create_project, find_project, now
from loop_node.local_loop.rendering import (
    MAX_ROWS,
    ImagesView,
    OverviewView,
    ProjectLine,
    ProjectView,
    render_fault,
    render_images,
    render_login,
    render_overview,
    render_project,
)
from loop_node.local_loop.trainings import begin
from loop_node.schemas.local_loop import ImageState, NewCategory
from loop_node.serving.app import create_app
from loop_node.serving.http_server import HttpLimits, open_listeners, serve_http
from loop_node.serving.openapi import SESSION_COOKIE
from loop_node.supervision import Health

HOSTILE = [
    "<script>alert(1)</script>",
    "\"' onmouseover='alert(1)",
    "</title></style><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "Prüfstand 検査 🤖 \u202eabc",
    "a/../b?c=d#e&amp;f",
    "x" * 20_000,
]
NO_IMAGES = {state.value: 0 for state in ImageState}
TIME = "2026-01-02T03:04:05.678901"


@define
class Markup(HTMLParser):
    """What a browser makes of a page: its elements, with their attributes, and its text."""

    elements: list[tuple[str, dict[str, str | None]]] = field(factory=list)
    text: str = ""

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, attribute: str) -> list[str]:
        return [found.get(attribute) or "" for name, found in self.elements if name == tag]


def parsed(html: str) -> Markup:
    markup = Markup()
    markup.feed(html)
    return markup


def project_of(organization: str = "acme", project: str = "screws", categories: Any = ()) -> Project:
    return Project(
        number=1,
        organization=organization,
        project=project,
        name=project,
        created=TIME,
        target_model=None,
        categories=Categories(tuple(categories)),
    )


def training_of(text: str = "t", **changed: Any) -> dict[str, Any]:
    return {
        "training_number": 3,
        "id": text,
        "trainer_id": text,
        "trainer_name": text,
        "model_variant": text,
        "base_model_id": None,
        "hyperparameters": {},
        "state": text,
        "progress": 0.42,
        "errors": {"training": text},
        "started": TIME,
        "ended": None,
    } | changed


def model_of(text: str = "m", **changed: Any) -> dict[str, Any]:
    return {
        "id": text,
        "version": "1.0",
        "formats": [text],
        "created": TIME,
        "comment": text,
        "training_number": None,
        "is_target": True,
    } | changed


def node_of(text: str = "n", **changed: Any) -> dict[str, Any]:
    return {
        "kind": NodeKind.TRAINER.value,
        "id": text,
        "name": text,
        "organization": text,
        "project": text,
        "connected": False,
        "seen": TIME,
        "status": {"state": text, "current_model": text, "errors": {text: text}},
    } | changed


def record_of(text: str = "i", **changed: Any) -> dict[str, Any]:
    lists = ("annotations", "detections")
    return {
        "id": text,
        "name": text,
        "set": "train",
        "width": 640,
        "height": 480,
        "size_bytes": 123_456,
        "tags": [{"id": text, "name": text}],
        "classification_annotation": None,
        "classification_detections": [],
        **{f"{kind}_{one}": [] for kind in ("box", "point", "segmentation") for one in lists},
    } | changed


def overview(**changed: Any) -> str:
    return render_overview(OverviewView(**{"user": "u", "now": TIME, "projects": [], "nodes": []} | changed))


def line_of(project: Project, **changed: Any) -> ProjectLine:
    nothing = {"counts": NO_IMAGES, "latest_version": None, "target_version": None}
    return ProjectLine(**{"project": project} | nothing | changed)


def project_page(**changed: Any) -> str:
    given = {"user": "u", "now": TIME, "project": project_of(), "counts": NO_IMAGES, "models": [], "trainings": []}
    return render_project(ProjectView(**given | changed))


def images_page(**changed: Any) -> str:
    given = {"user": "u", "project": project_of(), "counts": NO_IMAGES, "state": ImageState.INBOX, "records": []}
    return render_images(ImagesView(**given | {"page": 1, "page_count": 1} | changed))


def all_pages(text: str) -> Iterator[str]:
    """Every page, with this text wherever a text of others may stand."""
    project = project_of(text, text, [NewCategory(name=text, color=text, hotkey=text, description=text, id="c")])
    counts = NO_IMAGES | {"inbox": 1}
    line = line_of(project, counts=counts, latest_version=text, target_version=text, trainings=[training_of(text)])
    yield overview(user=text, projects=[line], nodes=[node_of(text)])
    yield project_page(user=text, project=project, models=[model_of(text)], trainings=[training_of(text)])
    yield images_page(user=text, project=project, records=[record_of(text)])
    yield render_login(text)
    yield render_fault(404, text, text)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:10]))
def test_no_text_becomes_markup(text: str) -> None:
    """A page with a hostile text has the elements and attributes of the same page with a harmless one."""
    for hostile, harmless in zip(all_pages(text), all_pages("word"), strict=True):
        shapes = [[(tag, sorted(found)) for tag, found in parsed(html).elements] for html in (hostile, harmless)]
        assert shapes[0] == shapes[1]
        assert text in parsed(hostile).text


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:10]))
def test_no_text_leads_elsewhere(text: str) -> None:
    """Whatever a project is called, links and pictures stay below the paths that are meant."""
    for html in all_pages(text):
        addresses = parsed(html).values("a", "href") + parsed(html).values("img", "src")
        for address in addresses:
            assert address == "/" or address.startswith(("/projects/", "/api/"))
            assert not set(address) & set("<>\"' #?&")
            assert "/../" not in address


def test_a_color_that_is_none_stays_out_of_the_style() -> None:
    """Only hexadecimal colours reach a style attribute."""
    colors = ["#e6194b", "red; background: url(//example.org)", None, "#fff; x: y"]
    categories = [NewCategory(id=str(n), name=str(n), color=color) for n, color in enumerate(colors)]
    html = project_page(project=project_of(categories=categories))
    assert [style for style in parsed(html).values("span", "style") if style] == ["background: #e6194b"]


def test_pages_load_nothing_from_elsewhere() -> None:
    """No script, no style sheet, no absolute address: the pages are whole without a network."""
    for html in all_pages("word"):
        tags = {tag for tag, _ in parsed(html).elements}
        assert not tags & {"script", "link", "iframe", "object"}
        assert "http:" not in html
        assert "https:" not in html


def test_an_empty_store() -> None:
    """Without projects and nodes the overview says so, and how to begin."""
    text = parsed(overview()).text
    assert "No project yet" in text
    assert "No node has told of itself yet" in text
    assert "None." in parsed(project_page()).text
    assert "No image is in this state" in parsed(images_page()).text


def test_the_overview() -> None:
    """Counts lead to their images; models, nodes and running trainings stand there."""
    counts = NO_IMAGES | {"inbox": 7}
    line = line_of(project_of("a b", "ü"), counts=counts, latest_version="2.1", target_version="1.3")
    nodes = [
        node_of("trainer one", connected=True),
        node_of("camera", kind="detector", status={"state": "idle", "current_model": "1.3", "errors": {}}),
        node_of("odd", status={"state": 5, "errors": "no mapping"}),
    ]
    page = parsed(overview(projects=[line_of(project_of()), line], nodes=nodes))
    assert "/projects/a%20b/%C3%BC/images/inbox" in page.values("a", "href")
    assert "/projects/acme/screws/images/inbox" not in page.values("a", "href")
    for said in ("2.1", "1.3", "trainer one", "by REST", "yes", "odd", "2026-01-02 03:04:05"):
        assert said in page.text
    assert set(page.values("time", "datetime")) == {"2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(
    ("said", "shown"), [(0.42, "0.42"), (7, "1.0"), (-1.0, "0.0"), (None, None), (float("nan"), None)]
)
def test_progress(said: float | None, shown: str | None) -> None:
    """It is drawn within its bounds, or not at all."""
    page = parsed(project_page(trainings=[training_of(progress=said)]))
    assert page.values("progress", "value") == ([] if shown is None else [shown])


def test_long_lists_are_cut() -> None:
    """A table has the newest hundred, and says how many there are."""
    many = MAX_ROWS + 23
    page = parsed(project_page(models=[model_of(version=f"{n}.0") for n in range(many)]))
    assert page.values("th", "scope").count("row") == MAX_ROWS
    assert f"The newest {MAX_ROWS} of {many} are shown." in page.text
    assert f"newest {MAX_ROWS} of {many}" in overview(nodes=[node_of()] * many)


def test_an_image() -> None:
    """Its thumbnail leads to its bytes; beside it stands what is known of it."""
    record = record_of(
        "id1",
        name="part 7",
        tags=[{"id": "a", "name": "night"}],
        box_annotations=[{}, {}],
        classification_annotation={},
        segmentation_detections=[{}],
    )
    page = parsed(images_page(records=[record], counts=NO_IMAGES | {"inbox": 1}))
    assert page.values("img", "src") == ["/api/acme/projects/screws/images/id1/thumbnail"]
    assert page.values("img", "alt") == ["part 7"]
    assert "/api/acme/projects/screws/images/id1/main" in page.values("a", "href")
    for said in (
        "part 7",
        "640 \N{MULTIPLICATION SIGN} 480, 123 kB",
        "Set: train",
        "night",
        "Annotations: 3",
        "Detections: 1",
    ):
        assert said in page.text


# over a real server


@define
class SmallLoop:
    database: Database
    accounts: Accounts
    connected: set[str] = field(factory=set)

    def connected_ids(self) -> set[str]:
        return self.connected


@define
class Site:
    loop: SmallLoop
    client: httpx.AsyncClient

    async def log_in(self, **changed: str) -> httpx.Response:
        return await self.client.post("/login", data={"username": "admin", "password": "admin"} | changed)

    async def write(self, change: Callable[[Connection], Any]) -> Any:
        return await self.loop.database.write(change)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def open_site(folder: Path) -> AsyncIterator[Site]:
    async with (
        open_database(folder / "loop.sqlite3") as database,
        open_accounts(database, username=None, password=None, is_loopback=True) as accounts,
        open_listeners("127.0.0.1", 0) as listeners,
        trio.open_nursery() as nursery,
    ):
        loop, ready = SmallLoop(database, accounts), trio.Event()
        app = create_app("test", page_endpoints(loop), health=Health(), not_ready=list, max_body_bytes=10_000)

        async def run() -> None:
            await serve_http(app, listeners, stop=trio.Event(), limits=HttpLimits(), ready=ready.set)

        nursery.start_soon(run)
        await ready.wait()
        port = listeners[0].socket.getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield Site(loop, client)
        nursery.cancel_scope.cancel()


def add_images(db: Connection, project: Project, state: str, count: int) -> None:
    db.executemany(
        'INSERT INTO images (id, project_id, name, state, "set", source, created, received, width, height, size_bytes,'
        " tags_json, annotations_json) VALUES (?, ?, ?, ?, 'train', NULL, ?, ?, 640, 480, 1000, ?, ?)",
        [
            (
                f"{state}-{n}",
                project.number,
                f"{state} {n}",
                state,
                now(),
                now(),
                '["night"]',
                json.dumps(NO_ANNOTATIONS),
            )
            for n in range(count)
        ],
    )


NO_ANNOTATIONS = {
    "box_annotations": [],
    "point_annotations": [],
    "segmentation_annotations": [],
    "classification_annotation": None,
}

PATHS = ["/", "/projects/acme/screws", "/projects/acme/screws/images/inbox", "/projects/a/b/images/none?page=x"]


@pytest.mark.parametrize("cookie", [None, "", "forged"])
async def test_without_a_session(site: Site, cookie: str | None) -> None:
    """Every page leads to the login, also those that are not there."""
    headers = {} if cookie is None else {"Cookie": f"{SESSION_COOKIE}={cookie}"}
    for path in PATHS:
        answer = await site.client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["Location"], answer.content) == (303, "/login", b"")


async def test_logging_in_and_out(site: Site) -> None:
    """The form opens a session that lasts until it is ended; its cookie is for this site's requests alone."""
    assert "password" in parsed((await site.client.get("/login")).text).values("input", "name")
    answer = await site.log_in()
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    attributes = {part.strip() for part in answer.headers["Set-Cookie"].split(";")}
    assert {"HttpOnly", "SameSite=Lax", "Path=/", f"Max-Age={SESSION_S}"} <= attributes
    overview_page = await site.client.get("/")
    assert overview_page.status_code == 200
    assert "admin" in parsed(overview_page.text).text
    kept = site.client.cookies[SESSION_COOKIE]
    answer = await site.client.post("/logout")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert SESSION_COOKIE not in site.client.cookies
    assert (await site.client.get("/", headers={"Cookie": f"{SESSION_COOKIE}={kept}"})).status_code == 303
    assert (await site.client.post("/logout")).status_code == 303


@pytest.mark.parametrize("changed", [{"password": "<b>"}, {"username": "nobody"}, {"username": "", "password": ""}])
async def test_a_wrong_login(site: Site, changed: dict[str, str]) -> None:
    """The form again, with one line that does not tell which of the two was wrong."""
    answer = await site.log_in(**changed)
    assert answer.status_code == 401
    assert "wrong user name or password." in parsed(answer.text).text
    assert "password" in parsed(answer.text).values("input", "name")
    assert "Set-Cookie" not in answer.headers


async def test_too_many_logins(site: Site) -> None:
    """Who guesses on too many connections at once is told when to come back."""
    site.loop.accounts.max_waiting = 0
    answer = await site.log_in()
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, str(int(Brake().longest_s)))
    assert "too many logins" in parsed(answer.text).text


@pytest.mark.parametrize("body", [b"\xff\xfe", b"username=%ff", b"&".join(b"a=b" for _ in range(100))])
async def test_a_login_that_is_no_form(site: Site, body: bytes) -> None:
    """A broken body is the sender's fault."""
    answer = await site.client.post("/login", content=body)
    assert answer.status_code == 400


async def test_headers(site: Site) -> None:
    """Each page forbids whatever it does not need, and to be kept."""
    before = await site.client.get("/login"), await site.log_in(username="x"), await site.client.get("/")
    await site.log_in()
    for answer in (*before, *[await site.client.get(path) for path in PATHS]):
        assert answer.headers["Content-Security-Policy"] == (
            "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; form-action 'self'"
        )
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/projects/acme/none", 404, "there is no project acme/none"),
        ("/projects/acme/none/images/inbox", 404, "there is no project acme/none"),
        ("/projects/acme/screws/images/%3Cb%3E", 404, "none is in '<b>'"),
        ("/projects/acme/screws/images/inbox?page=0", 422, "page: a number from 1 on"),
        ("/projects/acme/screws/images/inbox?page=%D9%A1", 422, "page: a number from 1 on"),
        ("/projects/acme/screws/images/inbox?page=" + "9" * 5000, 422, "page: a number from 1 on"),
    ],
)
async def test_what_is_not_there(site: Site, path: str, status: int, said: str) -> None:
    """A page that says what is wrong, with the way back."""
    await site.write(lambda db: create_project(db, "acme", "screws", []))
    await site.log_in()
    answer = await site.client.get(path)
    assert answer.status_code == status
    assert said in parsed(answer.text).text


async def test_pages_of_what_is_in_the_store(site: Site) -> None:
    """Projects, models, trainings and nodes come from the store; names stand quoted in addresses."""

    def fill(db: Connection) -> None:
        project = create_project(db, "acme & co", "it's ü", [NewCategory(name="<scratch>")])
        create_model(db, project, major=1, comment="first")
        create_model(db, project, major=1, comment="better")
        set_target(db, project, "1.0")
        begin(
            db,
            project,
            trainer_id="t1",
            trainer_name="Trainer 1",
            model_variant="n",
            base_model=None,
            hyperparameters={},
        )
        put_node(db, NodeKind.TRAINER, "t1", "Trainer 1", {"state": "running"})
        add_images(db, project, "review", 2)

    await site.write(fill)
    site.loop.connected.add("t1")
    await site.log_in()
    front = parsed((await site.client.get("/")).text)
    assert "/projects/acme%20%26%20co/it%27s%20%C3%BC/images/review" in front.values("a", "href")
    for said in ("acme & co / it's ü", "1.1", "1.0", "Trainer 1", "requested", "running"):
        assert said in front.text
    project = parsed((await site.client.get("/projects/acme%20%26%20co/it%27s%20%C3%BC")).text)
    for said in ("<scratch>", "deployment target", "better", "Trainer 1", "review 2"):
        assert said in project.text
    images = parsed((await site.client.get("/projects/acme%20%26%20co/it%27s%20%C3%BC/images/review")).text)
    assert images.values("img", "alt") == ["review 1", "review 0"]


async def test_paging(site: Site) -> None:
    """Sixty a page, the newest first, each image once; a page behind the last one is the last one."""
    count = 2 * IMAGES_PER_PAGE + 5

    def fill(db: Connection) -> None:
        project = create_project(db, "acme", "screws", [])
        add_images(db, create_project(db, "acme", "others", []), "trash", 3)
        add_images(db, project, "inbox", count)
        add_images(db, project, "complete", 1)

    await site.write(fill)
    await site.log_in()
    seen, links = [], []
    for number in (1, 2, 3, 999_999_999):
        page = parsed((await site.client.get(f"/projects/acme/screws/images/inbox?page={number}")).text)
        seen.append(page.values("img", "alt"))
        links.append({link for link in page.values("a", "href") if link.startswith("?")})
    expected = [f"inbox {n}" for n in reversed(range(count))]
    assert seen[0] + seen[1] + seen[2] == expected
    assert [len(names) for names in seen] == [60, 60, 5, 5]
    assert links == [{"?page=2"}, {"?page=1", "?page=3"}, {"?page=2"}, {"?page=2"}]
    project = await site.loop.database.read(lambda db: find_project(db, "acme", "screws"))
    assert await site.loop.database.read(
        lambda db: newest_of_state(db, project, ImageState.COMPLETE, limit=5, offset=0)
    ) == ["complete-0"]


async def test_pages_are_no_api(site: Site) -> None:
    """The description for machines leaves the pages out."""
    described = (await site.client.get("/openapi.json")).json()
    assert not {"/", "/login", "/logout", "/projects/{organization}/{project}"} & set(described["paths"])
    assert "/healthz" in described["paths"]
