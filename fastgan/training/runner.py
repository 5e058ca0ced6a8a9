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
from ..runtime.module_state import ModuleState
from ..runtime.randomness import drawing_from
from . import preview

log = logging.getLogger("fastgan")

_STRUCTURE = ("_modules", "_parameters")  # forwards that put another tensor in a buffer's place are followed as they are


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
        self._seen: _Networks | None = None  # as the autograd engine was told of them
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
        self._rows = latents, samples
        self._look()

    def _look(self) -> None:
        """Sees how the networks end, whether they draw, and whether they take the rows that they were tried with."""
        if self._rows is None:
            return
        with self._apart():
            self._find_ends(*self._rows)
        self.engine.find_draws(self._rows[1])
        self._seen = _Networks(self.game) if isinstance(self.engine, AutogradStep) else None

    def _find_ends(self, latents: Tensor, samples: Tensor) -> None:
        try:
            reads = self.engine.find_ends(latents, samples, read_logits=self.game.loss in LOGIT_KINDS)
        except NoClosedForm as reason:
            self._leave_closed_form(reason)
            reads = self.engine.find_ends(latents, samples, read_logits=self.game.loss in LOGIT_KINDS)
        if reads and not self.reads_logits:
            log.warning("the discriminator ends in a Sigmoid: %s is computed on the logits before it", self.game.loss)
        self.reads_logits = reads

    def _leave_closed_form(self, reason: NoClosedForm) -> None:
        if self.asked == "closed-form":
            raise reason
        log.warning("the autograd engine goes on: %s", reason)
        self._use(AutogradStep(self.game))

    def play(self, images: Tensor, step: int, most: int, rows: int) -> tuple[int, Mapping[str, Tensor]]:
        """Runs at least one step, at most `most`; returns how many and the last one's metrics."""
        if self._seen and not self._seen.hold():
            self._look()
        try:
            played = self.player.play(images, step, most, rows)
        except NoClosedForm as reason:  # before anything was done: a network is no chain any more
            self._leave_closed_form(reason)
            self._look()
            played = self.player.play(images, step, most, rows)
        if self._seen:
            self._seen.forgive_steps()
        return played


class _Networks:
    """Whether a game's networks are what they were when they were looked at, besides what steps change in them."""

    def __init__(self, game: Game) -> None:
        self._modules = game.generator.module, game.discriminator.module
        self._states = [ModuleState(module, kinds=_STRUCTURE) for module in self._modules]
        self._stepped = False

    def hold(self) -> bool:
        return all(state.holds(module) for state, module in zip(self._states, self._modules, strict=True))

    def forgive_steps(self) -> None:
        """After the first step since: attributes that it has set, such as counters and features, are not looked at again."""
        if not self._stepped:
            pairs = zip(self._modules, self._states, strict=True)
            self._states = [ModuleState(module, state.changes(), kinds=_STRUCTURE) for module, state in pairs]
            self._stepped = True
