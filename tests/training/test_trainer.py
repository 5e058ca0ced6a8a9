"""The trainer: arguments, determinism, checkpoints, resumption, reports."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fastgan
from fastgan import Trainer, optim, penalties
from fastgan.mlp import MLP
from fastgan.training import checkpoint
from fastgan.training.checkpoint import CheckpointError
from fastgan.training.fit import NonFiniteError
from fastgan.training.report import RunFolderError

pytestmark = pytest.mark.usefixtures("one_thread")

POINTS = torch.linspace(-1, 1, 60).view(30, 2)


def small(**options) -> Trainer:
    """A trainer of the package's networks on points: quick, and whole."""
    pair = (fastgan.Generator(4, image_size=2), fastgan.Discriminator(image_size=2))
    return Trainer(*pair, **{"device": "cpu", "precision": "fp32", "seed": 5} | options)


def flat(state: dict, prefix: str = "") -> dict:
    """A nested state as one level."""
    found = {}
    for name, value in state.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def assert_same_state(one: Trainer, other: Trainer) -> None:
    mine, theirs = flat(one.state_dict()), flat(other.state_dict())
    assert mine.keys() == theirs.keys()
    different = [n for n in mine if not torch.equal(torch.as_tensor(mine[n]), torch.as_tensor(theirs[n]))]
    assert not different


def test_the_readme_signature_and_attributes():
    trainer = Trainer(fastgan.Generator(), fastgan.Discriminator(), loss="wgan-gp", seed=0)
    assert trainer.d_steps == 5 and trainer.step_count == 0 and trainer.engine == "closed-form"
    assert trainer.penalties == (penalties.GradientPenalty(10.0),)
    assert trainer.generator(torch.zeros(2, 100, device=trainer.device)).shape == (2, 784)
    assert trainer.sample(3).shape == (3, 1, 28, 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(dict(loss="foo"), "wgan-gp", id="unknown loss lists all"),
        pytest.param(dict(d_steps=0), "d_steps", id="d_steps 0"),
        pytest.param(dict(seed=-1), "seed", id="negative seed"),
        pytest.param(dict(ema=1.0), "ema", id="an average that never moves"),
        pytest.param(dict(precision="int8"), "precision", id="unknown precision"),
        pytest.param(dict(precision="tf32"), "CUDA", id="tf32 on the CPU"),
        pytest.param(dict(engine="warp"), "engine", id="unknown engine"),
        pytest.param(dict(capture="maybe"), "capture", id="unknown capture"),
        pytest.param(dict(device="tpu"), "device", id="unknown device"),
        pytest.param(dict(device="cuda:77"), "not there", id="a device that is not there"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_a_penalty_that_is_no_spec_is_a_type_error():
    with pytest.raises(TypeError, match="spec"):
        small(penalty="r1")


@pytest.mark.parametrize("batch", [0, -4, 2.5, True])
def test_bad_batch_sizes_are_refused(batch):
    with pytest.raises(ValueError, match="batch_size must be"):
        small().attach(POINTS, batch)


def test_networks_and_data_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="makes samples of 2 numbers, but digits has 784"):
        small().attach("digits")
    with pytest.raises(RuntimeError, match="attach"):
        small().step()


def test_networks_that_share_parameters_are_refused():
    net = fastgan.Discriminator(image_size=2)
    with pytest.raises(ValueError, match="share"):
        Trainer(net, net)


def test_a_run_is_a_function_of_its_seed():
    runs = [small(seed=seed).attach(POINTS, 8) for seed in (1, 1, 2)]
    for run in runs:
        run.step(3)
    assert_same_state(runs[0], runs[1])
    assert not torch.equal(runs[0].sample(4), runs[2].sample(4))


def test_given_weights_are_kept():
    seeded = fastgan.Generator(4, image_size=2, seed=9)
    changed = fastgan.Discriminator(image_size=2)
    nn.init.normal_(changed.main.layers[0].weight.data, std=0.02)
    before = [p.detach().clone() for p in (*seeded.parameters(), *changed.parameters())]
    Trainer(seeded, changed, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(before, (*seeded.parameters(), *changed.parameters()), strict=True))


def test_steps_at_once_are_steps_one_by_one():
    together, singly = small().attach(POINTS, 8), small().attach(POINTS, 8)
    last = together.step(4)
    for _ in range(4):
        metrics = singly.step()
    assert_same_state(together, singly)
    assert all(torch.equal(last[name], metrics[name]) for name in last)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict(ema=0.9), id="adam and an average"),
        pytest.param(dict(loss="wgan", precision="bf16"), id="wgan: rmsprop, five D updates, bf16"),
        pytest.param(dict(precision="fp16", g_optimizer=optim.SGD(0.1, momentum=0.9)), id="fp16's loss scale, momentum"),
    ],
)
def test_n_and_m_steps_are_n_save_load_m(options, tmp_path):
    whole = small(**options).attach(POINTS, 8)
    whole.step(7)
    part = small(**options).attach(POINTS, 8)
    part.step(4)
    part.save(tmp_path / "saved")
    resumed = Trainer.load(tmp_path / "saved", device="cpu").attach(POINTS, 8)
    resumed.step(3)
    assert_same_state(whole, resumed)


