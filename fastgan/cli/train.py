"""fastgan train."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import tyro

from .command import Job, UsageError

if TYPE_CHECKING:
    from ..data import ImageSet
    from ..optim import Optimizer
    from ..training.fit import Fit
    from ..training.report import RunFolder
    from ..training.trainer import Trainer

log = logging.getLogger("fastgan")

DEFAULT_EPOCHS = 100
DOWNLOADS = Path("data")  # where torchvision puts data sets that were not given

# flags that may differ in a resumed run, because no past draw depends on them
FREE = {"epochs", "steps", "device", "out", "resume", "data_root", "log_every"}
FREE |= {"sample_every", "checkpoint_every", "keep", "on_nonfinite"}


@dataclass(frozen=True)
class Train:
    """Train a GAN: the article's networks on digits, unless told otherwise."""

    data: str = "digits"
    """digits, mnist, fashion, kmnist, idx, ring or grid"""
    data_root: Path | None = None
    """folder of IDX files, plain or gzip; without it mnist, fashion and kmnist are downloaded to ./data"""
    loss: str = "nonsaturating"
    """the objective, such as nonsaturating, hinge or wgan-gp; an unknown name lists them all"""
    penalty: str | None = None
    """NAME[:AMOUNT[:EVERY]],... with gp, lp, r1, r2, dragan or clip; none; by default the loss's own"""
    epochs: int | None = None
    """epochs of the whole run (100)"""
    steps: int | None = None
    """steps of the whole run, instead of epochs"""
    batch_size: int = 64
    """rows of a discriminator update"""
    seed: int = 0
    """of the initial weights and of every draw"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    precision: str = "auto"
    """of matrix products: auto, fp32, tf32, bf16, fp16 or fp64"""
    engine: Literal["auto", "closed-form", "autograd"] = "auto"
    """auto takes the closed form where there is one"""
    capture: Literal["auto", "off"] = "auto"
    """of CUDA graphs"""
    out: Path | None = None
    """run folder, a new one; by default runs/DATA-LOSS-NUMBER"""
    resume: bool = False
    """continue the run in --out with its own configuration"""
    d_steps: int | None = None
    """discriminator updates per step; by default the loss's own"""
    ema: float | None = None
    """decay of the generator's weight average, such as 0.999"""
    g_optimizer: str | None = None
    """NAME[:OPTION=VALUE,...], such as adam:beta1=0.5; an unknown name lists them all; by default the loss's own"""
    d_optimizer: str | None = None
    """the same for the discriminator"""
    g_lr: str | None = None
    """a learning rate, or a schedule SHAPE:START:END:STEPS with cosine or linear"""
    d_lr: str | None = None
    """the same for the discriminator"""
    sample_every: int | None = None
    """steps between sample grids; by default 20 in a run; 0 for none"""
    checkpoint_every: int | None = None
    """steps between checkpoints; by default 5 in a run; 0 for only the first and the last"""
    keep: int = 3
    """newest checkpoints that are kept, besides the first"""
    log_every: int = 100
    """steps between lines of metrics"""
    on_nonfinite: Literal["raise", "skip"] = "raise"
    """what to do when a value is not finite: stop, or leave the update out and go on"""

    def prepare(self) -> Job:
        images = self._load_data()
        trainer = self._trainer(images).attach(images, self.batch_size)
        fit = trainer.prepare(epochs=self._epochs(), steps=self.steps, out=self.out or self._free_folder(), **self._reporting())
        return lambda: _train(fit)

    def _load_data(self) -> ImageSet:
        from .. import data as datasets
        from ..data.sources import TORCHVISION
        from ..runtime import distributed

        if self.data_root is not None and self.data in datasets.NAMES and self.data not in (*TORCHVISION, "idx"):
            files = ", ".join((*TORCHVISION, "idx"))
            raise UsageError(
                f"--data {self.data} reads no files, got --data-root {self.data_root}: leave it out, or take {files}"
            )
        with distributed.first_process_first():
            return datasets.load(self.data, DOWNLOADS if self._downloads() else self.data_root, download=self._downloads())

    def _epochs(self) -> int | None:
        if self.epochs is not None and self.steps is not None:
            raise UsageError("give either --epochs or --steps, not both")
        return DEFAULT_EPOCHS if self.epochs is None and self.steps is None else self.epochs

    def _reporting(self) -> dict:
        names = ("resume", "log_every", "sample_every", "checkpoint_every", "keep", "on_nonfinite")
        return {name: getattr(self, name) for name in names} | {"command": self.to_config()}

    def _free_folder(self) -> Path:
        number = 1
        while (folder := Path("runs") / f"{self.data}-{self.loss}-{number:03d}").exists():
            number += 1
        return folder

    def _trainer(self, images: ImageSet) -> Trainer:
        from .. import models, penalties
        from ..training import presets, trainer

        chosen = presets.preset(self.loss)
        return trainer.Trainer(
            models.Generator(image_size=images.features),
            models.Discriminator(image_size=images.features),
            loss=self.loss,
            penalty=None if self.penalty is None else penalties.parse(self.penalty),
            g_optimizer=_optimizer(self.g_optimizer, self.g_lr, chosen.g_optimizer),
            d_optimizer=_optimizer(self.d_optimizer, self.d_lr, chosen.d_optimizer),
            d_steps=self.d_steps,
            ema=self.ema,
            precision=self.precision,
            engine=self.engine,
            capture=self.capture,
            seed=self.seed,
            device=self.device,
        )

    def to_config(self) -> dict:
        """The flags as plain data, with whole paths: a run is continued from any folder."""
        root = DOWNLOADS if self._downloads() else self.data_root
        paths = {"data_root": root and str(root.expanduser().absolute()), "out": self.out and str(self.out)}
        return asdict(self) | paths

    def _downloads(self) -> bool:
        from ..data.sources import TORCHVISION

        return self.data_root is None and self.data in TORCHVISION

    @classmethod
    def from_config(cls, config: dict) -> Train:
        """The flags that `to_config` described; ValueError for a value of another kind."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in config.items() if name in known}
        for name, kind in get_type_hints(cls).items():
            if name in values and not _is_of(values[name], kind):
                raise ValueError(f"--{name.replace('_', '-')} is {values[name]!r}")
        paths = {name: Path(values[name]) for name in ("data_root", "out") if values.get(name) is not None}
        return cls(**values | paths)


def _is_of(value: object, kind: Any) -> bool:
    """Whether a value out of JSON is of a flag's kind: a type, a union of types, or a choice of words."""
    kinds = get_args(kind) or (kind,)
    if isinstance(value, str):
        return str in kinds or Path in kinds or value in kinds
    return type(value) in kinds or (type(value) is int and float in kinds)


