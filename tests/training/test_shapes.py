"""Samples have the data's shape, everywhere and after loading; networks and data that do not fit are refused before a run."""

from __future__ import annotations

import re
from pathlib import Path

import PIL.Image
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import fastgan
from fastgan import Trainer, data
from fastgan.training.report import RunFolder
from tests.golden import FORMAT1, games

pytestmark = pytest.mark.usefixtures("one_thread")


def bytes_(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def floats(*shape: int) -> Tensor:
    return torch.rand(shape) * 2 - 1


class Permuted(nn.Module):
    """x.permute(axes), which leaves the numbers where they are in memory."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)


def generator(*shape: int, end: nn.Module | None = None) -> nn.Module:
    """Latents [B, 4] -> samples of a shape."""
    layers = [nn.Linear(4, torch.Size(shape).numel()), nn.Tanh()]
    layers += [nn.Unflatten(1, shape)] if len(shape) > 1 else []
    return nn.Sequential(*layers, *([] if end is None else [end]))


def critic(features: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


def trainer_of(made: nn.Module, values: Tensor, **options) -> Trainer:
    return Trainer(made, critic(values[0].numel()), device="cpu", **options)


# what the generator makes, what the data are, and a sample's shape
FITTING = [
    pytest.param(generator(3, 8, 6), bytes_(16, 3, 8, 6), (3, 8, 6), id="colours"),
    pytest.param(generator(144), bytes_(16, 3, 8, 6), (3, 8, 6), id="flat rows of colours"),
    pytest.param(generator(576), bytes_(16, 1, 18, 32), (1, 18, 32), id="flat rows of 24 squared numbers, not square"),
    pytest.param(generator(6, 8, 3, end=Permuted(0, 3, 2, 1)), bytes_(16, 3, 8, 6), (3, 8, 6), id="permuted to fit"),
    pytest.param(generator(3, 12, 16), floats(16, 576), (3, 12, 16), id="flat data that look square"),
    pytest.param(generator(3, 16, 16), bytes_(16, 768), (3, 16, 16), id="flat bytes"),
    pytest.param(generator(784), floats(16, 784), (1, 28, 28), id="flat on both sides"),
    pytest.param(generator(8, 12), floats(16, 1, 8, 12), (1, 8, 12), id="no channel made"),
    pytest.param(generator(8, 12, 1), floats(16, 1, 8, 12), (1, 8, 12), id="one channel last"),
    pytest.param(generator(1, 8, 12), bytes_(16, 8, 12), (1, 8, 12), id="no channel given"),
    pytest.param(generator(96), bytes_(16, 8, 12), (8, 12), id="flat rows, no channel given"),
    pytest.param(generator(1, 40), floats(16, 1, 40), (1, 40), id="signals"),
    pytest.param(generator(100), floats(16, 2, 50), (2, 50), id="flat rows of signals of two channels"),
    pytest.param(generator(40), bytes_(16, 1, 40), (1, 40), id="flat rows of signals of bytes"),
    pytest.param(generator(40, 1), floats(16, 1, 40), (1, 40), id="signals with the one channel last"),
    pytest.param(generator(3, 40), floats(16, 3, 40), (3, 40), id="signals of three channels"),
    pytest.param(generator(1, 4, 5, 6), bytes_(16, 1, 4, 5, 6), (1, 4, 5, 6), id="voxels"),
    pytest.param(generator(120), bytes_(16, 1, 4, 5, 6), (1, 4, 5, 6), id="flat rows of voxels"),
    pytest.param(generator(2), floats(16, 2), (2,), id="points"),
    pytest.param(generator(9), floats(16, 9), (9,), id="points of nine numbers"),
    pytest.param(generator(7), bytes_(16, 7), (7,), id="flat bytes that are no square image"),
    pytest.param(generator(1, 18), bytes_(16, 18), (18,), id="flat bytes and a row with one channel"),
    pytest.param(generator(64), bytes_(16, 64), (1, 8, 8), id="flat bytes of a square image"),
]


@pytest.mark.parametrize(("made", "values", "shape"), FITTING)
def test_samples_have_the_datas_shape_after_loading_too(
    made: nn.Module, values: Tensor, shape: tuple[int, ...], tmp_path: Path
) -> None:
    trainer = trainer_of(made, values, loss="wgan-gp", ema=0.9)
    trainer.fit(values, steps=1, batch_size=4, out=tmp_path / "run", progress=False)
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 2
    loaded = Trainer.load(tmp_path / "run", trainer.generator, trainer.discriminator, device="cpu")
    restored, told = (trainer_of(made, values, loss="wgan-gp", ema=0.9) for _ in range(2))
    restored.restore(tmp_path / "run")
    told.load_state_dict(trainer.state_dict())
    for ema in (True, False):
        samples = trainer.sample(3, ema)
        assert samples.shape == (3, *shape)
        assert all(torch.equal(other.sample(3, ema), samples) for other in (loaded, restored, told))


REFUSED = [
    pytest.param(generator(8, 6, 3), bytes_(16, 3, 8, 6), (3, 1, 2), id="channels last"),
    pytest.param(generator(8, 8, 3), bytes_(16, 3, 8, 8), (3, 1, 2), id="channels last, square"),
    pytest.param(generator(1, 12, 8), floats(16, 1, 8, 12), (1, 3, 2), id="height and width exchanged"),
    pytest.param(generator(3, 6, 8), bytes_(16, 3, 8, 6), (1, 3, 2), id="colours, height and width exchanged"),
    pytest.param(generator(12, 8), bytes_(16, 8, 12), (2, 1), id="no channels, height and width exchanged"),
    pytest.param(generator(40, 2), floats(16, 2, 40), (2, 1), id="signals with the channels last"),
    pytest.param(generator(4, 5, 6, 2), floats(16, 2, 4, 5, 6), (4, 1, 2, 3), id="voxels with the channels last"),
    pytest.param(generator(6, 8), floats(16, 1, 8, 6), (2, 1), id="no channel made, height and width exchanged"),
    pytest.param(generator(6, 1, 8), floats(16, 1, 8, 6), (2, 3, 1), id="the one channel in the middle"),
    pytest.param(generator(5, 4, 6), floats(16, 1, 4, 5, 6), (2, 1, 3), id="voxels, no channel made"),
]


@pytest.mark.parametrize(("made", "values", "axes"), REFUSED)
@pytest.mark.parametrize("wrapped", [False, True], ids=["tensor", "dataset"])
def test_another_layout_is_refused_with_what_to_write(
    made: nn.Module, values: Tensor, axes: tuple[int, ...], wrapped: bool, tmp_path: Path
) -> None:
    given = TensorDataset(values) if wrapped else values
    shapes = made(torch.zeros(2, 4)).shape[1:], values.shape[1:]
    with pytest.raises(ValueError, match="in another order") as caught:
        trainer_of(made, values).fit(given, steps=1, batch_size=4, out=tmp_path / "run", progress=False)
    assert all(str(tuple(shape)) in str(caught.value) for shape in shapes)
    assert f"end it with .permute{(0, *axes)}" in str(caught.value) and not (tmp_path / "run").exists()
    mended = nn.Sequential(made, Permuted(0, *axes))
    assert trainer_of(mended, values).attach(given, 4).sample(2).shape == (2, *values.shape[1:])
    if match := re.search(r"give the data's \.permute\((.*)\)", str(caught.value)):
        trainer_of(made, values).attach(values.permute(*map(int, match[1].split(","))), 4).step()


def test_a_channel_that_the_data_have_not_stands_in_no_permutations_way() -> None:
    made, values = generator(1, 6, 8), bytes_(16, 8, 6)
    with pytest.raises(ValueError, match=r"end it with .permute\(0, 1, 3, 2\), or give the data's .permute\(0, 2, 1\)"):
        trainer_of(made, values).attach(values, 4)
    mended = nn.Sequential(made, Permuted(0, 1, 3, 2))
    assert trainer_of(mended, values).attach(values, 4).sample(2).shape == (2, 1, 8, 6)


def test_a_layout_that_no_permutation_mends_names_the_datas() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 16\), but tensor has \(1, 8, 8\).*let its layers make \(1, 8, 8\)"):
        trainer_of(generator(4, 16), floats(16, 1, 8, 8)).attach(floats(16, 1, 8, 8))


def test_an_image_set_with_its_channels_last_is_told_to_permute() -> None:
    pictures = data.ImageSet("mine", bytes_(16, 8, 8, 3))
    with pytest.raises(ValueError, match=r"mine has \(8, 8, 3\).*give the data's .permute\(0, 3, 1, 2\)"):
        trainer_of(generator(3, 8, 8), pictures.images).attach(pictures)


def test_data_attached_after_loading_say_the_shape(tmp_path: Path) -> None:
    trainer = trainer_of(generator(144), bytes_(16, 3, 8, 6)).attach(bytes_(16, 3, 8, 6), 4)
    trainer.save(tmp_path / "saved")
    loaded = Trainer.load(tmp_path / "saved", trainer.generator, trainer.discriminator, device="cpu")
    assert loaded.attach(bytes_(16, 1, 9, 16), 4).sample(2).shape == (2, 1, 9, 16)
    loaded.load_state_dict(trainer.state_dict())
    assert loaded.sample(2).shape == (2, 1, 9, 16), "it trains on these data"


@pytest.mark.parametrize("features", [2, 9, 15, 20, 784])
def test_without_any_data_a_flat_row_is_what_flat_data_would_be(features: int) -> None:
    shape = trainer_of(generator(features), torch.zeros(1, features)).sample(2).shape[1:]
    assert shape == data.as_image_set(floats(2, features)).shape


def test_a_checkpoint_that_says_no_shape_is_read_as_before() -> None:
    folder = FORMAT1 / "mlp-fp32"
    loaded = Trainer.load(folder / "checkpoint", *games.mlp_pair(), device="cpu")
    assert loaded.sample(2).shape == (2, 1, games.SIDE, games.SIDE)


def test_samples_that_no_picture_shows_are_trained_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = floats(16, 8, 4, 4)
    trainer_of(generator(8, 4, 4), values).fit(
        values, steps=4, batch_size=4, sample_every=1, out=tmp_path / "run", progress=False
    )
    assert not list(RunFolder(tmp_path / "run").samples.iterdir()) and (tmp_path / "run" / "summary.json").exists()
    assert [record.getMessage().startswith("no picture shows samples of shape (8, 4, 4)") for record in caplog.records] == [
        True
    ]


class Latents(nn.Module):
    """A transposed convolution of what a function makes of the latents."""

    def __init__(self, layer: nn.Module, prepare, **attributes) -> None:
        super().__init__()
        self.layer, self.prepare = layer, prepare
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layer(self.prepare(z)))


LAYERS = {
    (1, 8): lambda: nn.ConvTranspose1d(8, 1, 8),
    (1, 8, 8): lambda: nn.ConvTranspose2d(8, 1, 8),
    (2, 5, 5, 5): lambda: nn.ConvTranspose3d(8, 2, 5),
}


@pytest.mark.parametrize("attributes", [{}, {"z_dim": 8}, {"latent_dim": 8}], ids=["nothing", "z_dim", "another name"])
@pytest.mark.parametrize("shape", LAYERS, ids=str)
@pytest.mark.parametrize("own", [False, True], ids=["as one pixel", "unsqueezed by the generator"])
def test_latents_come_in_the_form_that_the_generator_takes(
    own: bool, shape: tuple[int, ...], attributes: dict, tmp_path: Path
) -> None:
    def made() -> nn.Module:
        ones = [1] * (len(shape) - 1)
        return Latents(LAYERS[shape](), lambda z: z.view(*z.shape, *ones) if own else z, **attributes)

    values = floats(16, *shape)
    trainer = trainer_of(made(), values)
    assert trainer.sample(8).shape == (8, *shape), "before any data"
    trainer.attach(values, 8).step(2)
    trainer.save(tmp_path / "saved")
    loaded = Trainer.load(tmp_path / "saved", made(), critic(values[0].numel()), device="cpu")
    assert torch.equal(loaded.sample(8), trainer.sample(8))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        pytest.param(nn.Sequential(nn.Unflatten(1, (8, 2, 2)), nn.ConvTranspose2d(8, 1, 7)), "unflatten.*z_dim", id="spatial"),
        pytest.param(Latents(nn.Linear(4, 64), lambda z: z, z_dim=7), "cannot be multiplied.*z_dim", id="a wrong z_dim"),
        pytest.param(Latents(nn.Linear(4, 64), lambda z: z[:2]), r"it made samples of shape \(2, 64\)", id="other rows"),
        pytest.param(nn.LSTM(4, 64), "Linear|z_dim", id="no layer that says it"),
    ],
)
def test_a_generator_whose_latents_cannot_be_found_is_told_of_z_dim(made: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(made, floats(16, 64)).fit(floats(16, 64), steps=1, batch_size=8, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


class Returning(nn.Module):
    """What a function makes of a linear layer's output."""

    def __init__(self, before: int, after: int, change) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(before, after), change

    def forward(self, x: Tensor) -> object:
        return self.change(self.layer(x.flatten(1)))


MISFITS = [
    pytest.param(generator(64), critic(10), r"takes no samples of shape \(4, 64\)", id="an MLP of another width"),
    pytest.param(generator(64), fastgan.Discriminator(image_size=100), "takes no samples", id="fastgan's of another width"),
    pytest.param(generator(64), nn.Conv2d(1, 1, 8), r"nn.Unflatten\(1, \(1, 8, 8\)\)", id="flat rows for a convolution"),
    pytest.param(generator(1, 8, 8), nn.Linear(64, 1), r"nn.Flatten\(\)", id="images for a linear layer"),
    pytest.param(generator(1, 8, 8), nn.Conv2d(3, 1, 8), "3 channels", id="other channels"),
    pytest.param(generator(64), Returning(64, 1, lambda y: (y, y)), "got a tuple", id="a tuple"),
    pytest.param(generator(64), Returning(64, 1, lambda y: {"logits": y}), "got a dict", id="a dict"),
    pytest.param(generator(64), Returning(64, 1, lambda y: y > 0), "torch.bool", id="no logits"),
    pytest.param(Returning(4, 64, lambda y: (y, y)), critic(64), "generator.*got a tuple", id="a generator's tuple"),
]


@pytest.mark.parametrize("loss", ["nonsaturating", "hinge", "wgan-gp", "relativistic"])
@pytest.mark.parametrize(("made", "discriminator", "message"), MISFITS)
def test_a_misfit_is_said_before_the_run_folder_is_claimed(
    made: nn.Module, discriminator: nn.Module, message: str, loss: str, tmp_path: Path
) -> None:
    trainer = Trainer(made, discriminator, loss=loss, device="cpu")
    with pytest.raises(ValueError, match=message) as caught:
        trainer.fit(floats(16, 1, 8, 8), steps=1, batch_size=4, out=tmp_path / "run", progress=False)
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "run").exists()
    with pytest.raises(RuntimeError, match="no data yet"):
        trainer.step()


