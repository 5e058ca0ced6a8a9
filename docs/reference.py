"""Writes the API reference, from the docstrings, into build/docs or a folder that is named: make docs."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc

import fastgan

# what fastgan.__all__ names, and what a reader of the code starts from; the implementations of operators are no interface
MODULES = ("fastgan", "fastgan.training", "fastgan.ops", "fastgan.ops.reference", r"!fastgan\.ops\.(cpp|triton)")


def main(out: Path) -> None:
    """Writes all pages; warnings are printed."""
    # of NamedTuples: Python gives their __new__ annotations without the module that explains these
    warnings.filterwarnings("ignore", message=r"Error parsing type annotation ForwardRef\(.*\) for .*\.__init__")
    for name in fastgan.__all__:  # pdoc reads the module's dictionary, where names that are imported on first use do not stand
        setattr(fastgan, name, getattr(fastgan, name))
    pdoc.render.configure(docformat="google", footer_text=f"fastgan {fastgan.__version__}")
    pdoc.pdoc(*MODULES, output_directory=out)
    print(f"{len(list(out.rglob('*.html')))} pages: {out}/index.html")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or ["build", "docs"]))
