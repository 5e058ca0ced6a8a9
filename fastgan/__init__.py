"""fastgan: fused losses, penalties and layers for GANs, and a trainer that runs the alternating step at full speed.

    from fastgan import losses, penalties          # drop-in pieces for your own loop
    trainer = fastgan.Trainer(fastgan.Generator(), fastgan.Discriminator(), loss="wgan-gp")

Importing fastgan imports nothing else: torch comes with the first name that needs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:  # what __getattr__ finds, for readers that do not run it
    from . import chain as chain
    from . import data, layers, losses, mlp, models, optim, penalties, testing
    from . import engines as engines
    from . import ops as ops
    from . import runtime as runtime
    from . import training as training
    from .data import DataError
    from .models import Discriminator, Generator
    from .ops.backend import BackendUnavailable
    from .training.checkpoint import CheckpointError
    from .training.fit import NonFiniteError
    from .training.signals import Interrupted
    from .training.trainer import Trainer

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

_DEFINED_IN = {
    "BackendUnavailable": "ops.backend",
    "CheckpointError": "training.checkpoint",
    "DataError": "data",
    "Discriminator": "models",
    "Generator": "models",
    "Interrupted": "training.signals",
    "NonFiniteError": "training.fit",
    "Trainer": "training.trainer",
}
_MODULES = frozenset(
    ("chain", "data", "engines", "kernels", "layers", "losses", "mlp")
    + ("models", "ops", "optim", "penalties", "runtime", "testing", "training")
)


class _KernelsBeside:
    """Finds fastgan.kernels in a checkout's ../kernels when it is imported, as the installed package has it.

    First of all finders: where another checkout is installed in place, the others would find that one's.
    """

    file = Path(__file__).resolve().parent.parent / "kernels" / "__init__.py"

    @classmethod
    def find_spec(cls, name: str, path: Any, target: Any = None) -> Any:
        if name != "fastgan.kernels":
            return None
        return importlib.util.spec_from_file_location(name, cls.file, submodule_search_locations=[str(cls.file.parent)])

    @classmethod
    def is_needed(cls) -> bool:
        """Whether this is a checkout whose kernels an import would not find; not where it is installed in place."""
        if not (cls.file.is_file() and (cls.file.parent.parent / "pyproject.toml").is_file()):
            return False
        found = importlib.util.find_spec("fastgan.kernels")
        return found is None or found.origin != str(cls.file)


if _KernelsBeside.is_needed():
    sys.meta_path.insert(0, _KernelsBeside)


def _find(name: str) -> Any:
    """A public name or a module of the package, imported on first use (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _DEFINED_IN:  # asked for each time, so that what replaces it where it is defined is seen here, while it does
        return getattr(importlib.import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])


if not TYPE_CHECKING:  # a type checker that saw it would take every name for one of the package's
    __getattr__ = _find


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
