"""The engine that runs a trainer's steps, and goes over to autograd where the closed form ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..data import ImageSet
from ..engines.autograd import AutogradStep
from ..engines.closed_form.step import ClosedFormStep, NoClosedForm
from ..engines.cuda_graph import Captured, Eager
from ..engines.engine import Engine
from ..engines.game import Game
from ..ops import backend
from ..ops.loss import LOGIT_KINDS
from ..runtime.randomness import drawing_from
from . import preview

log = logging.getLogger("fastgan")


class Runner:
    """Runs a game's steps. `engine` is the one that does, `player` what launches it; both change where networks do.

    asked: "closed-form", "autograd", or "auto" for the closed form as long as the networks have one; capture: "auto" or "off".
    Raises NoClosedForm where "closed-form" was asked for and there is none.
    """

    def __init__(self, game: Game, asked: str, capture: str, steps_per_graph: int) -> None:
        self.game, self.asked, self.steps_per_graph = game, asked, steps_per_graph
        self.arguments = {"engine": asked, "capture": capture, "steps_per_graph": steps_per_graph}
        self.captures = capture == "auto" and game.device.type == "cuda" and not backend.triton_problem()
        self.reads_logits = False
        self._rows: tuple[Tensor, Tensor] | None = None
        self._use(self._first_engine())

    def _first_engine(self) -> Engine:
        if self.asked != "autograd":
            try:
                return ClosedFormStep(self.game, read_logits=self.game.loss in LOGIT_KINDS)
            except NoClosedForm as reason:
                if self.asked == "closed-form":
                    raise
                log.info("the autograd engine runs: %s", reason)
        return AutogradStep(self.game)

    def _use(self, engine: Engine) -> None:
        self.engine = engine
        self.player = Captured(engine, self.game, self.steps_per_graph) if self.captures else Eager(engine)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Around passes over the networks that are no part of the run: nothing of them is left behind."""
        networks = (self.game.generator.module, self.game.discriminator.module)
        with torch.no_grad(), preview.evaluating(*networks), drawing_from(self.game.seed, self.game.device, *networks):
            yield

    def try_networks(self, images: ImageSet, rows: int) -> None:
        """Runs both networks on as many rows as an update has; ValueError where they and the data do not fit each other."""
        with self._apart():
            latents, samples, self.game.sample_shape = preview.try_networks(self.game, images, rows)
            self.look_at(latents, samples)
        self.engine.find_draws(samples)

    def look_at(self, latents: Tensor, samples: Tensor) -> None:
        """Sees how the networks end, and whether they take rows like these, the generator's of a few latents."""
        self._rows = latents, samples
        try:
            reads = self.engine.find_ends(latents, samples, read_logits=self.game.loss in LOGIT_KINDS)
        except NoClosedForm as reason:
            self._leave_closed_form(reason)
            return
        if reads and not self.reads_logits:
            log.warning("the discriminator ends in a Sigmoid: %s is computed on the logits before it", self.game.loss)
        self.reads_logits = reads

    def _leave_closed_form(self, reason: NoClosedForm) -> None:
        if self.asked == "closed-form":
            raise reason
        log.warning("the autograd engine goes on: %s", reason)
        self._use(AutogradStep(self.game))
        if self._rows:
            with self._apart():
                self.look_at(*self._rows)
            self.engine.find_draws(self._rows[1])

    def play(self, images: Tensor, step: int, most: int, rows: int) -> tuple[int, Mapping[str, Tensor]]:
        """Runs at least one step, at most `most`; returns how many and the last one's metrics."""
        try:
            return self.player.play(images, step, most, rows)
        except NoClosedForm as reason:  # before anything was done: a network is no chain any more
            self._leave_closed_form(reason)
            return self.player.play(images, step, most, rows)