def _train(fit: Fit) -> None:
    from ..training.signals import Interrupted

    try:
        summary = fit.run()
    except Interrupted as stop:
        if fit.folder:
            stop.add_note("continue with --resume")
        raise
    if fit.folder:
        print(f"{summary['steps']} steps, {summary['seconds']:.1f} s of training: see {fit.folder.path}")


def _optimizer(text: str | None, rate: str | None, default: Optimizer) -> Optimizer:
    from .. import optim

    spec = default if text is None else optim.parse(text, default)
    return spec if rate is None else replace(spec, lr=optim.parse_rate(rate))


def resumed(command: Train, arguments: Sequence[str]) -> Train:
    """The command that continues the run in --out: its saved configuration, and the flags that may differ.

    A run that was killed before its first checkpoint begins anew by its saved configuration, and whatever flags are given.
    """
    if command.out is None:
        raise UsageError("--resume continues a run: name its folder with --out")
    from ..training import report

    folder = report.RunFolder(command.out)
    begun = folder.has_checkpoints()
    saved = _saved_flags(folder, begun)
    if saved is None:
        return command
    flags_given = list(arguments)
    flags_given.remove("train")
    changed: Train = tyro.cli(Train, default=saved, prog="fastgan train", args=flags_given)
    differing = [name for name, value in asdict(changed).items() if value != getattr(saved, name) and name not in FREE]
    if differing and begun:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in differing)
        raise UsageError(f"a resumed run keeps its configuration; {names} differs from the one in {folder.path}")
    if command.epochs is not None or command.steps is not None:
        changed = replace(changed, epochs=command.epochs, steps=command.steps)
    return changed


def _saved_flags(folder: RunFolder, begun: bool) -> Train | None:
    """The flags in a run's configuration; None where it has none, and those that are given have to do."""
    from ..training.report import RunFolderError

    try:
        flags = folder.read_config().get("command")
    except RunFolderError as lost:
        if begun:
            log.warning("%s; the flags given are taken, and compared with the checkpoint", lost)
        return None
    if not flags and not begun:
        return None
    if not flags or not isinstance(flags, dict):
        raise UsageError(
            f"the run in {folder.path} was not started by this command: resume it with Trainer.fit(..., resume=True)"
        )
    try:
        return Train.from_config(flags)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{folder.path} holds no run: the flags in its config.json are damaged: {error}") from error
