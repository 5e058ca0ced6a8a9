"""What tensors and Datasets become as images, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastgan import data

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
        pytest.param(-torch.ones(3, 8, 4, 4), (8, 4, 4), torch.float32, id="eight-channels-of-4x4"),
        pytest.param(-torch.ones(3, 3, 20, 3), (3, 20, 3), torch.float32, id="three-channels-three-wide"),
        pytest.param(-torch.ones(3, 2, 50), (1, 2, 50), torch.float32, id="signals"),
        pytest.param(-torch.ones(3, 2, 50, 1), (2, 50, 1), torch.float32, id="signals-as-NCHW"),
        pytest.param(torch.ones(3, 2, 4, 5, 6, dtype=torch.uint8), (2, 4, 5, 6), torch.uint8, id="voxels"),
        pytest.param(torch.linspace(-1, 1, 32).double().reshape(2, 1, 4, 4).mT, (1, 4, 4), torch.float32, id="strided"),
    ],
)
def test_tensors_become_images_or_points(values: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    made = data.as_image_set(values)
    assert (made.shape, made.images.dtype, made.labels, made.is_points) == (shape, dtype, None, len(shape) == 1)
    assert made.images.is_contiguous()
    assert torch.equal(made.images.flatten(), values.to(dtype).flatten())
    assert made.given_shape == made.to("cpu").given_shape == values.shape[1:]


def test_the_rounding_of_a_scaled_image_is_allowed() -> None:
    scaled = torch.arange(256).float().reshape(1, 16, 16) * (2.0 / 255.0) - 1.0
    assert torch.equal(data.as_image_set(scaled).images[0], scaled)
    beyond = torch.tensor([[-1.0, 1.0]]) * (1 + torch.finfo(torch.float32).eps)
    assert torch.equal(data.as_image_set(beyond).images, beyond)


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
        pytest.param(torch.zeros(4, 4, device="meta"), TypeError, "on the meta device, .* give it on the CPU", id="meta"),
        pytest.param(IMAGES[:0], ValueError, "empty", id="no-rows"),
        pytest.param(IMAGES[:, :0], ValueError, "empty", id="no-pixels"),
        pytest.param(torch.zeros(5), ValueError, "N, H, W", id="one-dimension"),
        pytest.param(torch.zeros(1, 1, 1, 1, 1, 1), ValueError, "N, H, W", id="six-dimensions"),
        pytest.param(torch.zeros(2, 8, 9, 3), ValueError, r"x\.permute\(0, 3, 1, 2\).*ImageSet", id="NHWC"),
        pytest.param(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), ValueError, r"x\.permute\(0, 3, 1, 2\)", id="uint8-NHWC"),
        pytest.param(torch.zeros(2, 28, 28, 1), ValueError, r"x\.permute\(0, 3, 1, 2\)", id="NHWC-grey"),
        pytest.param(torch.zeros(2, 8, 8, 4), ValueError, r"x\.permute\(0, 3, 1, 2\)", id="NHWC-opacity"),
        pytest.param(torch.zeros(2, 5, 6, 7, 3), ValueError, r"x\.permute\(0, 4, 1, 2, 3\)", id="NDHWC"),
    ],
)
def test_other_tensors_are_refused(values: Tensor, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=advice) as caught:
        data.as_image_set(values)
    assert isinstance(caught.value, data.DataError)


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested")
def test_a_tensor_that_is_not_dense_is_told_how_to_become_so() -> None:
    rows = torch.eye(4)
    ragged = torch.nested.nested_tensor([torch.zeros(3), torch.zeros(4)])
    for values, message in (
        (rows.to_sparse(), r"tensor is torch.sparse_coo: give it dense, x.to_dense\(\)"),
        (rows.to_sparse_csr(), "tensor is torch.sparse_csr: give it dense"),
        (ragged, r"tensor is nested: give it dense, x.to_padded_tensor\(0\)"),
    ):
        with pytest.raises(data.DataTypeError, match=message):
            data.as_image_set(values)


def test_a_set_without_values_is_refused() -> None:
    with pytest.raises(data.DataTypeError, match="mine is on the meta device"):
        data.as_image_set(data.ImageSet("mine", torch.zeros(4, 1, 2, 2)).to("meta"))
    with pytest.raises(data.DataTypeError, match=r"mine is torch.sparse_coo: give it dense"):
        data.as_image_set(data.ImageSet("mine", torch.eye(4).to_sparse()))


def test_an_array_of_another_library_is_told_the_way_by_numpy() -> None:
    class Frame:
        shape = (5, 8, 9, 3)

        def __len__(self) -> int:
            return 5

        def __getitem__(self, column: str) -> list:
            return []

        def __array__(self, *_: object) -> object:
            return IMAGES.numpy()

    with pytest.raises(data.DataTypeError, match=r"torch.from_numpy\(numpy.asarray\(data\)\).permute\(0, 3, 1, 2\)"):
        data.as_image_set(Frame())


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
