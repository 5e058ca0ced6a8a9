"""What Datasets become as images: their values, their random draws, the memory that reading them takes, and what is refused."""

from __future__ import annotations

import logging
import math
import random
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import transforms

from fastgan import data
from fastgan.data import convert, dataset

IMAGES = torch.arange(60).reshape(5, 4, 3).to(torch.uint8)
LEVELS = torch.arange(256, dtype=torch.uint8)


class Items(Dataset):
    """A map-style data set of whatever it is given."""

    def __init__(self, *items) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int):
        return self.items[number]


def test_every_byte_survives_to_tensor() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    picture = PIL.Image.fromarray(every.numpy())
    for form in (picture, transforms.ToTensor()(picture), transforms.ToTensor()(picture).double(), every):
        made = data.as_image_set(Items((form, 7), (form, torch.tensor(2))))
        assert torch.equal(made.images, every.expand(2, 1, 16, 16)) and made.images.dtype == torch.uint8
        assert made.labels is not None and made.labels.tolist() == [7, 2] and made.name == "Items"


def test_pil_images_keep_rows_columns_and_bands() -> None:
    colours = torch.randint(256, (4, 5, 3), dtype=torch.uint8)
    made = data.as_image_set(Items(PIL.Image.fromarray(colours.numpy())))
    assert torch.equal(made.images[0], colours.permute(2, 0, 1))
    black_and_white = PIL.Image.fromarray((colours[:, :, 0] > 127).numpy())
    made = data.as_image_set(Items(black_and_white))
    assert torch.equal(made.images[0, 0], (colours[:, :, 0] > 127).to(torch.uint8) * 255)
    with pytest.raises(data.DataError, match="mode RGBA"):
        data.as_image_set(Items(PIL.Image.new("RGBA", (4, 4))))


def test_normalised_items_and_points_stay_floats() -> None:
    normalised = torch.rand(6, 1, 4, 4) * 2 - 1
    assert torch.equal(data.as_image_set(TensorDataset(normalised)).images, normalised)
    points = torch.rand(6, 2)
    made = data.as_image_set(Subset(TensorDataset(points, torch.arange(6)), [4, 1]))
    assert torch.equal(made.images, points[[4, 1]]) and made.is_points
    assert made.labels is not None and made.labels.tolist() == [4, 1]


def test_normalised_levels_of_8_bits_stay_floats() -> None:
    """2 k / 255 - 1 is a whole number of 255ths, too, but not one of a byte."""
    for values in (LEVELS / 127.5 - 1, LEVELS / -255):
        made = data.as_image_set(TensorDataset(values.view(4, 1, 8, 8)))
        assert torch.equal(made.images.flatten(), values)


def test_labels_that_are_not_numbers_are_left_out() -> None:
    for label in (1.5, "seven", None, torch.zeros(3), 2**63, -(2**70)):
        assert data.as_image_set(Items((IMAGES[0], label), (IMAGES[1], 1))).labels is None


