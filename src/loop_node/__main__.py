"""`python -m loop_node`, and where the frozen executable starts."""

import sys

from loop_node.cli import main

if __name__ == "__main__":
    sys.exit(main())
