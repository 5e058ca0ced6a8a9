"""sample: published and pinned answers, no visible bias, global rows, and the C++ against the reference."""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from fastgan.ops import reference, sample

COUNTER = dict(seed=2026, step=3, stream=5)
# every word of the counter and both of the key have their highest bit set
HIGH = dict(seed=2**64 - 5, step=2**32 - 2, stream=2**32 - 9, first_row=2**31 + 7)
SHAPES = [
    pytest.param(1, 1, id="one number"),
    pytest.param(33, 1, id="one column, more rows than a tile"),
    pytest.param(3, 5, id="cut blocks"),
    pytest.param(64, 100, id="latents"),
    pytest.param(5, 1031, id="a prime number of columns"),
    pytest.param(0, 7, id="no rows"),
    pytest.param(700, 260, id="more than one thread's share"),
]


@pytest.fixture(params=["reference", "cpp"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpp":
        request.getfixturevalue("requires_extension")
    return request.param


def words(counter: tuple[int, ...], key: int) -> list[int]:
    return [int(word) for word in reference.philox4x32(tuple(torch.tensor(word) for word in counter), key)]


@pytest.mark.parametrize(
    "counter, key, expected",
    [
        pytest.param((0,) * 4, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], id="zeros"),
        pytest.param((2**32 - 1,) * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD], id="ones"),
        pytest.param(
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
            id="digits of pi",
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter: tuple[int, ...], key: int, expected: list[int]) -> None:
    assert words(counter, key) == expected


# the answers below come from an evaluation in Python's own integers


def test_uniforms_are_the_high_24_bits_of_the_published_vector(backend: str) -> None:
    numbers = sample.uniforms(1, 4, seed=0, step=0, stream=0, backend=backend)
    assert numbers.tolist() == [[0.39904642105102539, 0.8805201649665832, 0.7357127666473389, 0.6054818034172058]]


def test_dropout_has_a_known_answer(backend: str) -> None:
    scale = sample.dropout_scale(2, 16, 0.3, **COUNTER, first_row=7, backend=backend)
    kept = ["".join("1" if value else "0" for value in row) for row in scale.tolist()]
    assert kept == ["1111111001110101", "1110101001111101"]
    assert set(scale.flatten().tolist()) == {0.0, float(torch.tensor(1 / 0.7))}


@pytest.mark.parametrize(
    "size, position, expected",
    [
        pytest.param(40, 35, [30, 35, 13, 36, 12, 1, 3, 22, 26, 37, 2, 20], id="two epochs of forty"),
        pytest.param(60000, 59996, [33331, 43684, 26702, 40010, 43988, 21979, 11240, 57737], id="two epochs of mnist"),
    ],
)
def test_the_order_of_the_data_has_a_known_answer(size: int, position: int, expected: list[int], backend: str) -> None:
    indices = sample.batch_indices(len(expected), size, position, seed=2026, stream=2, backend=backend)
    assert indices.tolist() == expected


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1797, 60000])
def test_every_epoch_is_a_permutation(size: int, backend: str) -> None:
    epochs = sample.batch_indices(2 * size, size, 0, seed=1, stream=2, backend=backend).reshape(2, size)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(size).expand(2, size))
    assert size < 64 or not torch.equal(epochs[0], epochs[1])


def chi_square(counts: Tensor) -> float:
    """In standard deviations from what is expected of equal cells."""
    expected = counts.double().mean()
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float((statistic - (counts.numel() - 1)) / math.sqrt(2 * (counts.numel() - 1)))


@pytest.mark.parametrize("size", [64, 100])
def test_every_position_sees_every_sample_equally_often(size: int, backend: str) -> None:
    epochs = 1000
    order = sample.batch_indices(epochs * size, size, 0, seed=3, stream=2, backend=backend)
    pairs = torch.arange(size).repeat(epochs) * size + order
    assert abs(chi_square(torch.bincount(pairs, minlength=size * size))) < 4


def test_no_sample_prefers_a_neighbour(backend: str) -> None:
    order = sample.batch_indices(3000 * 16, 16, 0, seed=4, stream=2, backend=backend).reshape(-1, 16)
    steps = (order[:, 1:] - order[:, :-1]) % 16
    assert abs(chi_square(torch.bincount(steps.flatten(), minlength=16)[1:])) < 4


@pytest.mark.parametrize("field", ["seed", "step", "stream", "first_row"])
def test_uniforms_are_even_and_independent_of_the_next_counter(field: str, backend: str) -> None:
    counter = dict(seed=11, step=12, stream=13, first_row=0)
    here = sample.uniforms(250, 400, **counter, backend=backend)
    there = sample.uniforms(250, 400, **(counter | {field: counter[field] + 1000}), backend=backend)
    cells = (here * 10).long() * 10 + (there * 10).long()
    assert abs(chi_square(torch.bincount(cells.flatten(), minlength=100))) < 4


