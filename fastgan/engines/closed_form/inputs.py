"""The rows that a step is played with, loaded before its updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ...ops.sample import Draws, Role, stream
from ...ops.triton import sample
from ..game import FAKE, REAL, Game, StepIndex
from .fused_passes import FusedPasses
from .update import HostPasses


class InputLoader(Protocol):
    """Loads latents into a generator's passes, and real rows and penalties' points into the critic's of each update."""

    def on_device(self, index: StepIndex) -> StepIndex:
        """The index as the passes take it."""

    def latents(self, draws: Sequence[Draws]) -> None:
        """Latents of every update, the generator's last."""

    def real(self, images: Tensor, index: StepIndex) -> None:
        """Real rows of every D update; the generator's update sees the last ones again."""

    def points(self, images: Tensor, draws: Sequence[Draws], index: StepIndex) -> None:
        """The points of penalties that have their own, between real rows and the fake ones that were made of the latents."""


def _real_buffers(game: Game, like: Tensor, rows: int) -> list[Tensor]:
    return [like.new_empty(rows, like.shape[-1]) for _ in range(game.d_steps)]


class HostInputLoader:
    """Loads them pass by pass."""

    def __init__(self, game: Game, generator: HostPasses, critic_passes: Sequence[HostPasses], rows: int) -> None:
        self.game, self.generator, self.critic_passes, self.rows = game, generator, critic_passes, rows
        self.reals = _real_buffers(game, generator.output, rows)

    def on_device(self, index: StepIndex) -> StepIndex:
        """The index as it is."""
        return index

    def latents(self, draws: Sequence[Draws]) -> None:
        """Latents of every update, the generator's last."""
        width, last = self.generator.gradient.shape[-1], len(draws) - 1
        for update, each in enumerate(draws):
            role = Role.GENERATOR_LATENT if update == last else Role.LATENT
            self.generator[update : update + 1].load(each.latents(self.rows, width, role))

    def real(self, images: Tensor, index: StepIndex) -> None:
        """Real rows of every D update; the generator's update sees the last ones again."""
        for d_step, out in enumerate(self.reals):
            self.critic_passes[d_step][REAL : REAL + 1].load(self.game.real_rows(images, index, d_step, self.rows, out=out))
        if self.game.relativistic:
            self.critic_passes[-1][REAL : REAL + 1].load(self.reals[-1])

    def points(self, images: Tensor, draws: Sequence[Draws], index: StepIndex) -> None:
        """The points of penalties that have their own, between real rows and the fake ones that were made of the latents."""
        for d_step, passes in enumerate(self.critic_passes[:-1]):
            place = FAKE
            for number, spec in self.game.due_penalties(index, d_step):
                if spec.at is None:
                    place += 1
                    fake = passes[FAKE : FAKE + 1].loaded
                    passes[place : place + 1].load(spec.points(self.reals[d_step], fake, draws[d_step], number))


class FusedInputLoader:
    """Loads them in three launches, whatever the number of updates. FusedPasses.forward has loaded the fake rows already."""

    def __init__(self, game: Game, generator: FusedPasses, critic_passes: Sequence[FusedPasses], rows: int) -> None:
        self.game, self.generator, self.critic_passes, self.rows = game, generator, critic_passes, rows
        self.reals = _real_buffers(game, generator.output, rows)

    def on_device(self, index: StepIndex) -> StepIndex:
        """The same index, its counter a tensor that kernels read."""
        return index._replace(counter=self.generator.products.counter(index.counter))

    def latents(self, draws: Sequence[Draws]) -> None:
        last, products = len(draws) - 1, self.generator.products
        roles = [Role.GENERATOR_LATENT if update == last else Role.LATENT for update in range(len(draws))]
        words = [stream(role, d_step=each.d_step) for role, each in zip(roles, draws, strict=True)]
        place = int(draws[0].seed), products.counter(draws[0].step), products.words(tuple(words)), draws[0].first_row
        sample.load_normals_(products.launch, self.generator.inputs[0], products.shapes[0][1], self.rows, *place)

    def real(self, images: Tensor, index: StepIndex) -> None:
        updates = self.game.d_steps + self.game.relativistic
        sample.load_batches_(
            self.critic_passes[0].products.launch, self._location(REAL), updates, *self._batch_position(images, index)
        )

    def points(self, images: Tensor, draws: Sequence[Draws], index: StepIndex) -> None:
        for number, spec in enumerate(self.game.penalties):
            if spec.at is None:
                places = {d_step: place for d_step in range(self.game.d_steps) if (place := self._slot(index, d_step, number))}
                if spec.interpolates:
                    self._interpolate(images, index, places, number)
                else:
                    self._load_points(images, index, places, number, draws)

    def _slot(self, index: StepIndex, d_step: int, number: int) -> int:
        """Which of an update's passes holds the points of a penalty; 0 where it is not due."""
        due = [which for which, spec in self.game.due_penalties(index, d_step) if spec.at is None]
        return FAKE + 1 + due.index(number) if number in due else 0

    def _interpolate(self, images: Tensor, index: StepIndex, places: dict[int, int], number: int) -> None:
        word = stream(Role.ALPHA, index=number)
        launch, position, fake = (
            self.critic_passes[0].products.launch,
            self._batch_position(images, index),
            self.generator.output,
        )
        if len(places) == self.game.d_steps and len(set(places.values())) == 1:
            sample.load_points_(launch, self._location(places[0]), self.game.d_steps, 0, fake, word, *position)
            return
        for d_step, place in places.items():
            sample.load_points_(launch, self._location(place), 1, d_step, fake, word, *position)

    def _load_points(
        self, images: Tensor, index: StepIndex, places: dict[int, int], number: int, draws: Sequence[Draws]
    ) -> None:
        for d_step, place in places.items():
            real = self.game.real_rows(images, index, d_step, self.rows, out=self.reals[d_step])
            points = self.game.penalties[number].points(real, self.generator.output[d_step], draws[d_step], number)
            self.critic_passes[d_step][place : place + 1].load(points)

    def _location(self, number: int) -> tuple[Tensor, int]:
        """The first update's rows of a pass, and how many rows later the next update's are."""
        return self.critic_passes[0][number : number + 1].inputs[0], self.critic_passes[0].all_rows

    def _batch_position(self, images: Tensor, index: StepIndex) -> tuple[Tensor, sample.BatchPosition]:
        game = self.game
        counter = self.critic_passes[0].products.counter(index.counter)
        rows = game.world.size * self.rows, game.world.rank * self.rows
        return images.contiguous(), sample.BatchPosition(game.seed, counter, game.d_steps, *rows)
