"""Readers beside a run that writes: they need no lock, and always get a whole checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fastgan.training import checkpoint, checkpoint_files
from fastgan.training.checkpoint import Checkpoint, CheckpointError, step_folder


def content(number: int) -> Checkpoint:
    """Three files that belong together."""
    weights = {role: {"w": torch.full((50,), float(number))} for role in ("generator", "discriminator")}
    return Checkpoint(weights, {"step_count": number})


def numbers_in(found: Checkpoint) -> set[float]:
    weights = [float(value) for role in found.weights.values() for value in role["w"].unique()]
    return {*weights, float(found.state["step_count"])}


@pytest.fixture
def beside() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Calls something again and again beside the test; what goes wrong there fails it."""
    stop, errors = threading.Event(), []

    def run(work: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    threads: list[threading.Thread] = []

    def begin(work: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=run, args=(work,)))
        threads[-1].start()

    yield begin
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_reader_beside_saves_and_removals(tmp_path: Path, beside: Callable) -> None:
    root, seen = tmp_path / "checkpoints", []
    checkpoint.save(step_folder(root, 0), content(0))

    def read() -> None:
        (number,) = numbers_in(checkpoint.load(tmp_path))
        seen.append(number)

    beside(read)
    for step in range(1, 60):
        checkpoint.save(step_folder(root, step), content(step))
        checkpoint.prune(root, keep=1)
    assert seen == sorted(seen) and len(seen) > 5, "and never an older one than before"


def test_a_reader_beside_saves_that_replace(tmp_path: Path, beside: Callable) -> None:
    place, seen = tmp_path / "saved", []
    checkpoint.save(place, content(0))

    def read() -> None:
        (number,) = numbers_in(checkpoint.load(place))
        seen.append(number)

    beside(read)
    beside(read)
    for number in range(1, 80):
        checkpoint.save(place, content(number))
    assert len(seen) > 5 and [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_two_that_save_in_one_place_do_no_harm(tmp_path: Path, beside: Callable) -> None:
    place = tmp_path / "saved"
    checkpoint.save(place, content(0))
    for number in (1, 2):
        beside(lambda number=number: checkpoint.save(place, content(number)))
    for _ in range(40):
        (number,) = numbers_in(checkpoint.load(place))
        assert number in (0, 1, 2)


def test_what_is_replaced_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, read, calls = tmp_path / "saved", checkpoint_files.files.read, []
    checkpoint.save(place, content(1))

    def replaced(name: str, *rest: object) -> bytes:
        calls.append(name)
        if len(calls) == 3:
            checkpoint.save(place, content(2))
        return read(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint_files.files, "read", replaced)
    assert numbers_in(checkpoint.load(place)) == {2.0} and len(calls) > 5


def test_a_damaged_one_is_not_read_for_ever(tmp_path: Path) -> None:
    place = step_folder(tmp_path / "checkpoints", 1)
    checkpoint.save(place, content(1))
    (place / "state.pt").write_bytes(b"torn")
    for folder in (place, tmp_path):
        with pytest.raises(CheckpointError, match=r"state.pt is missing or damaged|there is no checkpoint in"):
            checkpoint.load(folder)