def test_normals_have_the_moments_of_a_normal(backend: str) -> None:
    x = sample.normals(1000, 1000, seed=5, step=6, stream=7, backend=backend).double()
    n = x.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs(float((x**power).mean()) - moment) < 4 * math.sqrt(variance / n), power
    pairs = x.reshape(-1, 2)
    assert abs(float((pairs[:, 0] * pairs[:, 1]).mean())) < 4 / math.sqrt(n / 2)
    assert abs(float((pairs[:, 0] ** 2 * pairs[:, 1] ** 2).mean()) - 1) < 4 * math.sqrt(8 / (n / 2))


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 0.999])
def test_dropout_keeps_the_mean(probability: float, backend: str) -> None:
    scale = sample.dropout_scale(500, 801, probability, **COUNTER, backend=backend).double()
    spread = math.sqrt(probability / (1 - probability) / scale.numel())
    assert abs(float(scale.mean()) - 1) <= 4 * spread + 2**-17 / (1 - probability)  # the probability is a 16-bit number


@pytest.mark.parametrize("name, extra", [("normals", ()), ("uniforms", ()), ("dropout_scale", (0.3,))])
def test_rows_are_global(name: str, extra: tuple, backend: str) -> None:
    draw = getattr(sample, name)
    whole = draw(64, 37, *extra, **COUNTER, backend=backend)
    parts = [
        draw(rows, 37, *extra, **COUNTER, first_row=first, backend=backend) for first, rows in ((0, 21), (21, 40), (61, 3))
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_a_batch_is_a_piece_of_the_stream(backend: str) -> None:
    whole = sample.batch_indices(300, 100, 50, seed=8, stream=2, backend=backend)
    assert torch.equal(sample.batch_indices(64, 100, 50 + 90, seed=8, stream=2, backend=backend), whole[90:154])


@pytest.mark.parametrize("rows, columns", SHAPES)
@pytest.mark.parametrize("counter", [pytest.param(COUNTER, id="small"), pytest.param(HIGH, id="high bits")])
def test_cpp_draws_the_reference_bits(rows: int, columns: int, counter: dict, requires_extension: None) -> None:
    ours = sample.uniforms(rows, columns, **counter, backend="cpp")
    assert torch.equal(ours, reference.uniforms(rows, columns, **counter))
    for probability in (0.0, 0.3, 0.97):
        ours = sample.dropout_scale(rows, columns, probability, **counter, backend="cpp")
        assert torch.equal(ours, reference.dropout_scale(rows, columns, probability, **counter))


@pytest.mark.parametrize("rows, columns", SHAPES[1:5])
def test_cpp_normals_err_no_more_than_torch(rows: int, columns: int, requires_extension: None) -> None:
    exact = reference.normals(rows, columns, dtype=torch.float64, **COUNTER)
    torch_error = (reference.normals(rows, columns, **COUNTER) - exact).abs().max()
    error = (sample.normals(rows, columns, **COUNTER, backend="cpp") - exact).abs().max()
    assert error <= 2 * torch_error + 1e-7


def test_cpp_normals_agree_with_the_reference_to_rounding(requires_extension: None) -> None:
    ours, theirs = sample.normals(512, 512, **HIGH, backend="cpp"), reference.normals(512, 512, **HIGH)
    # the reference rounds the angle, up to 2 pi, and its unit to fp32; the radius is at most 5.9
    assert (ours - theirs).abs().max() <= 5.9 * 2 * math.pi * 2**-23


@pytest.mark.parametrize(
    "size", [1, 2, 3, 4, 5, 63, 64, 65, 1797, 60000, pytest.param(2**40 + 1, id="halves of 21 and 20 bits"), 2**62]
)
def test_cpp_shuffles_as_the_reference(size: int, requires_extension: None) -> None:
    arguments = dict(rows=200, size=size, position=3 * size - 100, seed=2**63 + 1, stream=2**31 + 2)
    if arguments["position"] + 200 >= 2**63:
        arguments["position"] = size - 100
    arguments["position"] = max(arguments["position"], 0)
    assert torch.equal(sample.batch_indices(**arguments, backend="cpp"), reference.batch_indices(**arguments))


def test_gather_scales_every_byte_as_torch_does(backend: str) -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1)
    batch = sample.gather_rows(images, torch.arange(256), backend=backend)
    assert batch[0] == -1
    assert batch[255] == 1
    exact = torch.arange(256, dtype=torch.float64).unsqueeze(1) * (2 / 255) - 1
    assert (batch - exact).abs().max() < 2**-22


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_gather_fills_what_it_is_given(dtype: torch.dtype, backend: str) -> None:
    images, indices = torch.randint(0, 256, (9, 2, 3)).to(dtype), torch.tensor([8, 0, 8])
    out = torch.full((3, 6), math.nan)
    assert sample.gather_rows(images, indices, out=out, backend=backend) is out
    assert torch.equal(out, sample.gather_rows(images, indices, backend=backend))


