"""Readers beside a run that writes: they need no lock, and always get a whole checkpoint."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fastgan.training import checkpoint, checkpoint_files, checkpoint_places
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


def test_a_save_waits_for_another_one_that_lands(tmp_path: Path) -> None:
    place = tmp_path / "saved"
    checkpoint.save(place, content(0))
    with checkpoint_places.alone_in(tmp_path):
        saving = threading.Thread(target=checkpoint.save, args=(place, content(1)))
        saving.start()
        saving.join(0.3)
        assert saving.is_alive() and numbers_in(checkpoint.load(place)) == {0.0}
    saving.join()
    assert numbers_in(checkpoint.load(place)) == {1.0}


def test_another_programs_lock_does_not_stop_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_places, "MOST_WAITS", 3)
    with checkpoint_places.alone_in(tmp_path):
        checkpoint.save(tmp_path / "saved", content(1))
    assert numbers_in(checkpoint.load(tmp_path / "saved")) == {1.0}


def test_a_child_forked_meanwhile_does_not_hold_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with checkpoint_places.alone_in(tmp_path):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        monkeypatch.setattr(checkpoint_places, "WAIT", 60.0)
        checkpoint.save(tmp_path / "saved", content(1))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_a_person_puts_in_the_place_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, write = tmp_path / "saved", checkpoint_files.write
    checkpoint.save(place, content(0))

    def slow(folder: Path, written: Checkpoint) -> None:
        write(folder, written)
        (place / "notes.txt").write_text("mine")

    monkeypatch.setattr(checkpoint_files, "write", slow)
    with pytest.raises(CheckpointError, match=r"is no checkpoint and was left untouched, it has notes.txt"):
        checkpoint.save(place, content(1))
    assert numbers_in(checkpoint.load(place)) == {0.0} and [path.name for path in tmp_path.iterdir()] == ["saved"]


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


LOOKS = ("stat", "lstat", "listdir", "open", "read")  # a reader's calls to the file system


class Turns:
    """A writer that takes its next turn at each of a reader's calls."""

    def __init__(self, turns: Iterator[None]) -> None:
        self.turns, self.working = turns, False

    def watched(self, real: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            if not self.working:
                self.working = True
                next(self.turns, None)
                self.working = False
            return real(*arguments, **options)

        return call


def replacing(place: Path, made: list[Path], first: int, gap: int) -> Iterator[None]:
    """Replaces the checkpoint of a place by each made one, from the reader's call with a number on."""
    for _ in range(first):
        yield
    for folder in made:
        aside = place.with_name(f".{place.name}.{int(folder.name):08x}.replaced")
        place.rename(aside)
        for _ in range(gap):
            yield
        folder.rename(place)
        shutil.rmtree(aside)
        yield


@pytest.mark.parametrize("gap", (1, 2, 3, 4, 5, 6, 8, 11))  # calls while the place is empty
@pytest.mark.parametrize("reader", ("load", "verify", "load from a run"))
def test_a_replacement_between_any_two_calls_of_a_reader(
    reader: str, gap: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_run = reader == "load from a run"
    place = step_folder(tmp_path / "run" / "checkpoints", 1) if in_a_run else tmp_path / "saved"
    if in_a_run:
        checkpoint.save(step_folder(place.parent, 0), content(-1))
    checkpoint.save(place, content(0))
    for first in range(14):
        made = [tmp_path / "made" / str(3 * first + more) for more in range(3)]
        for folder in made:
            checkpoint.save(folder, content(int(folder.name)))
        writer = Turns(replacing(place, made, first, gap))
        with monkeypatch.context() as patch:
            for name in LOOKS:
                patch.setattr(os, name, writer.watched(getattr(os, name)))
            if reader == "verify":
                checkpoint.verify(place)
            else:
                (number,) = numbers_in(checkpoint.load(tmp_path / "run" if in_a_run else place))
                assert number >= 0, "never the older one"
            writer.working = True
            for _ in writer.turns:
                pass


def test_a_damaged_one_is_not_read_for_ever(tmp_path: Path) -> None:
    place = step_folder(tmp_path / "checkpoints", 1)
    checkpoint.save(place, content(1))
    (place / "state.pt").write_bytes(b"torn")
    for folder in (place, tmp_path):
        with pytest.raises(CheckpointError, match=r"state.pt is missing or damaged|there is no checkpoint in"):
            checkpoint.load(folder)
