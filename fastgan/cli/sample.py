"""fastgan sample."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from .command import Job, UsageError

if TYPE_CHECKING:
    from ..training.trainer import Trainer

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pdf")  # those that Pillow was built with


@dataclass(frozen=True)
class Sample:
    """Draw what a run's generator makes."""

    run_folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run")]]
    """a run folder or a checkpoint"""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """how many samples"""
    out: Path = Path("samples.png")
    """the picture to write; its ending says the format"""
    seed: int | None = None
    """of the latents; by default the run's"""
    ema: bool = True
    """from the averaged weights, where the run keeps them"""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:N"""

    def prepare(self) -> Job:
        if self.n < 1:
            raise UsageError(f"-n must be a whole number >= 1, got {self.n}")
        self._check_out()
        from ..training import pictures
        from ..training import trainer as training

        trainer = training.Trainer.load(self.run_folder, device=self.device)
        shape = tuple(trainer.sample(1, self.ema, seed=self.seed).shape[1:])
        if pictures.drawing(shape) is None:
            numbers = f"fastgan.Trainer.load({str(self.run_folder)!r}).sample({self.n})"
            raise UsageError(f"samples of shape {shape} have no picture; their numbers are {numbers}")
        return lambda: self._draw(trainer)

    def _check_out(self) -> None:
        from PIL import Image

        from ..training.arguments import as_path

        as_path("--out", self.out, UsageError)
        if self.out.is_dir():
            raise UsageError(f"--out {self.out} is a folder; name a picture, such as {self.out / 'samples.png'}")
        if not self.out.parent.is_dir():
            raise UsageError(f"the folder of {self.out} does not exist")
        formats = Image.registered_extensions()
        endings = [ending for ending in ENDINGS if formats.get(ending) in Image.SAVE]
        ending = os.path.splitext(self.out)[1]  # as Pillow looks at it: dots at a name's beginning are none of an ending
        if ending.lower() not in endings:
            found = f"the ending {ending}" if ending else "no ending"
            raise UsageError(f"--out {self.out} has {found}, which says no format; choose one of {', '.join(endings)}")

    def _draw(self, trainer: Trainer) -> None:
        from ..training import report

        report.write_grid(self.out, trainer.sample(self.n, self.ema, seed=self.seed))
        print(f"{self.n} samples of step {trainer.step_count}: {self.out}")