@pytest.mark.parametrize(
    "shape, rows",
    [
        pytest.param((100, 28, 28), 64, id="mnist"),
        pytest.param((9, 3, 5, 7), 33, id="colour"),
        pytest.param((4, 1), 0, id="empty batch"),
        pytest.param((300, 1000), 300, id="more than one thread's share"),
    ],
)
def test_cpp_gathers_the_reference_bits(shape: tuple[int, ...], rows: int, requires_extension: None) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    indices = torch.randint(0, shape[0], (rows,))
    assert torch.equal(sample.gather_rows(images, indices, backend="cpp"), reference.gather_rows(images, indices))


@pytest.mark.parametrize("index", [-1, 4])
def test_an_index_outside_the_data_is_an_error(index: int, backend: str) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        sample.gather_rows(torch.zeros(4, 6, dtype=torch.uint8), torch.tensor([0, index]), backend=backend)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 1), id="one number"),
        pytest.param((5, 7), id="odd"),
        pytest.param((3, 3, 5, 7), id="colour"),
        pytest.param((0, 4), id="no rows"),
        pytest.param((130, 784), id="more than one thread's share"),
    ],
)
def test_interpolates_lie_between_real_and_fake(shape: tuple[int, ...], backend: str) -> None:
    real, fake, alpha = torch.randn(shape), torch.randn(shape), torch.rand(shape[0])
    share = alpha.double().reshape(-1, *[1] * (len(shape) - 1))
    exact = (1 - share) * real.double() + share * fake.double()
    points = sample.interpolate(real, fake, alpha, backend=backend)
    # the difference and the sum are rounded once each, and the product where the sum does not take it in
    assert ((points - exact).abs() <= 3 * 2.0**-24 * (real.abs() + fake.abs()).double()).all()
    assert torch.equal(sample.interpolate(real, fake, torch.zeros(shape[0]), backend=backend), real)


@pytest.mark.parametrize("shape", [(5, 7), (3, 3, 5, 7), (130, 784)], ids=str)
def test_cpp_interpolates_as_the_reference_to_rounding(shape: tuple[int, ...], requires_extension: None) -> None:
    real, fake, alpha = torch.randn(shape), torch.randn(shape), torch.rand(shape[0])
    ours, theirs = (sample.interpolate(real, fake, alpha, backend=name) for name in ("cpp", "reference"))
    assert ((ours - theirs).abs() <= 2.0**-23 * (real.abs() + fake.abs())).all()


def test_interpolation_leaves_what_cpp_does_not_have_to_the_reference(requires_extension: None) -> None:
    real, fake, alpha = torch.randn(7, 5).t(), torch.randn(5, 7), torch.rand(5)
    for arguments in ((real, fake, alpha), (fake, real, alpha), (fake, fake + 1, torch.rand(5, 2)[:, 0])):
        points = sample.interpolate(*arguments, backend="cpp")
        assert torch.equal(points, reference.interpolate(*arguments))
    double = [x.double() for x in (real, fake, alpha)]
    assert torch.equal(sample.interpolate(*double, backend="cpp"), reference.interpolate(*double))


def test_interpolation_of_other_sizes_is_an_error(requires_extension: None) -> None:
    for fake, alpha in ((torch.zeros(4, 5), torch.zeros(5)), (torch.zeros(5, 7), torch.zeros(4))):
        with pytest.raises(RuntimeError):
            sample.interpolate(torch.zeros(5, 7), fake, alpha, backend="cpp")


def test_masks_are_those_of_each_pass() -> None:
    """A pass has its own draws and number; the dropout layer is the same in all of them."""
    passes = [(sample.Draws(3, 4, d_step=d_step, first_row=64), number) for d_step, number in ((0, 2), (1, 2), (1, 5))]
    masks = sample.masks(passes, 1)
    assert (masks.seed, masks.step, masks.first_row) == (3, 4, 64)
    for word, (draws, number) in zip(masks.streams, passes, strict=True):
        counter = dict(seed=masks.seed, step=masks.step, first_row=masks.first_row, stream=word)
        own = draws.dropout_scale(6, 40, 0.5, pass_=number, layer=1)
        assert torch.equal(sample.dropout_scale(6, 40, 0.5, **counter), own)
    assert len(set(masks.streams)) == 3 and masks.streams != sample.masks(passes, 0).streams


