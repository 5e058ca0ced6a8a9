"""Configurations of checkpoints whose files are whole: all that no trainer has is refused, before anything is built of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fastgan import Trainer, penalties
from fastgan.models import Discriminator, Generator
from fastgan.training import checkpoint, saved_config
from fastgan.training.checkpoint import Checkpoint
from tests.training.runs import assert_refused

HUGE = 10**400


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Of fastgan's own networks, with a penalty."""
    place = tmp_path_factory.mktemp("own") / "saved"
    pair = Generator(2, image_size=2), Discriminator(image_size=2)
    trainer = Trainer(*pair, seed=3, penalty=penalties.R1(1.0), device="cpu").attach(torch.zeros(8, 2), 4)
    trainer.save(place)
    return checkpoint.load(place, saved_config.check_whole)


TOP = ("loss", "g_optimizer", "d_optimizer", "d_steps", "precision", "seed", "networks", "penalty", "engine", "capture", "data")
WRONG = (None, -1, float("inf"), "x\n" * 10**4, [None], True, HUGE, {"a": [{}]})
CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"without {name}": lambda c, n=name: c.pop(n) and None for name in (*TOP[:8], "data", "ema")},
    **{f"{name} {n}": lambda c, k=name, v=value: c | {k: v} for name in TOP for n, value in enumerate(WRONG)},
    **{f"ema {value!r}"[:20]: lambda c, v=value: c | {"ema": v} for value in (-1, 1, True, "x", [], HUGE, 0.5)},
    **{f"steps_per_graph {value!r}": lambda c, v=value: c | {"steps_per_graph": v} for value in (None, 0, 1.5, "x", True)},
    **{
        f"g_optimizer {spec}"[:60]: lambda c, s=spec: c | {"g_optimizer": s}
        for spec in (
            {"rule": "adam"},
            {"rule": "lion", "lr": 0.1},
            {"rule": [], "lr": 0.1},
            {"rule": "adam", "lr": HUGE},
            {"rule": "adam", "lr": 0.1, "betas": [0.5]},
            {"rule": "adam", "lr": 0.1, "betas": "ab"},
            {"rule": "adam", "lr": 0.1, "self": 1},
            {"rule": "adam", "lr": {"shape": "cosine"}},
            {"rule": "adam", "lr": {"shape": "cosine", "start": 1, "end": 0, "steps": 0}},
            {"rule": "sgd", "lr": 0.1, "nesterov": True},
        )
    },
    **{
        f"penalty {entries}"[:60]: lambda c, e=entries: c | {"penalty": e}
        for entries in (
            {},
            "",
            ["R1"],
            [None],
            [{}],
            [{"type": []}],
            [{"type": "R1", "gamma": -1}],
            [{"type": "R1", "gamma": HUGE}],
            [{"type": "R1", "every": 0}],
            [{"type": "R1", "none": 1}],
            [{"type": "WeightClip"}] * 2,
        )
    },
    **{
        f"the generator {change}"[:60]: lambda c, d=change: c["networks"]["generator"].update(d)
        for change in (
            {"type": 5},
            {"type": "Discriminator"},
            {"z_dim": 10**9},
            {"z_dim": 10**18},
            {"z_dim": HUGE},
            {"z_dim": -1},
            {"z_dim": "x"},
            {"z_dim": [2]},
            {"seed": 5},
            {"seed": "x"},
            {"width": 5},
        )
    },
    **{f"a dropout {value}": lambda c, v=value: c["networks"]["discriminator"].update(dropout=v) for value in (5, "x", [1])},
    "no type": lambda c: c["networks"]["generator"].pop("type") and None,
    "no size": lambda c: c["networks"]["generator"].pop("z_dim") and None,
    "networks exchanged": lambda c: c | {"networks": dict(zip(c["networks"], reversed(c["networks"].values()), strict=True))},
    "data without a batch size": lambda c: c["data"].pop("batch_size") and None,
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_configuration_that_no_trainer_has(what: str, own: Checkpoint) -> None:
    config = json.loads(json.dumps(own.config))
    changed = CONFIGS[what](config)
    other = replace(own, config=config if changed is None else json.loads(json.dumps(changed)))
    assert_refused(lambda: saved_config.check_whole(other))
