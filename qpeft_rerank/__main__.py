"""``python -m qpeft_rerank`` is the command ``qpeft``."""

import sys

from qpeft_rerank.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
