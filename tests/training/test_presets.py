"""What each name of the trainer's `loss` stands for."""

from __future__ import annotations

import pytest

from fastgan.losses import KINDS
from fastgan.optim import Adam, RMSprop
from fastgan.penalties import R1, R2, GradientPenalty, WeightClip
from fastgan.training.presets import PRESETS, preset

ARTICLE = Adam(2e-4, betas=(0.5, 0.999))


def test_there_is_a_preset_for_every_kind_and_for_wgan_gp() -> None:
    assert set(PRESETS) == {*KINDS, "wgan-gp"}
    assert all(preset(name) is PRESETS[name] for name in PRESETS)


@pytest.mark.parametrize("kind", ["minimax", "nonsaturating", "lsgan", "hinge"])
def test_a_plain_kind_trains_as_the_article_does(kind: str) -> None:
    found = preset(kind)
    assert (found.loss, found.penalty, found.d_steps) == (kind, (), 1)
    assert found.g_optimizer == found.d_optimizer == ARTICLE


@pytest.mark.parametrize("kind", ["relativistic", "relativistic-average"])
def test_relativistic_losses_come_with_both_penalties(kind: str) -> None:
    """Huang et al. 2024: the paired loss converges with R1 and R2."""
    found = preset(kind)
    assert (found.loss, found.penalty, found.d_steps) == (kind, (R1(1.0), R2(1.0)), 1)
    assert found.g_optimizer == found.d_optimizer == ARTICLE


def test_wgan_clips_its_weights() -> None:
    """Arjovsky et al. 2017, algorithm 1."""
    found = preset("wgan")
    assert (found.loss, found.penalty, found.d_steps) == ("wgan", (WeightClip(0.01),), 5)
    assert found.g_optimizer == found.d_optimizer == RMSprop(5e-5)


@pytest.mark.parametrize("name", ["wgan-gp", "wgan_gp", "wgangp", "WGAN-GP"])
def test_wgan_gp_has_the_papers_recipe(name: str) -> None:
    """Gulrajani et al. 2017, with the second moment's 0.9."""
    found = preset(name)
    assert (found.loss, found.penalty, found.d_steps) == ("wgan", (GradientPenalty(10.0),), 5)
    assert found.g_optimizer == found.d_optimizer == Adam(1e-4, betas=(0.5, 0.9))


@pytest.mark.parametrize(("alias", "kind"), [("ns", "nonsaturating"), ("vanilla", "nonsaturating"), ("WGAN", "wgan")])
def test_aliases_of_a_kind_name_its_preset(alias: str, kind: str) -> None:
    assert preset(alias) is PRESETS[kind]


def test_an_unknown_name_is_told_all_of_them() -> None:
    with pytest.raises(ValueError, match="began") as caught:
        preset("began")
    assert all(name in str(caught.value) for name in PRESETS)
