"""The draws of an update: known answers for each of them, and no two alike.

The numbers come from an evaluation in Python's own integers. They may never change: a checkpoint is of the run that it is of
only while they are what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fastgan.ops import backend, sample
from fastgan.ops.sample import Draws, Role, stream

DRAWS = Draws(seed=2026, step=3, d_step=1, first_row=4, dtype=torch.float64)


@pytest.fixture(params=["reference", "auto"], autouse=True)
def _backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with backend.forced(request.param):
        yield


KNOWN: dict[str, tuple[Callable[[Draws], Tensor], list]] = {
    "latents": (
        lambda draws: draws.latents(2, 3),
        [[1.650215578, 0.470877702, -0.882739947], [0.822633931, -0.645334558, 0.584918609]],
    ),
    "latents of step 2^40 + 3": (
        lambda draws: replace(draws, step=2**40 + draws.step).latents(2, 3),
        [[0.15444388, -1.232856784, 1.901445835], [0.795393319, -0.955608134, -0.293621163]],
    ),
    "the generator's latents": (
        lambda draws: draws.latents(2, 3, Role.GENERATOR_LATENT),
        [[-0.076725182, 0.202491618, -0.413906894], [-1.379004326, -1.61613163, -1.328285841]],
    ),
    "alpha": (lambda draws: draws.alpha(4, 0), [0.829319596, 0.296328247, 0.600186288, 0.320697784]),
    "alpha of the third penalty": (lambda draws: draws.alpha(4, 2), [0.992947519, 0.789170921, 0.173883736, 0.647847176]),
    "noise of the third penalty": (
        lambda draws: draws.noise(2, 3, 2),
        [[0.032541633, 0.661032975, 0.508517683], [0.102065444, 0.377865434, 0.795218229]],
    ),
}


@pytest.mark.parametrize(("draw", "expected"), KNOWN.values(), ids=KNOWN)
def test_draws_have_known_answers(draw: Callable[[Draws], Tensor], expected: list) -> None:
    torch.testing.assert_close(draw(DRAWS), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)
    single = draw(DRAWS.on("cpu", torch.float32))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, torch.tensor(expected), rtol=0, atol=2e-5)


def test_a_dropout_mask_has_a_known_answer() -> None:
    scale = DRAWS.dropout_scale(2, 16, 0.3, pass_=3, layer=2)
    assert ["".join("1" if value else "0" for value in row) for row in scale.tolist()] == [
        "1110111011111100",
        "1101110010100001",
    ]
    assert scale.unique().tolist() == [0.0, 1.0 / 0.7]


def test_words_of_masks_are_those_of_the_draws() -> None:
    """Kernels take the words, `Draws.dropout_scale` makes its own."""
    counter = sample.masks([(DRAWS, 3), (DRAWS, 14)], layer=2)
    assert counter == (2026, 3, (0x10235, 0x102E5), 4)


def test_stream_words_have_known_answers() -> None:
    roles = dict(LATENT=0, GENERATOR_LATENT=1, BATCH=2, ALPHA=3, NOISE=4, DROPOUT=5, INITIAL=6, PREVIEW=7, DATA=8)
    assert {role.name: int(role) for role in Role} == roles
    assert stream(Role.DROPOUT, pass_=15, index=255, d_step=65535) == 0xFFFFFFF5
    assert [stream(Role.NOISE, **{name: 1}) for name in ("pass_", "index", "d_step")] == [0x14, 0x104, 0x10004]


OTHERS = {
    "seed": dict(seed=2027),
    "a seed's upper half": dict(seed=2026 + 2**32),
    "step": dict(step=4),
    "a step's upper half": dict(step=3 + 2**32),
    "update of the step": dict(d_step=2),
    "rows of another process": dict(first_row=52),
}


def rows_of(draws: Draws) -> list[tuple[float, ...]]:
    """Six rows of every draw that an update may take."""
    tables = [draws.latents(6, 8, role) for role in (Role.LATENT, Role.GENERATOR_LATENT, Role.PREVIEW)]
    tables += [draws.noise(6, 8, penalty) for penalty in range(3)]
    tables += [draws.alpha(48, penalty).view(6, 8) for penalty in range(3)]
    return [tuple(row) for table in tables for row in table.tolist()]


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_no_draw_is_another_one(change: dict) -> None:
    """Of another role, penalty, step, update or process."""
    given = dict(seed=2026, step=3, d_step=1, first_row=4)
    rows = rows_of(Draws(**given)) + rows_of(Draws(**given | change))
    assert len(set(rows)) == len(rows) == 108


@pytest.mark.parametrize("change", [*OTHERS.values(), dict(pass_=1), dict(layer=1)], ids=str)
def test_no_mask_is_another_one(change: dict) -> None:
    def mask(*, pass_: int = 0, layer: int = 0, **counter: int) -> Tensor:
        return Draws(**dict(seed=2026, step=3, d_step=1, first_row=4) | counter).dropout_scale(
            6, 64, 0.5, pass_=pass_, layer=layer
        )

    agree = (mask() == mask(**change)).double().mean().item()
    assert agree == pytest.approx(0.5, abs=4 * 0.5 / (6 * 64) ** 0.5)
