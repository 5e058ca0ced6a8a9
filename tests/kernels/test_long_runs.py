"""Steps of runs that have gone on for long, over Triton's kernels: numbers that pass 24, 31, 32 and 40 bits."""

from __future__ import annotations

import pytest
import torch

from fastgan import Trainer, optim
from fastgan.ops import reference
from fastgan.ops.update import update_
from tests.kernels.test_step import SMALL, trainer_of


def moved_to(trainer: Trainer, step: int) -> Trainer:
    state = trainer.state_dict()
    state["step_count"] = step
    for name, times in (("g_optimizer", 1), ("d_optimizer", trainer.d_steps)):
        state[name]["count"].fill_(step * times)
    trainer.load_state_dict(state)
    return trainer


@pytest.mark.parametrize("step", [2**24, 2**32 - 1, 2**40])
def test_steps_are_the_references(step: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches, latents, masks, alphas, the schedule's rates and the counts of updates."""
    schedule = optim.SGD(optim.linear(0.1, 0.0, steps=2 * step))
    options = dict(loss="wgan-gp", d_steps=2, g_optimizer=schedule, d_optimizer=schedule)
    fused, exact = (
        moved_to(trainer_of(monkeypatch, name, where, precision, 7, options, SMALL), step)
        for name, where, precision in (("triton", device, "fp32"), ("reference", torch.device("cpu"), "fp64"))
    )
    monkeypatch.undo()
    for trainer, name in ((fused, "triton"), (exact, "reference")):
        with monkeypatch.context() as patch:
            patch.setattr("fastgan.ops.backend.FORCED", name)
            trainer.step(2)
    for mine, theirs, times in zip(fused._runner.engine.networks, exact._runner.engine.networks, (1, 2), strict=True):
        assert int(mine.count) == int(theirs.count) == (step + 2) * times
        torch.testing.assert_close(mine.weight.double().cpu(), theirs.weight, rtol=1e-4, atol=3e-5)
        assert mine.lr.item() == pytest.approx(theirs.lr.item(), rel=1e-12)
    assert fused.skipped == exact.skipped == 0


@pytest.mark.parametrize("updates", [2**24 - 1, 2**24, 2**24 + 1, 2**31, 2**32, 2**40])
def test_bias_corrections_of_many_updates(updates: int, device: torch.device) -> None:
    """With decays so near 1 that they are far from 1 even here."""
    found = []
    for backend, where, dtype in (("triton", device, torch.float32), ("reference", torch.device("cpu"), torch.float64)):
        weight, gradient = (torch.full((3,), value, device=where, dtype=dtype) for value in (0.0, 0.3))
        state, count = [gradient.clone(), gradient.square()], torch.tensor(updates, device=where)
        lr, held = torch.tensor(1.0, dtype=torch.float64, device=where), torch.zeros(2, device=where)
        options = dict(betas=(1 - 2.0**-20, 1 - 2.0**-24))
        update_(weight, gradient, state, lr, count, held, rule="adam", options=options, backend=backend)
        assert count == updates + 1 and reference.is_withheld(held) == 0
        found.append(weight.double().cpu())
    torch.testing.assert_close(*found, rtol=2e-6, atol=0)
