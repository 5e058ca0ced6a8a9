"""What an alternating update is made of, whichever engine plays it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from ..ops import sample
from ..ops.loss import RELATIVISTIC_KINDS
from ..ops.sample import Draws, Role
from ..optim import SGD
from ..penalties import Penalty
from ..runtime.distributed import World
from ..runtime.module_state import copied
from .flat_network import FlatNetwork

# passes over the critic and over the generator, each with dropout masks of its own; penalty k's own points are PENALTY + k
REAL, FAKE, GENERATOR, PENALTY = range(4)
OWN_UPDATE, FOR_CRITIC = 14, 15  # the generator in its own update, and for the discriminator's


class Metrics(Mapping[str, Tensor]):
    """A step's metrics as 0-d tensors, each computed when it is read: most steps' metrics never are."""

    def __init__(self, parts: dict[str, Callable[[], Tensor]]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Tensor:
        return self._parts[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __reduce__(self) -> tuple:
        return OrderedDict, (list(self.items()),)  # which weights_only loading takes


class StepIndex(NamedTuple):
    """When a step runs: its number, and what its draws count by, the same number or, in a captured step, a 0-d tensor of it.

    last: whether somebody may look at counters and metrics before the next step.
    """

    step: int
    counter: int | Tensor
    last: bool = True


def at(step: int) -> StepIndex:
    """A step by its number."""
    return StepIndex(step, step)


def mix(*numbers: int) -> int:
    """A 63-bit seed for torch's generator from several numbers (splitmix64's finalizer after each)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state >> 1


@dataclass
class Game:
    """Two networks, an objective and the rules of play.

    latent_shape: one latent's shape; sample_shape: one sample's, once data has told it; penalties: specs, applied at each
    `every`-th D update; seed: of all draws.
    """

    generator: FlatNetwork
    discriminator: FlatNetwork
    loss: str
    penalties: tuple[Penalty, ...]
    d_steps: int
    seed: int
    precision: str
    latent_shape: tuple[int, ...]
    world: World = field(default_factory=World)
    sample_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self.device = self.generator.weight.device
        self.dtype = self.generator.weight.dtype

    def copied(self) -> Game:
        """This game of copies of both networks, in one process, to see what a step does."""
        networks = copied((self.generator.module, self.discriminator.module))
        generator, discriminator = (FlatNetwork(network, SGD(0.0)) for network in networks)
        return replace(self, generator=generator, discriminator=discriminator, world=World())

    @contextmanager
    def training_mode(self) -> Iterator[None]:
        """Inside, both networks are in the mode in which they are trained; afterwards in the one that they were in."""
        with self.generator.in_training_mode(), self.discriminator.in_training_mode():
            yield

    @property
    def relativistic(self) -> bool:
        """Whether the generator's update looks at real rows too."""
        return self.loss in RELATIVISTIC_KINDS

    @property
    def skipped(self) -> Tensor:
        """0-d int64: updates withheld and weights left alone because something was not finite."""
        return self.generator.skipped + self.discriminator.skipped

    def draws(self, index: StepIndex, d_step: int, rows: int) -> Draws:
        """The random numbers of this process's rows in one update; ValueError for a step that is beyond the last one."""
        last = 2**63 // (self.d_steps * self.world.size * rows) - 2
        if index.step > last:
            raise ValueError(f"step {index.step:,} is beyond the last one, {last:,}: rows of real data are counted in 63 bits")
        return Draws(self.seed, index.counter, d_step, self.world.rank * rows, self.device, self.dtype)

    def latents(self, draws: Draws, rows: int, role: Role = Role.LATENT) -> Tensor:
        """Latents [rows, *latent_shape]."""
        width = 1
        for extent in self.latent_shape:
            width *= extent
        return draws.latents(rows, width, role).view(rows, *self.latent_shape)

    def real_rows(self, images: Tensor, index: StepIndex, d_step: int, rows: int, out: Tensor | None = None) -> Tensor:
        """This process's real rows of one D update, flat, [rows, features] in [-1, 1]; into `out` if it is given."""
        update = index.counter * self.d_steps + d_step
        position = (update * self.world.size + self.world.rank) * rows
        word, size = sample.stream(Role.BATCH), images.shape[0]
        indices = sample.batch_indices(rows, size, position, seed=self.seed, stream=word, device=images.device)
        return sample.gather_rows(images, indices, dtype=self.dtype, out=out)

    def pass_of(self, number: int, penalty: Penalty) -> int:
        """The pass over the critic whose rows a penalty looks at."""
        return {"real": REAL, "fake": FAKE, None: PENALTY + number}[penalty.at]

    def due_penalties(self, index: StepIndex, d_step: int) -> list[tuple[int, Penalty]]:
        """The penalties of one D update, each with its number."""
        update = index.step * self.d_steps + d_step
        return [(number, penalty) for number, penalty in enumerate(self.penalties) if update % penalty.every == 0]
