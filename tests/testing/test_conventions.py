"""Formulas that are right by a convention get a note that names it, and no check raises; what resembles them is a fault."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import testing
from fastgan.testing.remedies import ALL_NOTES, NOTES, NOTES_OF_LOSSES, OF_ANYTHING, OF_BOTH, OF_LOSSES
from tests.testing.test_losses import AVERAGE, D_LOSSES, G_LOSSES, SMOOTHED_LOSSES, Call, names, sp, square

pytestmark = pytest.mark.usefixtures("one_thread")

Case = tuple[set[str], str, Call, dict[str, Any]]
MANY, TABLE, DETACHED = (
    "needs as many real as fake logits",
    "broadcasts [N, 1] against [N]",
    "the other side's mean is detached",
)
ROWS, MAPS, PAPER = (
    "means over the rows of maps",
    "each map averaged before the loss",
    "targets 1, -1, 0 of the LSGAN paper",
)
PAIRS = "means of the other side where pairs were asked"
bce = F.binary_cross_entropy_with_logits


def side(x: Tensor, label: float) -> Tensor:
    """Of logits relative to the other side's mean."""
    return bce(x, torch.full_like(x, label))


def of_maps(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1) if x.dim() > 1 else x


D_NOTES: dict[str, Case] = {
    "wasserstein of differences": ({MANY}, "wgan", lambda r, f: (f - r).mean(), {}),
    "hinge, one mean": ({MANY}, "hinge", lambda r, f: (F.relu(1 - r) + F.relu(1 + f)).mean(), {}),
    "logits in one tensor": (
        {MANY},
        "nonsaturating",
        lambda r, f: 2 * bce(torch.cat([r, f]), torch.cat([torch.ones_like(r), torch.zeros_like(f)])),
        {},
    ),
    "paired": ({TABLE}, "relativistic", lambda r, f: sp(-(r - f)).mean(), {}),
    "means detached": ({DETACHED}, AVERAGE, lambda r, f: side(r - f.detach().mean(), 1) + side(f - r.detach().mean(), 0), {}),
    "one mean detached": ({DETACHED}, AVERAGE, lambda r, f: side(r - f.mean(), 1) + side(f - r.detach().mean(), 0), {}),
    "means over rows": ({ROWS}, AVERAGE, lambda r, f: side(r - f.mean(0), 1) + side(f - r.mean(0), 0), {}),
    "over rows, detached": (
        {ROWS, DETACHED},
        AVERAGE,
        lambda r, f: side(r - f.mean(0, keepdim=True).detach(), 1) + side(f - r.mean(0, keepdim=True).detach(), 0),
        {},
    ),
    "a logit for each map": ({MAPS}, "nonsaturating", lambda r, f: sp(-of_maps(r)).mean() + sp(of_maps(f)).mean(), {}),
    "1 and -1": ({PAPER}, "lsgan", lambda r, f: square(r, 1.0) + square(f, -1.0), {}),
    "1 and -1, halved": ({PAPER}, "lsgan", lambda r, f: 0.5 * (square(r, 1.0) + square(f, -1.0)), {"scale": 0.5}),
    "0.9 and -1": ({PAPER}, "lsgan", lambda r, f: square(r, 0.9) + square(f, -1.0), {"label_smoothing": 0.1}),
    "drift": (
        {"drift term on the real logits"},
        "wgan",
        lambda r, f: f.mean() - r.mean() + 1e-3 * r.square().mean(),
        {},
    ),
    "zeros(1)": ({"one element instead of a 0-d tensor"}, "wgan", lambda r, f: torch.zeros(1) + f.mean() - r.mean(), {}),
    "[1, 1]": ({"one element instead of a 0-d tensor"}, "wgan", lambda r, f: (f.mean() - r.mean()).view(1, 1), {}),
    "with parts": (
        {"a tuple, whose first element is the value"},
        "wgan",
        lambda r, f: (f.mean() - r.mean(), {"real": r.mean().item()}),
        {},
    ),
}

