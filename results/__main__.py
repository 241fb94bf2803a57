"""``python -m results``."""

import sys

from results.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
