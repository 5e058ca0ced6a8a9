"""What a launch cannot count is refused with words; nothing here needs a device. test_extents.py runs kernels at limits."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgan.ops import reference, sample
from fastgan.ops.linear import Layer
from fastgan.ops.triton import sample as sample_triton
from fastgan.ops.triton import update as update_triton

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


class Kernel:
    """What a launcher asks of a kernel."""

    __name__ = "test_kernel"


@pytest.fixture(params=["notebook", "compiler"])
def launch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A launcher that runs nothing; `grids` has what it was asked for."""
    from fastgan.kernels import launch as module

    from benchmarks.gpu.predict import Notebook
    from benchmarks.harness.offline_compile import Compiler

    grids: list[tuple[int, ...]] = []

    def run(self: Any, kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any], options: dict[str, Any]) -> None:
        assert max(grid[1:], default=0) <= 65_535, f"no device takes a grid of {grid}"
        grids.append(grid)

    kind = Notebook if request.param == "notebook" else Compiler
    monkeypatch.setattr(kind, "run", run)
    made = kind(torch.device("cpu"), 90)
    made.grids = grids
    monkeypatch.setattr(module, "Launcher", lambda device: made)
    monkeypatch.setattr(sample_triton, "launcher", lambda device: made)
    return made


@pytest.mark.parametrize("grid", [(2**31 - 1,), (1, 65_535, 3), (32_767, 65_535), (0,), (5, 0)], ids=str)
def test_grids_that_devices_take(grid: tuple[int, ...], launch: Any) -> None:
    launch(Kernel(), grid, rows=2**31 - 2**16, out_stride=2**40, seed=-(2**60), scale=1e30)
    assert launch.grids == [grid]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ((2**31,), "2,147,483,648 programs along x, where a grid has 2,147,483,647 at most"),
        ((1, 65_536), "65,536 programs along y, where a grid has 65,535 at most"),
        ((1, 1, 65_536), "65,536 programs along z"),
        ((-1,), "-1 programs along x"),
        ((65_536, 32_768), "2,147,483,648 programs; a launch has 2,147,483,647 at most"),
    ],
    ids=str,
)
def test_grids_that_no_device_takes(grid: tuple[int, ...], message: str, launch: Any) -> None:
    with pytest.raises(ValueError, match=f"test_kernel would have {message}"):
        launch(Kernel(), grid, rows=1, out_stride=1, seed=1, scale=1.0)
    assert not launch.grids


@pytest.mark.parametrize("rows", [2**31 - 2**16 + 1, -(2**31)])
def test_an_extent_beyond_32_bits(rows: int, launch: Any) -> None:
    with pytest.raises(ValueError, match=rf"rows = {rows:,} is more than test_kernel counts in 32 bits"):
        launch(Kernel(), (1,), rows=rows, out_stride=1, seed=1, scale=1.0)
    with pytest.raises(ValueError, match=r"loss = .* is more than test_kernel counts"):
        launch(Kernel(), (1,), loss=(0.5, rows))
    assert not launch.grids