@pytest.mark.slow
def test_a_new_process_resumes_bit_for_bit(tmp_path):
    whole = small(ema=0.9).attach(POINTS, 8)
    whole.step(4)
    whole.save(tmp_path / "saved")
    script = (
        "import sys, torch, fastgan\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "trainer = fastgan.Trainer.load(sys.argv[1], device='cpu').attach(torch.linspace(-1, 1, 60).view(30, 2), 8)\n"
        "trainer.step(3)\n"
        "trainer.save(sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "saved", tmp_path / "later"], check=True)
    whole.step(3)
    assert_same_state(whole, Trainer.load(tmp_path / "later", device="cpu"))


def test_foreign_networks_are_loaded_into_given_ones(tmp_path):
    def pair():
        return nn.Sequential(nn.Linear(3, 2), nn.Tanh()), nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Linear(4, 1))

    trainer = Trainer(*pair(), device="cpu").attach(POINTS, 8)
    trainer.step(2)
    trainer.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="pass one as generator="):
        Trainer.load(tmp_path / "saved")
    assert_same_state(trainer, Trainer.load(tmp_path / "saved", *pair(), device="cpu"))


def test_another_architecture_is_refused_and_nothing_changes(tmp_path):
    small().save(tmp_path / "saved")
    other = Trainer(fastgan.Generator(5, image_size=2), fastgan.Discriminator(image_size=2), device="cpu")
    before = {name: torch.as_tensor(value).clone() for name, value in flat(other.state_dict()).items()}
    with pytest.raises(CheckpointError, match="another architecture"):
        other.restore(tmp_path / "saved")
    assert all(torch.equal(torch.as_tensor(value), before[name]) for name, value in flat(other.state_dict()).items())


def test_moving_a_network_is_repaired_or_refused():
    trainer, twin = small().attach(POINTS, 8), small().attach(POINTS, 8)
    trainer.step()
    twin.step()
    trainer.generator.double().float()
    trainer.step()
    twin.step()
    assert_same_state(trainer, twin)
    trainer.discriminator.double()
    with pytest.raises(RuntimeError, match="changed its dtype"):
        trainer.step()


def test_samples_come_from_fixed_latents_and_the_average(tmp_path):
    trainer = small(ema=0.5).attach(POINTS, 8)
    trainer.step(3)
    assert torch.equal(trainer.sample(5), trainer.sample(5))
    # the latents are the same ones; a matrix product of other rows may round differently
    torch.testing.assert_close(trainer.sample(5), trainer.sample(8)[:5])
    assert not torch.equal(trainer.sample(5), trainer.sample(5, ema=False))
    assert not torch.equal(trainer.sample(5), trainer.sample(5, seed=123))
    assert trainer.generator.training


def test_fit_writes_the_run_folder(tmp_path):
    run = tmp_path / "run"
    summary = small().fit(
        POINTS, steps=10, batch_size=8, out=run, log_every=4, sample_every=5, checkpoint_every=5, progress=False
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 10]
    wanted = {"d_loss", "g_loss", "d_real", "d_fake", "penalty", "d_grad_norm", "g_grad_norm", "images_per_second", "epoch"}
    assert wanted <= rows[0].keys() and all(math.isfinite(row[name]) for row in rows for name in wanted)
    assert sorted(p.name for p in (run / "samples").iterdir()) == [f"step_{s:08d}.png" for s in (0, 5, 10)]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [f"step_{s:08d}" for s in (0, 5, 10)]
    assert all((run / name).stat().st_size > 0 for name in ("config.json", "losses.png", "samples.gif", "summary.json"))
    assert summary["steps"] == 10 and json.loads((run / "summary.json").read_text())["steps"] == 10


def test_fit_keeps_what_exists_out_of_garbage_collections(monkeypatch):
    trainer, counts = small(), []
    step = trainer.step
    monkeypatch.setattr(trainer, "step", lambda n: counts.append(gc.get_freeze_count()) or step(n))
    gc.unfreeze()  # what other tests may have left
    trainer.fit(POINTS, steps=2, batch_size=8, progress=False)
    assert min(counts) > 10_000
    assert gc.get_freeze_count() == 0


def test_fit_counts_the_whole_run(tmp_path):
    trainer = small()
    trainer.fit(POINTS, epochs=2, batch_size=8, progress=False)
    assert trainer.step_count == 8  # ceil(30 / 8) steps an epoch
    trainer.fit(POINTS, steps=10, batch_size=8, progress=False)
    assert trainer.step_count == 10
    with pytest.raises(ValueError, match="either epochs or steps"):
        trainer.fit(POINTS)