def test_a_critic_of_packs_gets_the_rows_of_an_update() -> None:
    packs = Returning(64, 1, lambda y: y.view(-1, 4).mean(1, keepdim=True))
    assert torch.isfinite(Trainer(generator(64), packs, loss="hinge", device="cpu").attach(floats(16, 64), 8).step()["d_loss"])


def test_an_error_of_another_kind_stays_the_networks_own() -> None:
    def fail(y: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Trainer(generator(64), Returning(64, 1, fail), device="cpu").attach(floats(16, 64))


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, True])
def test_a_seed_of_samples_is_a_whole_number(seed: object) -> None:
    with pytest.raises(ValueError, match="seed must be None or a whole number"):
        trainer_of(generator(2), floats(4, 2)).sample(2, seed=seed)


@pytest.mark.parametrize(("mode", "shape"), [("L", (1, 8, 6)), ("RGB", (3, 8, 6)), ("1", (1, 8, 6))])
def test_pictures_of_a_data_set_have_channels(mode: str, shape: tuple[int, ...]) -> None:
    pictures = [PIL.Image.fromarray(bytes_(8, 6, 3).numpy()).convert(mode) for _ in range(8)]
    trainer = trainer_of(generator(torch.Size(shape).numel()), torch.zeros(8, *shape)).attach(pictures, 4)
    assert trainer.sample(2).shape == (2, *shape)