class Lengthy(Items):
    """Says a length that is not the number of its items."""

    def __init__(self, length: object, *items) -> None:
        super().__init__(*items)
        self.length = length

    def __len__(self) -> int:
        if self.length is None:
            raise NotImplementedError("not known yet")
        return self.length


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        pytest.param(DataLoader(Items(IMAGES[0])), TypeError, "loader.dataset", id="loader"),
        pytest.param(Endless(), TypeError, "no length", id="iterable"),
        pytest.param(7, TypeError, "int has no length", id="int"),
        pytest.param(IMAGES.numpy(), TypeError, "torch.from_numpy", id="array"),
        pytest.param(Items(), ValueError, "Items is empty", id="no-items"),
        pytest.param(Items, TypeError, r"class tests.data.test_dataset.Items: give an instance of it, Items\(", id="class"),
        pytest.param(data.ImageSet, TypeError, r"data is the class .*ImageSet: give an instance", id="class-of-sets"),
        pytest.param(
            {"train": IMAGES, "test": 1}, TypeError, r"a dict of 'train', 'test': .*data\['train'\]", id="dict-of-sets"
        ),
        pytest.param({}, TypeError, "data is a dict of nothing: give one tensor or Dataset", id="empty-dict"),
        pytest.param(
            Lengthy(9, *IMAGES),
            ValueError,
            r"Lengthy has no item 5, .* length is 9 \(IndexError: .*\); let its __len__",
            id="long",
        ),
        pytest.param(Lengthy(3), ValueError, "Lengthy has no item 0, though its length is 3", id="long-without-items"),
        pytest.param(Lengthy(-1), TypeError, "Lengthy has no length: .*; let its __len__ return", id="length-below-0"),
        pytest.param(Lengthy(2.0), TypeError, "Lengthy has no length: .*float", id="length-of-another-kind"),
        pytest.param(Lengthy(None), TypeError, "Lengthy has no length: not known yet", id="length-not-known"),
        pytest.param(
            Items(IMAGES[0].float().to_sparse()), TypeError, "item 0 is torch.sparse_coo: .*x.to_dense", id="sparse-item"
        ),
        pytest.param(Items(IMAGES[0], IMAGES[0].to("meta")), TypeError, "item 1 is on the meta device", id="meta-item"),
        pytest.param(Items({"image": 1}), TypeError, "item 0 is a dict", id="dict"),
        pytest.param(Items(()), TypeError, "item 0 is a tuple", id="empty-tuple"),
        pytest.param(Items(IMAGES[0], IMAGES[0].long()), TypeError, "item 1 is torch.int64", id="int64"),
        pytest.param(Items(IMAGES[0], IMAGES[0].T), ValueError, "item 1.*Resize", id="sizes"),
        pytest.param(Items(IMAGES[0], IMAGES[0] / 255), ValueError, "item 1.*alike", id="dtypes"),
        pytest.param(torch.zeros(2, 8, 9, 3).numpy(), TypeError, r"from_numpy\(array\).permute\(0, 3, 1, 2\)", id="NHWC-array"),
        pytest.param(Items(torch.zeros(8, 9, 3)), ValueError, r"item.permute\(2, 0, 1\) in the.*transform", id="HWC-items"),
        pytest.param(Items(torch.zeros(1, 1, 1, 1, 1)), ValueError, "N, H, W", id="six-dimensions"),
        pytest.param(Items(torch.zeros(1, 0)), ValueError, "empty", id="no-pixels"),
        pytest.param(Items(IMAGES[0] / 255, IMAGES[0] * 2.0), ValueError, "from 0 to 22", id="range-later"),
        pytest.param(Items(IMAGES[0] * 1.0), ValueError, "from 0 to 11", id="range"),
        pytest.param(Items(torch.full((4, 4), math.nan)), ValueError, "nan", id="nan"),
    ],
)
def test_other_things_are_refused(given, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        data.as_image_set(given)
    assert isinstance(caught.value, data.DataError)


def test_errors_raised_by_a_data_set_are_its_own() -> None:
    class Broken(Items):
        def __getitem__(self, number: int):
            raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        data.as_image_set(Broken(1))


def test_flat_items_of_a_square_number_are_images() -> None:
    flat = torch.arange(2 * 16, dtype=torch.uint8).reshape(2, 16)
    made = data.as_image_set(Items(*(flat / 255)))
    assert made.images.dtype == torch.uint8 and torch.equal(made.images.flatten(1), flat)
    assert convert.SMALLEST_FLAT_IMAGE == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda levels: levels.div(255), id="divided"),
        pytest.param(lambda levels: levels * (1 / 255), id="multiplied"),
        pytest.param(lambda levels: (levels / 127.5 - 1) * 0.5 + 0.5, id="normalised and back"),
    ],
)
def test_floats_of_8_bits_are_bytes_in_whatever_way_they_were_computed(form, dtype: torch.dtype) -> None:
    made = data.as_image_set(TensorDataset(form(LEVELS.to(dtype)).clamp(0, 1).view(4, 1, 8, 8)))
    assert made.images.dtype == torch.uint8 and torch.equal(made.images.flatten(), LEVELS)


@pytest.mark.parametrize("at", [0, 100, 255], ids=["first", "between", "last"])
def test_one_value_between_bytes_keeps_all_as_floats(
    at: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dataset, "CHUNK_BYTES", 4 * 4 * 3)  # of three items
    values = LEVELS / 255
    values[at] = 100.4 / 255
    made = data.as_image_set(TensorDataset(values.view(64, 1, 2, 2)))
    assert made.images.dtype == torch.float32 and "2 * x - 1" in caplog.text
    torch.testing.assert_close(made.images.flatten(), 2 * values - 1, rtol=0.0, atol=2e-7)


def test_a_value_below_0_keeps_the_scale(caplog: pytest.LogCaptureFixture) -> None:
    values = torch.cat((LEVELS / 255, torch.tensor([-1.0, 0.25, 0.3, 1.0]))).view(65, 1, 2, 2)
    made = data.as_image_set(TensorDataset(values))
    torch.testing.assert_close(made.images, values, rtol=0.0, atol=1e-7)
    assert not caplog.records


def test_points_are_never_scaled(caplog: pytest.LogCaptureFixture) -> None:
    points = torch.tensor([[0.0, 1.0], [0.5, 1 / 255]])
    assert torch.equal(data.as_image_set(TensorDataset(points)).images, points) and not caplog.records


