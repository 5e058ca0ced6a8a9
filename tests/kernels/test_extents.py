"""Every kernel at extents whose places pass 32 bits: the last program of a launch, on virtual memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from fastgan.kernels import launch, tiles
from fastgan.kernels import update as update_kernels
from torch import Tensor

from fastgan.chain import triton_tiles
from fastgan.chain.triton_tiles import LossArgs
from fastgan.engines.closed_form.fused_update import FusedUpdate
from fastgan.ops import reference
from fastgan.ops.linear import Layer
from fastgan.ops.sample import MaskCounter, Role, stream
from fastgan.ops.triton import sample as sample_triton
from fastgan.ops.triton import update as update_triton
from tests.kernels.conftest import INTERPRETED

if INTERPRETED:
    from tests.kernels.virtual_memory import VirtualMemory

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="one program alone runs under the interpreter")
FEATURES = 3 * 2048 * 2048 + 5  # of a picture
HUGE = 2**31 + 1500


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> VirtualMemory:
    made = VirtualMemory(monkeypatch)
    monkeypatch.setattr(launch, "Launcher", lambda device: made)
    monkeypatch.setattr(sample_triton, "launcher", lambda device: made)
    return made


def small(places: np.ndarray) -> np.ndarray:
    """Numbers that differ from place to place."""
    return places % 251


def scaled(pixels: np.ndarray) -> np.ndarray:
    return (pixels * (2.0 / 255.0) - 1.0).astype(np.float32)


def check(found: dict[int, Any], places: np.ndarray, values: np.ndarray, tolerance: float = 1e-6) -> None:
    """Exactly these places were written, with these numbers."""
    assert sorted(found) == sorted(places.flatten().tolist())
    np.testing.assert_allclose([found[place] for place in places.flatten().tolist()], values.flatten(), tolerance, tolerance)


def ends(rows: int, columns: int, block_rows: int, block_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows [R, 1] and columns [1, C] of a matrix's last block."""
    row = np.arange((rows - 1) // block_rows * block_rows, rows)
    column = np.arange((columns - 1) // block_columns * block_columns, columns)
    return row[:, None], column[None, :]


@pytest.mark.parametrize(("kind", "per_block"), [("uniforms", 4), ("normals", 4), ("dropout_scale", 8)])
def test_numbers(kind: str, per_block: int, memory: VirtualMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns, stride, counter = 1003, 5_000_002, 5_000_064, dict(seed=7, step=3, stream=2, first_row=11)
    out = memory.buffer(rows, stride)
    probability = [0.3] * (kind == "dropout_scale")
    streams, step = torch.tensor([counter["stream"]]), torch.tensor(counter["step"])
    sample_triton._launch_numbers(memory, kind, out, columns, rows, 7, step, streams, 11, *probability)
    row, column = ends(rows, columns, 8, 64)
    blocks = torch.arange(column[0, 0] // per_block, -(-columns // per_block))

    def last_words(*_: int, seed: int, step: int, stream: int, first_row: int) -> Tensor:
        counters = blocks, first_row + torch.tensor(row), torch.tensor(step), torch.tensor(stream)
        return torch.stack(reference.philox4x32(counters, seed), dim=-1)

    monkeypatch.setattr("fastgan.ops.reference.sample.random_words", last_words)
    expected = getattr(reference, kind)(len(row), column.size, *probability, **counter)
    check(memory.stores(out), row * stride + column, expected.numpy(), 4e-6)


@pytest.mark.parametrize("type_", [torch.int32, torch.int64])
def test_gather(type_: torch.dtype, memory: VirtualMemory) -> None:
    images = memory.buffer(300, FEATURES, dtype=torch.uint8, holds=small)
    indices = torch.arange(30, 290, dtype=type_)
    out = memory.buffer(len(indices), FEATURES)
    sample_triton._gather_rows_triton(images, indices, out=out)
    row, column = ends(len(indices), FEATURES, 8, 128)
    check(memory.stores(out), row * FEATURES + column, scaled(small((30 + row) * FEATURES + column)))


def test_interpolate(memory: VirtualMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = (memory.buffer(300, FEATURES, holds=holds) for holds in (small, np.ones_like))
    out, alpha = memory.buffer(300, FEATURES), torch.linspace(0, 1, 300)
    monkeypatch.setattr(torch, "empty_like", lambda like: out)
    sample_triton._interpolate_triton(real, fake, alpha)
    row, column = ends(300, FEATURES, 8, 128)
    places = row * FEATURES + column
    check(memory.stores(out), places, small(places) + alpha.numpy()[row] * (1.0 - small(places)), 2e-5)


def test_the_rows_and_points_of_the_last_of_many_updates(memory: VirtualMemory) -> None:
    """As many updates as a stream tells apart, and one more that shows the last rows again."""
    rows, features, size, updates, apart = 40_003, 5, 2**31 + 11, 65_535, 80_007
    images = memory.buffer(size, features, dtype=torch.uint8, holds=small)
    operands = memory.buffer((updates + 1) * apart, 128)
    batches = sample_triton.BatchPosition(5, torch.tensor(4), updates, 7, 2)
    position = (4 * updates + updates - 1) * 7 + 2
    word = stream(Role.BATCH)
    indices = reference.batch_indices(rows, size, position, seed=5, stream=word).numpy()[:, None]
    row, column = ends(rows, features, 8, 128)
    real = scaled(small(indices[row[:, 0]] * features + column))

    sample_triton.load_batches_(memory, (operands[2 : 2 + rows], apart), updates + 1, images, batches)
    assert memory.grid == (-(-rows // 8) * (updates + 1), 1, 1)
    check(memory.stores(operands), (updates * apart + 2 + row) * 128 + column, real)

    memory.stored.clear()
    fake = memory.buffer(updates, rows, features, holds=small)
    alpha_stream = stream(Role.ALPHA, index=1)
    sample_triton.load_points_(memory, (operands[9 : 9 + rows], apart), updates, 0, fake, alpha_stream, images, batches)
    counter = dict(seed=5, step=4, stream=stream(Role.ALPHA, index=1, d_step=updates - 1), first_row=2)
    alpha = reference.uniforms(rows, 1, **counter).numpy()
    fakes = small(((updates - 1) * rows + row) * features + column)
    points = real + alpha[row[:, 0]] * (fakes - real)
    check(memory.stores(operands), ((updates - 1) * apart + 9 + row) * 128 + column, points, 2e-5)


def products(memory: VirtualMemory, monkeypatch: pytest.MonkeyPatch, tile: tiles.Tile, *shapes: tuple[int, int]) -> Any:
    """Layers of shapes (out, in) in virtual memory, and one tile for every product."""
    monkeypatch.setattr(tiles, "product_tile", lambda *_: tile)
    layers = [Layer(torch.empty(shape, device="meta"), None) for shape in shapes]
    made = triton_tiles.TritonProducts(layers, "fp32")
    monkeypatch.setattr(made, "words", torch.tensor)
    return made


SMALL = tiles.Tile(16, 16, 128, 1, 1)


def test_weights_of_a_wide_layer_are_loaded(memory: VirtualMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    made = products(memory, monkeypatch, SMALL, (3, 5), (300, FEATURES))
    values = memory.buffer(300, FEATURES, holds=small)
    memory.stored.clear()
    made.load(made.weights[1], values)
    row, column = ends(300, FEATURES, 16, 128)
    check(memory.stores(made.weights[1]), row * made.weights[1].stride(0) + column, small(row * FEATURES + column))


def test_a_forward_product(memory: VirtualMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 2^32 weights, and more than 2^31 parts of logits."""
    rows, width = 2**13 + 3, 2**24 - 7
    made = products(memory, monkeypatch, SMALL, (width, 200), (1, width))
    x, out, adjoint = (made.operand(rows, extent) for extent in (200, width, width))
    partials = memory.buffer(2**20, rows)
    made.hidden(0, out, x, MaskCounter(0, torch.tensor(0), (0,), 0), (adjoint, partials[0], rows))
    row, column = ends(rows, width, 16, 16)
    weights = made.weights[0]
    assert memory.loads(weights) == {c * 256 + k for c in range(width - len(column[0]), 2**24) for k in range(256)}
    for operand in (out, adjoint):
        assert sorted(memory.stores(operand)) == (row * 2**24 + column).flatten().tolist()
    assert sorted(memory.stores(partials)) == [(2**20 - 1) * rows + r for r in row.flatten().tolist()]


def test_a_product_of_many_parts(memory: VirtualMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last part of the depth of an adjoint product, whose parts are added in more than 2^31 numbers."""
    rows, width, depth, parts = 43, 2**15, 2**18, 2**11
    made = products(memory, monkeypatch, SMALL._replace(splits=parts), (width, 8), (depth, width))
    count = 3 * width // 16
    workspace = memory.buffer(count * parts * 256), memory.buffer(count, dtype=torch.int32, holds=lambda _: parts - 1)
    monkeypatch.setattr(made, "_split_k_workspace", lambda *_: workspace)
    upstream, activations, out = (made.operand(rows, extent) for extent in (depth, width, width))
    made.adjoint(0, out, upstream, activations)
    weights, (row, column) = made.weights[1], ends(rows, width, 16, 16)
    assert memory.loads(weights) == {k * width + c for k in range(depth - 128, depth) for c in column.flatten().tolist()}
    assert max(memory.stores(workspace[0])) == count * parts * 256 - 1
    assert memory.loads(workspace[0]) == set(range((count - 1) * parts * 256, count * parts * 256))
    assert sorted(memory.stores(out)) == (row * width + column).flatten().tolist()


def test_logits_of_many_parts(memory: VirtualMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    all_rows, parts = 2**21 + 3, 1030
    partials = memory.buffer(parts, all_rows, holds=lambda places: (places % all_rows == 1) & (places // all_rows == parts - 1))
    coefficient, record = memory.buffer(3, all_rows), torch.zeros(4)
    logits = record, coefficient[0], partials[0], parts, all_rows, torch.zeros(1), 2
    made = products(memory, monkeypatch, SMALL, (3, 5), (1, 3))
    made.loss_and_gradients(LossArgs(*logits, 0.0, 1.0, 1.0, 0, 0, form="linear", real=False, block=16))
    assert record[3] == 0.5
    assert sorted(memory.stores(coefficient)) == [kind * all_rows + row for kind in range(3) for row in range(2)]


def update_log(memory: VirtualMemory, number: int, size: int = 4_300_000) -> update_triton.RecordLocation:
    """The location of a record in a log with more than 2^31 numbers."""
    return update_triton.RecordLocation(memory.buffer(1000, size), size, number, 2, 4, 1024)


def test_the_optimizers_step_on_a_flat_buffer(memory: VirtualMemory) -> None:
    weight, gradients = memory.buffer(HUGE, holds=small), memory.buffer(2, HUGE, holds=lambda places: places % 5)
    count, lr = torch.zeros((), dtype=torch.int64), torch.tensor(0.5, dtype=torch.float64)
    options = dict(rule="sgd", options={}, clip=0.0, ema=None, ema_decay=0.0)
    place = update_log(memory, 999)
    update_triton.step_(memory, update_triton.optimizer_args(weight, [], lr, count, **options), gradients, place)
    places = np.arange(2**31 + 1024, HUGE)
    g = places % 5 + (places + HUGE) % 5
    check(memory.stores(weight), places, small(places) - 0.5 * g)
    programs = update_triton.programs(HUGE)
    first = 999 * place[1] + 4
    assert memory.stores(place[0]) == {first + programs - 1: (g**2).sum(), first + 2 * programs - 1: 0.0}
    assert {index * place[1] + 1 for index in range(999)} <= memory.loads(place[0]), "which updates were skipped"


def test_updates_are_flushed(memory: VirtualMemory) -> None:
    whole = update_log(memory, 1000)
    matrix, size, *_ = whole
    counters = [torch.zeros((), dtype=torch.int64) for _ in range(2)]
    update_triton.flush_(memory, whole, 5, *counters, torch.zeros(6))
    assert counters[0] == 1
    assert {place // size for place in memory.loads(matrix)} == {999}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("outputs", "inputs"), [(40_000, 70_001), (130, 2**24)], ids=["many weights", "the widest"])
def test_weight_gradients(
    outputs: int, inputs: int, fused: bool, memory: VirtualMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer of more than 2^31 weights, whose first one is the buffer's 17th."""
    rows, shapes, tile = 130, ((outputs, inputs), (1, outputs)), tiles.Tile(128, 64, 128, 4, 1)
    made = products(memory, monkeypatch, SMALL, *shapes)
    weight = memory.buffer(16 + outputs * inputs)
    gradients = None if fused else memory.buffer(1, len(weight))
    across = -(-inputs // tile.columns)
    last = -(-outputs // tile.rows) * across
    u, x, shadow = made.operand(rows, outputs), made.operand(rows, inputs), made.weights[0]
    pointers = [number for each in (u, x, shadow) for number in (memory.address(each), each.stride(0))]
    table = torch.tensor([[0, across, outputs, inputs, 16, -1, *pointers, 1], [last, 1, 1, outputs, 0, -1, *pointers, 2]])
    updates = FusedUpdate(made, rows)
    updates.use_tile(tile)
    monkeypatch.setattr(updates, "tile_count", lambda: last)  # without the second layer, whose tiles come later
    states, count = (weight, None, None, None, None), torch.zeros((), dtype=torch.int64)
    optimizer = update_triton.OptimizerArgs(states, torch.tensor(0.5), count, "sgd", False, (0.0,), 0.0, 0.0)
    place = update_log(memory, 999)
    memory.stored.clear()
    operands = dict(table=table, coefficient=torch.ones(3, rows)[0], all_rows=rows, rows=rows)
    updates.launch(optimizer, place, gradients, **operands)
    row, column = ends(outputs, inputs, tile.rows, tile.columns)
    assert sorted(memory.stores(weight if fused else gradients)) == (16 + row * inputs + column).flatten().tolist()
    # the operands are filled up, and so are the tiles that are read of them
    output, input_ = (first + np.arange(size) for first, size in ((row[0, 0], tile.rows), (column[0, 0], tile.columns)))
    for operand, read in ((u, output), (x, input_)):
        assert memory.loads(operand) == {r * operand.stride(0) + c for r in range(rows) for c in read.tolist()}
    if fused:
        assert sorted(memory.stores(shadow)) == (row * shadow.stride(0) + column).flatten().tolist()
        assert min(memory.stores(place[0])) == 999 * place[1] + 4 + last - 1


@triton.jit
def number_kernel(out, count, update_log, record_size, index, FLAGS: tl.constexpr):
    tl.store(out, update_kernels.number_of_update(count, update_log, record_size, index, FLAGS))


def test_the_number_of_an_update_after_very_many() -> None:
    """As many as 17 steps of 65,535 updates each in a graph."""
    skipped = torch.zeros(2500, 2)
    skipped[torch.tensor([0, 1023, 1024, 2399, 2400]), 1] = 1.0
    out = torch.zeros(1)
    number_kernel[(1,)](out, torch.tensor(10), skipped, 2, 2400, FLAGS=2**21)
    assert out == 10 + 2400 + 1 - 4
