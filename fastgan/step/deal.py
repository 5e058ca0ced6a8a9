"""The rows that a step is played with, dealt to the generator's and the critic's passes before its updates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..chain import Passes
from ..ops.sample import Draws, Role
from .game import FAKE, REAL, Game, Moment


class Dealer:
    """Deals latents to the passes of a generator, and to the critic's of each update its real rows and penalties' points."""

    def __init__(self, game: Game, generator: Passes, hands: Sequence[Passes], rows: int) -> None:
        self.game, self.generator, self.hands, self.rows = game, generator, hands, rows
        like = generator.output
        self.reals = [like.new_empty(rows, like.shape[-1]) for _ in range(game.d_steps)]

    def latents(self, draws: Sequence[Draws]) -> None:
        """Latents of every update, the generator's last."""
        width, last = self.generator.gradient.shape[-1], len(draws) - 1
        for update, each in enumerate(draws):
            role = Role.GENERATOR_LATENT if update == last else Role.LATENT
            self.generator[update : update + 1].load(each.latents(self.rows, width, role))

    def real(self, images: Tensor, moment: Moment) -> None:
        """Real rows of every D update; the generator's update sees the last ones again."""
        for d_step, out in enumerate(self.reals):
            self.hands[d_step][REAL : REAL + 1].load(self.game.real_rows(images, moment, d_step, self.rows, out=out))
        if self.game.relativistic:
            self.hands[-1][REAL : REAL + 1].load(self.reals[-1])

    def points(self, images: Tensor, draws: Sequence[Draws], moment: Moment) -> None:
        """The points of penalties that have their own, between real rows and the fake ones that were made of the latents."""
        for d_step, hand in enumerate(self.hands[:-1]):
            place = FAKE
            for number, spec in self.game.due_penalties(moment, d_step):
                if spec.at is None:
                    place += 1
                    fake = hand[FAKE : FAKE + 1].loaded
                    hand[place : place + 1].load(spec.points(self.reals[d_step], fake, draws[d_step], number))
