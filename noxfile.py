"""Everything that can be run on the code: `nox` alone is what CI runs, `nox --list` shows the rest."""

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "venv"

PYPROJECT = nox.project.load_toml("pyproject.toml")
LINTED = ("src", "tests", "examples", "bench", "noxfile.py")
ASYNC_RULES = (
    "--select=ASYNC1,ASYNC2,ASYNC3,ASYNC4",
    "--ignore=ASYNC122,ASYNC124,ASYNC127",  # 122 is of no concern to this trio; quart's views are async without awaiting; httpx is the product owner's choice
    "--per-file-ignores=tests/*:ASYNC110",  # another process can only be polled
    "--startable-in-context-manager=supervise,watch_signals,_run_peer",  # ours that report started
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
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "report", "--fail-under=90" if not session.posargs else "--fail-under=0")


@nox.session
def freeze(session: nox.Session) -> None:
    """Everything in one folder, dist/loop-node-<version>, that needs no Python."""
    session.install(".", "pyinstaller>=6.22")
    session.run("pyinstaller", "--noconfirm", "--log-level=WARN", "PyInstaller.spec")
