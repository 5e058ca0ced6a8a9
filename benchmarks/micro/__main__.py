"""Measures what a GPU's parts can do, each alone: python -m benchmarks.micro; see `run`."""

import sys

from benchmarks.micro.run import main

if __name__ == "__main__":
    sys.exit(main())