def test_a_data_set_may_give_one_tensor_with_other_values() -> None:
    class Reused(Items):
        buffer = torch.zeros(1, 2, 2)

        def __getitem__(self, number: int) -> Tensor:
            return self.buffer.fill_(self.items[number] / 255)

    assert data.as_image_set(Reused(*range(200))).images[:, 0, 0, 0].tolist() == list(range(200))


def test_a_set_keeps_the_shape_that_it_was_given_in() -> None:
    grey = PIL.Image.fromarray(IMAGES[0].numpy())
    for item, shape in ((grey, (1, 4, 3)), (transforms.ToTensor()(grey), (1, 4, 3)), (torch.zeros(784), (784,))):
        assert data.as_image_set(Items(item)).given_shape == shape


FLOATS = """
import resource, torch
from fastgan import data
class Pictures(torch.utils.data.Dataset):
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, number): return ITEM, number
data.as_image_set(Pictures(4))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images = data.as_image_set(Pictures(4000)).images
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / images.nbytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("item", "most"),
    [
        pytest.param("torch.randint(0, 256, (3, 64, 64)).float() / 255", 2.0, id="ToTensor"),
        pytest.param("torch.rand(3, 64, 64)", 1.6, id="floats"),
    ],
)
def test_reading_takes_little_more_memory_than_what_is_read(item: str, most: float) -> None:
    script = FLOATS.replace("ITEM", item)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < most


class Augmented(Items):
    """Items plus what a function draws for each."""

    def __init__(self, draw, *items) -> None:
        super().__init__(*items)
        self.draw = draw

    def __getitem__(self, number: int) -> Tensor:
        return self.items[number] + self.draw()


ZEROS = tuple(torch.zeros(40, 3, 4, dtype=torch.uint8))
DRAWS = {
    "torch": lambda: torch.randint(0, 100, (3, 4), dtype=torch.uint8),
    "numpy": lambda: torch.from_numpy(np.random.randint(0, 100, (3, 4), dtype=np.uint8)),
    "python": lambda: torch.full((3, 4), random.randrange(100), dtype=torch.uint8),
    "seldom": lambda: torch.full((3, 4), int(random.random() < 0.01), dtype=torch.uint8),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_random_transform_is_drawn_once_alike_each_time_and_said(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def state() -> tuple:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    random.seed(5)
    np.random.seed(5)
    before = state()
    one = data.as_image_set(Augmented(DRAWS[name], *ZEROS))
    assert state() == before, "the caller's generators are where they were"
    assert len(caplog.records) == 1 and all(word in caplog.text for word in ("random transform", "once", "ConcatDataset"))
    torch.manual_seed(9)
    np.random.seed(9)
    random.seed(9)
    other = data.as_image_set(Augmented(DRAWS[name], *ZEROS))
    assert one.fingerprint() == other.fingerprint()
    assert name == "seldom" or one.images.unique().numel() > 10
    twice = data.as_image_set(ConcatDataset([Augmented(DRAWS[name], *ZEROS)] * 2)).images
    assert name == "seldom" or not torch.equal(twice[:40], twice[40:])


class Flipped(Dataset):
    transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.RandomCrop(6, padding=1)])

    def __len__(self) -> int:
        return 50

    def __getitem__(self, number: int) -> Tensor:
        return self.transform(LEVELS[:64].view(1, 8, 8))


@pytest.mark.slow
def test_transforms_of_torchvision_are_drawn_alike_in_another_process(caplog: pytest.LogCaptureFixture) -> None:
    script = "from tests.data.test_dataset import Flipped, data; print(data.as_image_set(Flipped()).fingerprint())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == data.as_image_set(Flipped()).fingerprint()
    assert "once" in done.stderr and "once" in caplog.text


def test_a_generator_of_its_own_is_found_too(caplog: pytest.LogCaptureFixture) -> None:
    own = np.random.default_rng()
    data.as_image_set(Augmented(lambda: torch.full((3, 4), int(own.integers(0, 100)), dtype=torch.uint8), *ZEROS))
    assert "a generator of its own" in caplog.text and "fixed seed" in caplog.text


def test_what_draws_nothing_is_said_nothing_about(caplog: pytest.LogCaptureFixture) -> None:
    class Seeded(Items):
        def __getitem__(self, number: int) -> Tensor:
            return torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(number)) * 2 - 1

    data.as_image_set(Seeded(*range(30)))
    data.as_image_set(TensorDataset(LEVELS.view(4, 1, 8, 8) / 255, torch.arange(4)))
    assert not caplog.records


def test_a_set_may_give_every_item_only_once(caplog: pytest.LogCaptureFixture) -> None:
    class Stream(Items):
        def __getitem__(self, number: int) -> Tensor:
            return next(self.rest)

    stream = Stream(*IMAGES)
    stream.rest = iter(IMAGES)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(data.as_image_set(stream).images[:, 0], IMAGES)
