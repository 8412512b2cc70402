"""The verbs of `loop-node`, their exit codes, and what is said on the way out."""

from loop_node.cli.main import main, start

__all__ = ["main", "start"]
