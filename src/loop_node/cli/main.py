"""The verbs of `loop-node`, their exit codes, and what is said on the way out.

Exit codes: 0 clean, 1 crash, 2 usage, 75 start me again, 78 configuration, 130 interrupted before it was up.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib import resources
from importlib.metadata import version
from typing import Final, NoReturn

import attrs
import trio

from loop_node import logs
from loop_node.cli.loop_verbs import add_asking_verbs, run_asking_verb
from loop_node.cli.outbox_verbs import add_outbox_verbs, run_outbox_verb
from loop_node.cli.terminal import complain, say
from loop_node.errors import LoopNodeError, SettingsError
from loop_node.settings import VERBS, Settings, read_process_settings, settings_text

__all__ = ["main", "start"]

logger = logging.getLogger(__name__)

CRASH: Final = 1
USAGE: Final = 2
CONFIGURATION: Final = 78
INTERRUPTED: Final = 130


def start() -> NoReturn:
    """The entry point of the process.

    It ends without Python's own clean-up: a thread that was left behind inside OpenVINO, compiling a model for example,
    would find its interpreter gone and abort the process.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # until the node itself listens to signals
    try:
        code = main()
    except SystemExit as error:  # argparse
        code = error.code if isinstance(error.code, int) else USAGE
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: The command line after the program's name; None takes it from the process.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (LoopNodeError, BaseExceptionGroup) as error:
        if any(isinstance(leaf, KeyboardInterrupt) for leaf in _leaves(error)):
            return INTERRUPTED
        return _farewell(options.verb, error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loop-node", description="Finds things in images and learns from the ones it was unsure of."
    )
    parser.add_argument("--version", action="version", version=f"loop-node {version('loop-node')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    detector = verbs.add_parser("detector", help="serve a model to robots and machines")
    detector.set_defaults(run=_detector)
    _add_model(detector)
    detector.add_argument("--logic", metavar="FILE.py:NAME", help="a detector logic factory of your own")
    demo = verbs.add_parser("demo", help="a Learning Loop with a COCO model and a detector that follows it")
    demo.set_defaults(run=_demo)
    loop = verbs.add_parser("loop", help="a Learning Loop for this machine, and what people do with one")
    loop.set_defaults(run=_loop)
    add_asking_verbs(loop)
    outbox = verbs.add_parser("outbox", help="what lies in the outbox of the detector on this machine")
    outbox.set_defaults(run=_outbox)
    add_outbox_verbs(outbox)
    settings = verbs.add_parser("settings", help="print the settings in force")
    settings.set_defaults(run=_settings)
    settings.add_argument(
        "for_verb", nargs="?", choices=VERBS, default="detector", metavar="FOR", help=", ".join(VERBS)
    )
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="a model folder, model zip, .xml, .onnx, .tflite, or coco; beats MODEL")


def _detector(options: argparse.Namespace) -> None:
    from loop_node.detector.logic import load_factory  # heavy; other verbs start without it
    from loop_node.detector.node import run_detector  # the same

    settings = _start(options)
    factory = load_factory(options.logic) if options.logic else None
    trio.run(partial(run_detector, settings, factory=factory))


def _demo(options: argparse.Namespace) -> None:
    from loop_node.cli.demo import run_demo  # heavy; other verbs start without it

    trio.run(partial(run_demo, _start(options), announce=_invite))


def _loop(options: argparse.Namespace) -> None:
    if options.asks:
        settings = _start(options)
        logging.getLogger("loop_node").setLevel(logging.CRITICAL)  # what is wrong is this verb's answer, said once
        run_asking_verb(options, settings)
        return
    from loop_node.local_loop.node import run_loop  # heavy; other verbs start without it

    trio.run(partial(run_loop, _start(options), announce=_invite_to_loop))


def _outbox(options: argparse.Namespace) -> None:
    settings, _ = read_process_settings("detector")
    run_outbox_verb(options, settings.data_folder)


def _invite_to_loop(url: str) -> None:
    complain(f"The Learning Loop is at {url} (Ctrl-C ends it)")
    complain(f"API page:  {url}/docs")


def _invite(loop_url: str, url: str) -> None:
    photo = resources.files("loop_node") / "bundled" / "photos" / "astronaut.jpg"
    complain(f"A detector with the COCO model is starting at {url} (Ctrl-C ends all of it)")
    complain(f"Try it:         curl -F 'file=@{photo}' {url}/detect")
    complain(f"Keep an image:  curl -F 'files=@{photo}' {url}/upload")
    complain(
        f"The Learning Loop it follows: {loop_url} (user admin, password admin, unless LOOP_USERNAME says otherwise)"
    )
    complain(f"API pages:      {url}/docs and {loop_url}/docs")


def _settings(options: argparse.Namespace) -> None:
    settings, warnings = read_process_settings(options.for_verb)
    say(settings_text(settings))
    for warning in warnings:
        complain(f"warning: {warning}")


def _start(options: argparse.Namespace) -> Settings:
    """Settings, and a log that follows them."""
    settings, warnings = read_process_settings(options.verb)
    logs.configure_logging(
        settings.log_level, settings.log_format, sys.stderr, no_color=settings.no_color, secrets=settings.secrets
    )
    for warning in warnings:
        logger.warning("%s", warning)
    if not getattr(options, "model", None):
        return settings
    return attrs.evolve(settings, model=options.model, sources={**settings.sources, "model": "option --model"})


def _farewell(verb: str, error: BaseException) -> int:
    """Tell the operator what is wrong; only what nobody foresaw comes with a traceback, and into the log."""
    leaves = list(_leaves(error))
    if not all(isinstance(leaf, LoopNodeError) for leaf in leaves):
        logger.critical("loop-node %s crashed", verb, exc_info=error)
        return CRASH
    problems = [problem for leaf in leaves if isinstance(leaf, SettingsError) for problem in leaf.problems]
    if problems:
        complain(f"loop-node {verb} cannot start with these settings:")
        for problem in problems:
            complain(f"  {problem}")
        return CONFIGURATION
    complain(f"loop-node {verb}: {'; '.join(map(str, leaves))}")
    return CRASH


def _leaves(error: BaseException) -> Sequence[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in _leaves(member)]
    return [error]