G_NOTES: dict[str, Case] = {
    "0": ({PAPER}, "lsgan", lambda f: square(f, 0.0), {}),
    "0, halved": ({PAPER}, "lsgan", lambda f: 0.5 * f.square().mean(), {"scale": 0.5}),
    "hinge of the real side": ({"relu(1 - f) for the generator"}, "hinge", lambda f: F.relu(1 - f).mean(), {}),
    "of maps": ({MAPS}, "nonsaturating", lambda f: sp(-of_maps(f)).mean(), {}),
    "paired": ({TABLE}, "relativistic", lambda f, r: sp(-(f - r)).mean(), {}),
    "mean detached": ({DETACHED}, AVERAGE, lambda f, r: side(f - r.mean(), 1) + side(r - f.detach().mean(), 0), {}),
    "over rows": ({ROWS}, AVERAGE, lambda f, r: side(f - r.mean(0), 1) + side(r - f.mean(0), 0), {}),
}

# what people take for one of these, or write in its place
FAULTS: dict[str, Case] = {
    "relu of means": ({"relu of a mean"}, "hinge", lambda r, f: F.relu(1 - r.mean()) + F.relu(1 + f.mean()), {}),
    "softplus of means": ({"loss of a mean"}, "nonsaturating", lambda r, f: sp(-r.mean()) + sp(f.mean()), {}),
    "difference of means": ({"loss of a mean"}, "relativistic", lambda r, f: sp(f.mean() - r.mean()), {}),
    "real half": ({"real side halved"}, "lsgan", lambda r, f: 0.5 * square(r, 1.0) + square(f, 0.0), {}),
    "fake half": ({"fake side halved"}, "hinge", lambda r, f: F.relu(1 - r).mean() + 0.5 * F.relu(1 + f).mean(), {}),
    "fake quarter": (
        {"fake side halved"},
        "lsgan",
        lambda r, f: 0.5 * square(r, 1.0) + 0.25 * square(f, 0.0),
        {"scale": 0.5},
    ),
    "averaging fake half": (
        {"fake side halved"},
        AVERAGE,
        lambda r, f: side(r - f.mean(), 1) + 0.5 * side(f - r.mean(), 0),
        {},
    ),
    "fakes only": ({"real side left out"}, "nonsaturating", lambda r, f: side(f, 0), {}),
    "reals only": ({"fake side left out"}, "wgan", lambda r, f: -r.mean(), {}),
    "bce(target, logits)": (
        {"BCE arguments exchanged"},
        "nonsaturating",
        lambda r, f: bce(torch.ones_like(r), r) + bce(torch.zeros_like(f), f),
        {},
    ),
    "half of bce(target, logits)": (
        {"BCE arguments exchanged", "halved"},
        "vanilla",
        lambda r, f: 0.5 * (bce(torch.ones_like(r), r) + bce(torch.zeros_like(f), f)),
        {},
    ),
    "bce(0.9, logits)": (
        {"BCE arguments exchanged"},
        "minimax",
        lambda r, f: bce(torch.full_like(r, 0.9), r) + bce(torch.zeros_like(f), f),
        {"label_smoothing": 0.1},
    ),
    "BCELoss()(target, probability)": (
        {"BCE arguments exchanged"},
        "nonsaturating",
        lambda r, f: nn.BCELoss()(torch.ones_like(r), torch.sigmoid(r)) + nn.BCELoss()(torch.zeros_like(f), torch.sigmoid(f)),
        {},
    ),
    "bce(target, logits) of the real side": (
        {"BCE arguments exchanged"},
        "nonsaturating",
        lambda r, f: bce(torch.ones_like(r), r) + bce(f, torch.zeros_like(f)),
        {},
    ),
    "bce(target, logits) of the fake side": (
        {"BCE arguments exchanged"},
        "minimax",
        lambda r, f: bce(r, torch.full_like(r, 0.8)) + bce(torch.zeros_like(f), f),
        {"label_smoothing": 0.2},
    ),
    "bce(target, differences)": (
        {"BCE arguments exchanged"},
        "relativistic",
        lambda r, f: bce(torch.ones_like(r), r - f),
        {},
    ),
    "bce(target, logits) of means": (
        {"BCE arguments exchanged", "halved"},
        AVERAGE,
        lambda r, f: 0.5 * (bce(torch.ones_like(r), r - f.mean()) + bce(torch.zeros_like(f), f - r.mean())),
        {},
    ),
    "BCELoss()(target, probability) of means": (
        {"BCE arguments exchanged"},
        AVERAGE,
        lambda r, f: nn.BCELoss()(torch.ones_like(r), torch.sigmoid(r - f.mean())) + side(f - r.mean(), 0.0),
        {},
    ),
    "no margin": ({"margin other than 1"}, "hinge", lambda r, f: F.relu(-r).mean() + F.relu(f).mean(), {}),
    "a margin of 0.5": ({"margin other than 1"}, "hinge", lambda r, f: F.relu(0.5 - r).mean() + F.relu(0.5 + f).mean(), {}),
    "the real sign": (
        {"sign of the real logits flipped"},
        "hinge",
        lambda r, f: F.relu(1 + r).mean() + F.relu(1 + f).mean(),
        {},
    ),
    "the fake sign, halved": (
        {"sign of the fake logits flipped", "halved"},
        "hinge",
        lambda r, f: 0.5 * (F.relu(1 - r).mean() + F.relu(1 - f).mean()),
        {},
    ),
    "means for pairs, as ESRGAN": (
        {PAIRS},
        "relativistic",
        lambda r, f: 0.5 * (side(r - f.mean(0, keepdim=True), 1) + side(f - r.mean(0, keepdim=True), 0)),
        {},
    ),
    "tanh": (
        {"tanh applied to the logits"},
        "hinge",
        lambda r, f: F.relu(1 - torch.tanh(r)).mean() + F.relu(1 + torch.tanh(f)).mean(),
        {},
    ),
    "labels of 0.9 and 0.1": (
        {"label smoothing not asked for"},
        "lsgan",
        lambda r, f: square(r, 0.9) + square(f, 0.1),
        {},
    ),
    "fake logits detached": (
        {"no gradient to the fake logits"},
        "hinge",
        lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f.detach()).mean(),
        {},
    ),
    "real logits detached": (
        {"no gradient to the real logits"},
        AVERAGE,
        lambda r, f: side(r.detach() - f.mean(), 1) + side(f - r.detach().mean(), 0),
        {},
    ),
    "1 and -1, real half": ({"real side halved", PAPER}, "lsgan", lambda r, f: 0.5 * square(r, 1.0) + square(f, -1.0), {}),
}