@pytest.fixture
def shared_work(requires_extension: None, set_threads: Callable[[int], None]) -> Callable[[], None]:
    """Calls that two threads share; it raises where a result is not what one thread made."""
    real, fake, alpha, out = torch.randn(600, 784), torch.randn(600, 784), torch.rand(600), torch.zeros(4, 600, 784)
    run = torch.ops.fastgan.interpolate_.default
    set_threads(1)
    run(out[0], real, fake, alpha)
    expected = out[0].numpy().tobytes()
    slots = itertools.count(1)

    def call() -> None:
        mixed = out[next(slots)]
        for _ in range(20):
            mixed.numpy().fill(0.0)
            run(mixed, real, fake, alpha)
            assert mixed.numpy().tobytes() == expected

    set_threads(2)
    return call


def test_work_is_shared_by_two_callers_at_once(shared_work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for finished in [pool.submit(shared_work) for _ in range(2)]:
            finished.result(timeout=60)


def exit_status(child: int, seconds: float = 60.0) -> int:
    """The exit status of a child process, which is killed where it takes longer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python warns of threads at a fork, which is what this is about
def test_a_forked_child_does_its_work_alone(shared_work: Callable[[], None]) -> None:
    shared_work()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            shared_work()
            status = 0
        finally:
            os._exit(status)
    shared_work()
    assert exit_status(child) == 0


def test_one_thread_needs_no_other(shared_work: Callable[[], None], set_threads: Callable[[int], None]) -> None:
    set_threads(1)
    shared_work()


def test_what_cpp_does_not_have_runs_the_reference(requires_extension: None) -> None:
    step = torch.tensor(3)
    counter = dict(seed=2026, stream=5, backend="cpp")
    assert torch.equal(sample.uniforms(4, 6, step=step, **counter), sample.uniforms(4, 6, step=3, **counter))
    assert sample.normals(4, 6, step=3, dtype=torch.float64, **counter).dtype == torch.float64
    images = torch.randint(0, 256, (6, 8), dtype=torch.uint8).t()
    assert torch.equal(
        sample.gather_rows(images, torch.tensor([1, 0]), backend="cpp"), reference.gather_rows(images, torch.tensor([1, 0]))
    )
    floats = torch.randn(5, 3)
    assert torch.equal(sample.gather_rows(floats, torch.tensor([4, 4]), backend="cpp"), floats[[4, 4]])


def test_draws_differ_by_role_and_repeat(backend: str) -> None:
    draws = sample.Draws(seed=1, step=2)
    assert torch.equal(draws.latents(3, 8), sample.Draws(seed=1, step=2).latents(3, 8))
    assert not torch.equal(draws.latents(3, 8), draws.latents(3, 8, sample.Role.GENERATOR_LATENT))
    assert not torch.equal(draws.alpha(8, penalty=0), draws.alpha(8, penalty=1))


@pytest.mark.slow
def test_compiled_code_draws_the_same_numbers(requires_extension: None) -> None:
    compiled = torch.compile(lambda: sample.uniforms(3, 5, **COUNTER), backend="eager", fullgraph=True)
    assert torch.equal(compiled(), sample.uniforms(3, 5, **COUNTER, backend="cpp"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, arguments",
    [
        ("uniforms_", (torch.empty(3, 5), 1, 2, 3, 4)),
        ("normals_", (torch.empty(3, 5), 1, 2, 3, 4)),
        ("dropout_scale_", (torch.empty(3, 5), 20000, 1.5, 1, 2, 3, 4)),
        ("batch_indices_", (torch.empty(9, dtype=torch.int64), 7, 5, 1, 2)),
        ("gather_rows_", (torch.empty(2, 6), torch.zeros(4, 6, dtype=torch.uint8), torch.tensor([3, 0]))),
        ("interpolate_", (torch.empty(2, 6), torch.ones(2, 6), torch.zeros(2, 6), torch.rand(2))),
    ],
)
def test_opcheck(name: str, arguments: tuple, requires_extension: None) -> None:
    torch.library.opcheck(getattr(torch.ops.fastgan, name).default, arguments)


def test_interpolates_are_made_under_a_transform_too() -> None:
    real, fake, alpha = torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.rand(3, 4)
    expected = torch.stack([reference.interpolate(*rows) for rows in zip(real, fake, alpha, strict=True)])
    torch.testing.assert_close(torch.func.vmap(sample.interpolate)(real, fake, alpha), expected)
