"""fastgan: fused losses, penalties and layers for GANs, and a trainer that runs the alternating step at full speed.

from fastgan import losses, penalties          # drop-in pieces for your own loop
trainer = fastgan.Trainer(fastgan.Generator(), fastgan.Discriminator(), loss="wgan-gp")
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from ._version import __version__


def _bridge_kernels() -> None:
    """In a checkout that is not installed, make ../kernels importable as fastgan.kernels, as the installed package has it."""
    folder = Path(__file__).resolve().parent.parent / "kernels"
    if importlib.util.find_spec("fastgan.kernels") is None and (folder.parent / "pyproject.toml").is_file():
        file, where = folder / "__init__.py", [str(folder)]
        spec = importlib.util.spec_from_file_location("fastgan.kernels", file, submodule_search_locations=where)
        assert spec is not None and spec.loader is not None
        sys.modules["fastgan.kernels"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        globals()["kernels"] = module


_bridge_kernels()

from . import data, layers, losses, mlp, models, optim, penalties, testing  # noqa: E402
from .data import DataError  # noqa: E402
from .models import Discriminator, Generator  # noqa: E402
from .ops.backend import BackendUnavailable  # noqa: E402
from .training.checkpoint import CheckpointError  # noqa: E402
from .training.fit import NonFiniteError  # noqa: E402
from .training.signals import Interrupted  # noqa: E402
from .training.trainer import Trainer  # noqa: E402

__all__ = [
    "BackendUnavailable",
    "CheckpointError",
    "DataError",
    "Discriminator",
    "Generator",
    "Interrupted",
    "NonFiniteError",
    "Trainer",
    "__version__",
    "data",
    "layers",
    "losses",
    "mlp",
    "models",
    "optim",
    "penalties",
    "testing",
]
