"""`python -m loop_node`, and where the frozen executable starts."""

from loop_node.cli import start

if __name__ == "__main__":
    start()