@pytest.mark.slow
def test_a_resumed_fit_is_the_uninterrupted_one(tmp_path):
    options = dict(batch_size=8, log_every=2, sample_every=2, progress=False)
    whole = small()
    whole.fit(POINTS, steps=8, out=tmp_path / "whole", **options)
    small().fit(POINTS, steps=6, out=tmp_path / "run", **options)
    # what a crash leaves: metrics and samples past the last checkpoint, half a checkpoint, half a line
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "step_00000006" / "generator.safetensors").write_bytes(b"torn")
    (checkpoints / ".step_00000007.1").mkdir()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 7, "d_lo')
    newest = checkpoint.latest(checkpoints)
    assert newest is not None and newest.name != "step_00000006"
    resumed = small()
    resumed.fit(POINTS, steps=8, out=tmp_path / "run", resume=True, **options)
    assert_same_state(whole, resumed)
    assert not list(checkpoints.glob(".*"))
    rows = {name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("whole", "run")}
    for mine, theirs in zip(rows["run"], rows["whole"], strict=True):
        assert mine["step"] == theirs["step"] and mine["d_loss"] == theirs["d_loss"]


@pytest.mark.slow
def test_resuming_with_other_data_or_another_loss_is_refused(tmp_path):
    small().fit(POINTS, steps=2, batch_size=8, out=tmp_path / "run", progress=False)
    again = dict(steps=4, batch_size=8, out=tmp_path / "run", resume=True, progress=False)
    with pytest.raises(CheckpointError, match="another data"):
        small().fit(POINTS * 0.5, **again)
    with pytest.raises(CheckpointError, match="another loss"):
        small(loss="lsgan").fit(POINTS, **again)


def test_resuming_nothing_starts_at_step_0_and_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    trainer = small()
    trainer.fit(POINTS, steps=2, batch_size=8, out=tmp_path / "new", resume=True, progress=False)
    assert trainer.step_count == 2 and "starting at step 0" in caplog.text


def test_an_existing_folder_is_refused_and_left_untouched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="--resume"):
        small().fit(POINTS, steps=2, out=tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_written_is_found_out_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    trainer = small()
    with pytest.raises(RunFolderError, match="cannot be written"):
        trainer.fit(POINTS, steps=2, out=tmp_path / "file" / "run", progress=False)
    assert trainer.step_count == 0


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_what_happens_when_a_value_is_not_finite(policy, tmp_path):
    trainer = small(g_optimizer=optim.SGD(0.0), d_optimizer=optim.SGD(0.0))
    with torch.no_grad():
        trainer.discriminator.main.layers[-1].bias.fill_(math.nan)
    options = dict(steps=4, batch_size=8, out=tmp_path / "run", log_every=2, on_nonfinite=policy, progress=False)
    if policy == "skip":
        assert trainer.fit(POINTS, **options)["last"]["skipped"] > 0
        return
    with pytest.raises(NonFiniteError, match="by step 2"):
        trainer.fit(POINTS, **options)
    assert checkpoint.latest(tmp_path / "run" / "checkpoints").name == "step_00000002"


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_checkpoint_is_refused(damage, tmp_path):
    small().save(tmp_path / "saved")
    file = tmp_path / "saved" / ("manifest.json" if damage == "manifest" else "state.pt")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    changes = {"truncate": content[:-1], "flip": content, "manifest": b"{}"}
    file.unlink() if damage == "remove" else file.write_bytes(bytes(changes[damage]))
    with pytest.raises(CheckpointError, match="damaged"):
        Trainer.load(tmp_path / "saved")


def test_a_missing_checkpoint_is_said_to_be_missing(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Trainer.load(Path(tmp_path) / "nowhere")


def test_saving_again_replaces(tmp_path):
    trainer = small().attach(POINTS, 8)
    trainer.save(tmp_path / "saved")
    trainer.step()
    trainer.save(tmp_path / "saved")
    assert Trainer.load(tmp_path / "saved", device="cpu").step_count == 1
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict(loss="nonsaturating"), id="nonsaturating"),
        pytest.param(dict(loss="lsgan"), id="lsgan"),
        pytest.param(dict(loss="hinge"), id="hinge"),
        pytest.param(dict(loss="wgan-gp"), id="wgan-gp"),
        pytest.param(dict(loss="relativistic", penalty=[penalties.R1(0.1), penalties.R2(0.1)]), id="relativistic, R1 and R2"),
    ],
)
def test_the_generator_moves_onto_the_data(options):
    centre, spread = torch.tensor([0.5, -0.4]), 0.1
    points = centre + spread * torch.randn(500, 2)
    torch.manual_seed(1)
    pair = MLP((4, 32, 32, 2), output="tanh"), MLP((2, 32, 32, 1), activation="leaky_relu")
    rates = dict(g_optimizer=optim.Adam(1e-3, betas=(0.5, 0.9)), d_optimizer=optim.Adam(1e-3, betas=(0.5, 0.9)))
    trainer = Trainer(*pair, precision="fp32", device="cpu", ema=0.99, **rates, **options).attach(points.clamp(-1, 1), 64)
    trainer.step(500 if trainer.d_steps == 1 else 400)
    made = trainer.sample(500)
    assert (made.mean(0) - centre).norm() < 0.15
    assert 0.2 * spread < made.std(0).min() and made.std(0).max() < 3 * spread
