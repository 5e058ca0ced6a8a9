"""sample by Triton: the numbers are the reference's, of a step that is read from the device."""

from __future__ import annotations

import pytest
import torch

from fastgan.ops import backend, reference, sample
from fastgan.ops.sample import Role, stream
from fastgan.ops.triton import sample as sample_triton

# seeds and steps are of 64 bits, shapes of 32: what happens to one of them does not depend on the other two
COUNTERS = [
    (0, 0),
    (1, 77),
    (12345678901234567, 77),
    (2**63 - 1, 2**31),
    (12345678901234567, 2**32 + 5),
    (2**63 - 1, 2**62 + 2**40),
]


@pytest.mark.parametrize(("seed", "step"), COUNTERS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 4), (7, 30), (9, 129)])
def test_numbers(seed: int, rows: int, columns: int, step: int, device: torch.device) -> None:
    counter = dict(seed=seed, stream=stream(Role.NOISE, index=3, d_step=40000), first_row=5)
    on_device = torch.tensor(step, device=device)
    for kind, tolerance in (("uniforms", 0.0), ("normals", 4e-6)):
        expected = getattr(reference, kind)(rows, columns, step=step, **counter)
        for given in (step, on_device):
            found = getattr(sample, kind)(rows, columns, step=given, device=device, backend="triton", **counter)
            torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=tolerance)
    expected = reference.dropout_scale(rows, columns, 0.3, step=step, **counter)
    found = sample.dropout_scale(rows, columns, 0.3, step=on_device, device=device, backend="triton", **counter)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("size", [1, 3, 100, 1797, 60000, 65537])
def test_the_order_of_the_data(size: int, device: torch.device) -> None:
    for seed, position in ((0, 0), (2**62 + 3, size - 1), (7, 3 * size - 20 if size > 7 else 5), (7, (2**40 + 1) * size - 5)):
        expected = reference.batch_indices(37, size, position, seed=seed, stream=2)
        for given in (position, torch.tensor(position, device=device)):
            found = sample.batch_indices(37, size, given, seed=seed, stream=2, device=device, backend="triton")
            assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(5, 1, 1), (11, 3, 43), (9, 200)])
def test_batches_and_interpolates(dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    images = torch.randint(0, 256, shape).to(dtype) if dtype == torch.uint8 else torch.randn(shape)
    indices = torch.tensor([4, 0, 3, 3, 1, 2, 0])
    expected = reference.gather_rows(images, indices)
    found = sample.gather_rows(images.to(device), indices.to(device), backend="triton")
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1.2e-7)
    fake, alpha = torch.randn_like(expected), torch.rand(len(expected))
    mixed = sample.interpolate(found, fake.to(device), alpha.to(device), backend="triton")
    torch.testing.assert_close(mixed.cpu(), reference.interpolate(expected, fake, alpha), rtol=1e-6, atol=4e-6)


@pytest.mark.parametrize("step", [11, 2**32 + 11, 2**40])
def test_the_operands_of_a_whole_step(step: int, device: torch.device) -> None:
    """Latents of several passes, real rows of several updates and points between real and fake rows, in filled-up matrices."""
    rows, features, d_steps, seed = 5, 43, 3, 99
    launch, counter = backend.launcher(device), torch.tensor(step, device=device)
    out = torch.full((2 * rows + 1, 64), torch.nan, device=device)
    words = (stream(Role.LATENT), stream(Role.GENERATOR_LATENT))
    sample_triton.load_normals_(
        launch, out[: 2 * rows], 30, rows, seed, counter, torch.tensor(words, device=device), first_row=10
    )
    expected = torch.cat([reference.normals(rows, 30, seed=seed, step=step, stream=word, first_row=10) for word in words])
    torch.testing.assert_close(out[: 2 * rows, :30].cpu(), expected, rtol=0, atol=4e-6)
    assert out[:, 30:].isnan().all() and out[2 * rows :].isnan().all(), "nothing else is written"

    images = torch.randint(0, 256, (50, features), dtype=torch.uint8)
    batches = sample_triton.BatchPosition(seed, counter, d_steps, 3 * rows, rows)
    operands = torch.full(((d_steps + 1) * 20, 64), torch.nan, device=device)
    sample_triton.load_batches_(launch, (operands[2 : 2 + rows], 20), d_steps + 1, images.to(device), batches)
    fake = torch.randn(d_steps, rows, features)
    word = stream(Role.ALPHA, index=2)
    sample_triton.load_points_(launch, (operands[9 : 9 + rows], 20), 2, 1, fake.to(device), word, images.to(device), batches)
    for update in range(d_steps + 1):
        d_step = min(update, d_steps - 1)
        position = (step * d_steps + d_step) * 3 * rows + rows
        indices = reference.batch_indices(rows, 50, position, seed=seed, stream=stream(Role.BATCH))
        real = reference.gather_rows(images, indices)
        found = operands[20 * update + 2 :][:rows, :features].cpu()
        torch.testing.assert_close(found, real, rtol=0, atol=1.2e-7)
        if update in (1, 2):
            counters = dict(seed=seed, step=step, stream=stream(Role.ALPHA, index=2, d_step=update), first_row=rows)
            alpha = reference.uniforms(rows, 1, **counters).flatten()
            found = operands[20 * update + 9 :][:rows, :features].cpu()
            torch.testing.assert_close(found, reference.interpolate(real, fake[update], alpha), rtol=1e-6, atol=4e-6)
    written = operands.isfinite().any(1).sum()
    assert written == (d_steps + 1) * rows + 2 * rows
