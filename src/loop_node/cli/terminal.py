"""What verbs show: answers on stdout, a progress bar on stderr where that is a terminal."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

__all__ = ["complain", "counted", "progress", "say", "steps_of_bytes", "unusable"]


def say(line: str) -> None:
    """One line of a verb's answer; once nobody reads them any more, as behind `| head -1`, they go nowhere."""
    try:
        print(line)  # noqa: T201  # that is what it is for
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(line: str) -> None:
    """One line beside a verb's answer."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201  # to the person at the terminal


def counted(number: int, thing: str) -> str:
    """Like `1 image`, `2 images`, `no images`."""
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"


def unusable(error: OSError) -> str:
    """Which file cannot be used, and why."""
    return f"{error.filename or 'a file'} cannot be used: {error.strerror or error}"


@contextmanager
def progress(length: int, label: str) -> Iterator[Callable[..., None]]:
    """A progress bar, nothing where there is no terminal; 0 is a length that is learned on the way.

    Gives `advance(steps, said="", of=0)`: so many steps on, with a new label, of another length.
    """
    if not sys.stderr.isatty():
        yield lambda *_steps, **_named: None
        return
    with click.progressbar(length=max(length, 1), label=label, file=sys.stderr) as bar:

        def advance(steps: int, said: str = "", of: int = 0) -> None:
            if of:
                bar.length = of
            if said:
                bar.label = said
            bar.update(steps)

        yield advance


def steps_of_bytes(advance: Callable[..., None]) -> Callable[[int, int | None], None]:
    """From bytes so far to steps of a bar."""
    shown = 0

    def on_progress(so_far: int, of: int | None) -> None:
        nonlocal shown
        advance(so_far - shown, of=of or 0)
        shown = so_far

    return on_progress
