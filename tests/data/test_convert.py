"""What tensors and Datasets become as images, and what is refused."""

from __future__ import annotations

import math

import PIL.Image
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import transforms

from fastgan import data
from fastgan.data import convert

IMAGES = torch.arange(60).reshape(5, 4, 3).to(torch.uint8)


@pytest.mark.parametrize(
    ("values", "shape", "dtype"),
    [
        pytest.param(IMAGES, (1, 4, 3), torch.uint8, id="uint8-NHW"),
        pytest.param(torch.ones(2, 3, 4, 5, dtype=torch.uint8), (3, 4, 5), torch.uint8, id="uint8-NCHW"),
        pytest.param(torch.ones(2, 784, dtype=torch.uint8), (1, 28, 28), torch.uint8, id="uint8-flat"),
        pytest.param(torch.ones(2, 18, dtype=torch.uint8), (1, 1, 18), torch.uint8, id="uint8-not-square"),
        pytest.param(-torch.ones(2, 784), (1, 28, 28), torch.float32, id="float-flat"),
        pytest.param(torch.linspace(-1, 1, 12).reshape(6, 2), (2,), torch.float32, id="points"),
        pytest.param(-torch.ones(2, 9), (9,), torch.float32, id="points-of-9"),
        pytest.param(-torch.ones(4, 20), (20,), torch.float32, id="points-of-20"),
        pytest.param(-torch.ones(2, 4, 4, dtype=torch.bfloat16), (1, 4, 4), torch.float32, id="bfloat16"),
        pytest.param(torch.linspace(-1, 1, 32).double().reshape(2, 1, 4, 4).mT, (1, 4, 4), torch.float32, id="strided"),
    ],
)
def test_tensors_become_images_or_points(values: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    made = data.as_image_set(values)
    assert (made.shape, made.images.dtype, made.labels, made.is_points) == (shape, dtype, None, len(shape) == 1)
    assert made.images.is_contiguous()
    assert torch.equal(made.images.flatten(), values.to(dtype).flatten())


def test_the_rounding_of_a_scaled_image_is_allowed() -> None:
    scaled = torch.arange(256).float().reshape(1, 16, 16) * (2.0 / 255.0) - 1.0
    assert torch.equal(data.as_image_set(scaled).images[0], scaled)


@pytest.mark.parametrize(
    ("values", "error", "advice"),
    [
        pytest.param(torch.ones(2, 4, 4) * 255, ValueError, "x / 127.5 - 1", id="0-to-255"),
        pytest.param(torch.tensor([[0.0, 1.1]]), ValueError, "from 0 to 1.1", id="above"),
        pytest.param(torch.tensor([[0.0, -1.1]]), ValueError, "from -1.1 to 0", id="below"),
        pytest.param(torch.tensor([[0.0, math.nan]]), ValueError, "nan", id="nan"),
        pytest.param(torch.tensor([[0.0, math.inf]]), ValueError, "inf", id="inf"),
        pytest.param(IMAGES.long(), TypeError, "to.torch.uint8", id="int64"),
        pytest.param(IMAGES > 3, TypeError, "torch.bool", id="bool"),
        pytest.param(IMAGES.to(torch.complex64), TypeError, "torch.complex64", id="complex"),
        pytest.param(IMAGES[:0], ValueError, "empty", id="no-rows"),
        pytest.param(IMAGES[:, :0], ValueError, "empty", id="no-pixels"),
        pytest.param(torch.zeros(5), ValueError, "N, H, W", id="one-dimension"),
        pytest.param(torch.zeros(1, 1, 1, 1, 1), ValueError, "N, H, W", id="five-dimensions"),
    ],
)
def test_other_tensors_are_refused(values: Tensor, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=advice) as caught:
        data.as_image_set(values)
    assert isinstance(caught.value, data.DataError)


def test_images_without_negative_values_get_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    data.as_image_set(torch.rand(3, 8, 8) - 0.5)
    data.as_image_set(torch.rand(3, 2))
    assert not caplog.records
    data.as_image_set(torch.rand(3, 8, 8))
    assert "2 * x - 1" in caplog.text


def test_sets_and_names_pass_through() -> None:
    one = data.as_image_set(IMAGES)
    assert data.as_image_set(one) is one
    assert data.as_image_set("ring").name == "ring"


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


def test_grey_values_between_bytes_are_rounded() -> None:
    made = data.as_image_set(Items(torch.tensor([[0.0, 6.4], [6.6, 255.0]]) / 255))
    assert made.images.flatten().tolist() == [0, 6, 7, 255]


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


def test_labels_that_are_not_numbers_are_left_out() -> None:
    for label in (1.5, "seven", None, torch.zeros(3)):
        assert data.as_image_set(Items((IMAGES[0], label), (IMAGES[1], 1))).labels is None


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
        pytest.param(Items({"image": 1}), TypeError, "item 0 is a dict", id="dict"),
        pytest.param(Items(()), TypeError, "item 0 is a tuple", id="empty-tuple"),
        pytest.param(Items(IMAGES[0], IMAGES[0].long()), TypeError, "item 1 is torch.int64", id="int64"),
        pytest.param(Items(IMAGES[0], IMAGES[0].T), ValueError, "item 1.*Resize", id="sizes"),
        pytest.param(Items(IMAGES[0], IMAGES[0] / 255), ValueError, "item 1.*alike", id="dtypes"),
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