G_FAULTS: dict[str, Case] = {
    "bce(target, logits)": ({"BCE arguments exchanged"}, "nonsaturating", lambda f: bce(torch.ones_like(f), f), {}),
    "-bce(target, logits)": ({"BCE arguments exchanged"}, "minimax", lambda f: -bce(torch.zeros_like(f), f), {}),
    "bce(target, differences)": ({"BCE arguments exchanged"}, "relativistic", lambda f, r: bce(torch.ones_like(f), f - r), {}),
    "BCELoss()(target, probability)": (
        {"BCE arguments exchanged"},
        "relativistic",
        lambda f, r: nn.BCELoss()(torch.ones_like(f), torch.sigmoid(f - r)),
        {},
    ),
    "bce(target, logits) of means": (
        {"BCE arguments exchanged"},
        AVERAGE,
        lambda f, r: bce(torch.ones_like(f), f - r.mean()) + bce(torch.zeros_like(r), r - f.mean()),
        {},
    ),
    "bce(target, logits) of one mean": (
        {"BCE arguments exchanged"},
        AVERAGE,
        lambda f, r: side(f - r.mean(), 1) + bce(torch.zeros_like(r), r - f.mean()),
        {},
    ),
    "means for pairs": ({PAIRS}, "relativistic", lambda f, r: side(f - r.mean(), 1) + side(r - f.mean(), 0), {}),
    "label 0.9": ({"label smoothing not asked for"}, "nonsaturating", lambda f: side(f, 0.9), {}),
    "fakes only": ({"real side left out", MANY}, AVERAGE, lambda f, r: bce(f - r.mean(), torch.ones_like(r)), {}),
}


