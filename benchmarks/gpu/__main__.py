"""Proves and measures everything on a machine with a GPU: python -m benchmarks.gpu; see `run`."""

import sys

from benchmarks.gpu.run import main

if __name__ == "__main__":
    sys.exit(main())