def meta(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(size, dtype=dtype, device="meta")


@pytest.mark.parametrize("kind", ["normals", "uniforms", "dropout_scale"])
@pytest.mark.parametrize(
    ("rows", "columns", "refused"),
    [(1, 2**31 - 2**16, ""), (2**31 - 2**16, 1, ""), (2**31, 1, "rows"), (1, 2**31, "columns"), (2**18, 2**24, "along x")],
)
def test_numbers(kind: str, rows: int, columns: int, refused: str, launch: Any) -> None:
    out, streams = meta(rows, columns), torch.tensor([2])
    given = (launch, kind, out, columns, rows, 1, torch.tensor(0), streams, 0)
    if refused:
        with pytest.raises(ValueError, match=refused):
            sample_triton._launch_numbers(*given)
    else:
        sample_triton._launch_numbers(*given)
    assert len(launch.grids) == (not refused)


def test_pictures_of_many_features_are_gathered_and_interpolated(launch: Any) -> None:
    images, indices, fake, alpha = (
        meta(300, 3, 4096, 4096, dtype=torch.uint8),
        meta(100, dtype=torch.int64),
        meta(100, 2**25),
        meta(100),
    )
    sample_triton._gather_rows_triton(images, indices)
    sample_triton._interpolate_triton(fake, fake, alpha)
    assert launch.grids == [(13 * 3 * 2**17,), (13 * 2**18,)]
    with pytest.raises(ValueError, match=r"features = 2,147,483,648 is more than gather_kernel counts"):
        sample_triton._gather_rows_triton(meta(3, 2**31, dtype=torch.uint8), indices)


def test_as_many_updates_as_a_stream_tells_apart(launch: Any) -> None:
    """A step of 65,535 updates of a relativistic loss shows real rows once more."""
    position = sample_triton.BatchPosition(1, torch.tensor(0), 65_535, 64, 0)
    sample_triton.load_batches_(launch, (meta(64, 896), 128), 65_536, meta(100, 784, dtype=torch.uint8), position)
    assert launch.grids == [(8 * 7 * 65_536,)]


def test_a_data_set_of_more_than_32_bits(launch: Any) -> None:
    images, position = meta(2**32, 1, dtype=torch.uint8), sample_triton.BatchPosition(1, torch.tensor(0), 1, 64, 0)
    with pytest.raises(ValueError, match=r"4,294,967,296 samples is more than a kernel shuffles"):
        sample_triton.load_batches_(launch, (meta(64, 128), 128), 1, images, position)
    given = dict(seed=3, stream=2, device="cpu")
    found = sample_triton._batch_indices_triton(9, 2**32 + 7, 2**33, **given)
    assert torch.equal(found, reference.batch_indices(9, 2**32 + 7, 2**33, **given)) and not launch.grids


@pytest.mark.parametrize("name", ["normals", "uniforms", "dropout_scale"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_random_numbers_that_would_come_again(name: str, backend: str) -> None:
    probability = [0.5] * (name == "dropout_scale")
    draw, counter = getattr(sample, name), dict(seed=1, step=0, stream=2, backend=backend)
    assert draw(1, 3, *probability, first_row=2**32 - 1, **counter).shape == (1, 3)
    for rows, columns, first_row in ((2, 3, 2**32 - 1), (2**32 + 1, 0, 0), (0, 2**34 + 1, 0)):
        with pytest.raises(ValueError, match=r"random numbers differ in 4,294,967,296 rows and 17,179,869,184 columns"):
            draw(rows, columns, *probability, first_row=first_row, **counter)


@pytest.mark.parametrize("field", [dict(pass_=16), dict(index=256), dict(d_step=65_536), dict(index=-1)], ids=str)
def test_a_stream_has_so_many_words(field: dict[str, int]) -> None:
    sample.stream(sample.Role.DROPOUT, pass_=15, index=255, d_step=65_535)
    with pytest.raises(ValueError, match="a stream has room for 16, 256 and 65,536"):
        sample.stream(sample.Role.DROPOUT, **field)


def layers(*sizes: int) -> list[Layer]:
    return [Layer(meta(outputs, inputs), None) for inputs, outputs in itertools.pairwise(sizes)]


def test_the_widest_layers(launch: Any) -> None:
    """Those that are wider than kernels count take torch's products."""
    from fastgan.chain.products import _fused_products_triton
    from fastgan.chain.triton_tiles import TritonProducts

    made = _fused_products_triton(layers(100, 2**24, 1), "fp32")
    assert isinstance(made, TritonProducts) and made.weights[0].shape == (2**24, 128)
    with pytest.raises(ValueError, match="1,073,741,825 rows is more than kernels count"):
        made.operand(2**30 + 1, 100)
    assert _fused_products_triton(layers(100, 2**24 + 1, 1), "fp32") is None
    with pytest.raises(ValueError, match=r"a layer is 16,777,217 wide; kernels count up to 16,777,216"):
        TritonProducts(layers(100, 2**24 + 1, 1), "fp32")


def test_gradients_in_very_many_parts() -> None:
    from fastgan.kernels import tiles

    assert tiles.update_tile(((64, 64), (1, 64)), 2**30, 2, 90).splits == 65_535


@pytest.mark.parametrize("blocks", [1, 12, 13, 132, 372, 373, 1000])
def test_every_counter_of_a_barrier_has_its_word(blocks: int) -> None:
    from benchmarks.micro import barriers

    source = barriers.SOURCE.read_text()
    assert f"kFan = {barriers.FAN};" in source and f"kStride = {barriers.STRIDE};" in source
    last = (1 + (blocks - 1) // barriers.FAN) * barriers.STRIDE
    assert last < barriers.state_words(blocks) <= last + barriers.STRIDE


def test_host_and_kernels_agree_where_a_record_has_what() -> None:
    from fastgan.kernels import record

    places = {name: getattr(record, name).value for name in ("VALUE", "SKIPPED", "FINITE_CHECK", "PENALTY_VALUES")}
    assert places == {name: getattr(update_triton, name) for name in places}


def test_a_rule_that_no_kernel_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reference.RULES, "other", reference.RULES["adam"])
    weight = torch.zeros(4)
    given = dict(options={}, clip=0.0, ema=None, ema_decay=0.0)
    with pytest.raises(ValueError, match="no kernel has the rule 'other'"):
        update_triton.optimizer_args(weight, [weight, weight], weight.sum(), weight.sum(), rule="other", **given)
