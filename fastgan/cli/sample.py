"""fastgan sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from .command import Job, UsageError

if TYPE_CHECKING:
    from ..training.trainer import Trainer


@dataclass(frozen=True)
class Sample:
    """Draw what a run's generator makes."""

    run_folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run")]]
    """a run folder or a checkpoint"""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """how many samples"""
    out: Path = Path("samples.png")
    """the picture to write"""
    seed: int | None = None
    """of the latents; by default the run's"""
    ema: bool = True
    """from the averaged weights, where the run keeps them"""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:N"""

    def prepare(self) -> Job:
        if self.n < 1:
            raise UsageError(f"-n must be a whole number >= 1, got {self.n}")
        if not self.out.parent.is_dir():
            raise UsageError(f"the folder of {self.out} does not exist")
        from ..training import trainer as training

        trainer = training.Trainer.load(self.run_folder, device=self.device)
        return lambda: self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        from ..training import report

        report.write_grid(self.out, trainer.sample(self.n, self.ema, seed=self.seed))
        print(f"{self.n} samples of step {trainer.step_count}: {self.out}")