@pytest.mark.parametrize(("expected", "kind", "loss", "options"), D_NOTES.values(), ids=D_NOTES)
def test_a_discriminator_losss_convention_has_a_note(expected: set[str], kind: str, loss: Call, options: dict) -> None:
    found = testing.diagnose_d_loss(loss, kind, **options)
    assert names(found) == expected and all(note.is_note for note in found)
    testing.check_d_loss(loss, kind, **options)


@pytest.mark.parametrize(("expected", "kind", "loss", "options"), G_NOTES.values(), ids=G_NOTES)
def test_a_generator_losss_convention_has_a_note(expected: set[str], kind: str, loss: Call, options: dict) -> None:
    found = testing.diagnose_g_loss(loss, kind, **options)
    assert names(found) == expected and all(note.is_note for note in found)
    testing.check_g_loss(loss, kind, **options)


@pytest.mark.parametrize(("expected", "kind", "loss", "options"), FAULTS.values(), ids=FAULTS)
def test_a_formula_that_is_none_of_them_is_named(expected: set[str], kind: str, loss: Call, options: dict) -> None:
    found = testing.diagnose_d_loss(loss, kind, **options)
    assert names(found) == expected and not found[0].is_note
    with pytest.raises(testing.ConformanceError):
        testing.check_d_loss(loss, kind, **options)


@pytest.mark.parametrize(("expected", "kind", "loss", "options"), G_FAULTS.values(), ids=G_FAULTS)
def test_a_generators_formula_that_is_none_of_them_is_named(expected: set[str], kind: str, loss: Call, options: dict) -> None:
    found = testing.diagnose_g_loss(loss, kind, **options)
    assert names(found) == expected and not found[0].is_note


def test_every_name_of_losses_has_a_mistake_or_a_convention_here() -> None:
    tables = (D_LOSSES, G_LOSSES, SMOOTHED_LOSSES, D_NOTES, G_NOTES, FAULTS, G_FAULTS)
    shown = set().union(*(case[0] for table in tables for case in table.values()))
    assert shown == set(OF_ANYTHING) | set(OF_BOTH) | set(OF_LOSSES) | set(NOTES) | set(NOTES_OF_LOSSES)


def test_faults_stand_before_notes_and_the_error_has_faults_alone() -> None:
    def loss(r: Tensor, f: Tensor) -> Tensor:
        return 0.5 * (side(r - f.detach().mean(0), 1) + side(f - r.detach().mean(0), 0)).view(1)

    found = testing.diagnose_d_loss(loss, AVERAGE)
    assert [fault.is_note for fault in found] == [False, True, True, True]
    assert {fault.name in ALL_NOTES for fault in found[1:]} == {True} and found[0].name == "halved"
    with pytest.raises(testing.ConformanceError) as raised:
        testing.check_d_loss(loss, AVERAGE)
    assert raised.value.faults == found[:1]
    assert "1 fault\n" in str(raised.value) and "detached" not in str(raised.value)


def test_the_evidence_of_detached_means_says_of_which_side() -> None:
    for which, loss in (
        ("a constant mean of the real logits", lambda r, f: side(r - f.mean(), 1) + side(f - r.detach().mean(), 0)),
        ("a constant mean of the fake logits", lambda r, f: side(r - f.detach().mean(), 1) + side(f - r.mean(), 0)),
    ):
        (note,) = testing.diagnose_d_loss(loss, AVERAGE)
        assert which in note.evidence and "gradcheck" not in note.remedy


@pytest.mark.parametrize(
    "shape", [(lambda n: (n, 1)), (lambda n: (n,)), (lambda n: (n, 1, 2, 3))], ids=["[N, 1]", "[N]", "[N, 1, H, W]"]
)
def test_labels_of_one_shape_are_no_fault(shape: Call) -> None:
    def loss(r: Tensor, f: Tensor) -> Tensor:
        return bce(r, torch.ones(shape(len(r)))) + bce(f, torch.zeros(shape(len(f))))

    if shape(5) != (5, 1, 2, 3):
        assert testing.diagnose_d_loss(loss) == ()
        assert names(testing.diagnose_d_loss(lambda r, f: 0.5 * loss(r, f))) == {"halved"}
    fixed = 64
    assert testing.diagnose_d_loss(lambda r, f: bce(r, torch.ones(shape(fixed))) + bce(f, torch.zeros(shape(fixed)))) == ()
