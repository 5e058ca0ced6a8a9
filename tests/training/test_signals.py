"""Signals while training: they are noted, the third one acts at once, and handlers are given back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fastgan.training.signals import SIGNALS, Interrupted, Interrupts

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="Python handles signals in the main thread alone"
)


@pytest.fixture
def handlers() -> Any:
    """Handlers of a person's own."""

    def handle(number: int, frame: object) -> None:
        raise AssertionError(number)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    yield handle
    for number, handler in before.items():
        signal.signal(number, handler)


def now() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_two_signals_are_noted_and_the_third_leaves_at_once(first: int, second: int, handlers: Callable) -> None:
    with Interrupts() as interrupts:
        assert interrupts.received is None and handlers not in now()
        signal.raise_signal(first)
        signal.raise_signal(second)
        assert interrupts.received == first and interrupts.count == 2
        for count in (3, 4):
            with pytest.raises(Interrupted) as stop:
                signal.raise_signal(second)
            assert stop.value.exit_code == 128 + first and interrupts.count == count
    assert now() == [handlers] * 3


@pytest.mark.parametrize("number", SIGNALS)
def test_where_nothing_is_lost_the_first_signal_leaves_at_once(number: int, handlers: Callable) -> None:
    with pytest.raises(Interrupted) as stop, Interrupts(at_once=True):
        signal.raise_signal(number)
    assert stop.value.exit_code == 128 + number and now() == [handlers] * 3
    with Interrupts() as interrupts:
        with pytest.raises(Interrupted), interrupts.raising():
            signal.raise_signal(number)
        signal.raise_signal(number)
        assert interrupts.count == 2, "noted again, past that context"


class Collected:
    """Gets a signal while Python collects it."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_the_garbage_collection_is_not_lost(handlers: Callable) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), Interrupts(at_once=True):
        Collected()
    reached = False
    with Interrupts() as interrupts, pytest.raises(Interrupted, match="SIGTERM"), interrupts.raising():
        Collected()
        reached = True
    assert reached


def test_a_reader_that_has_gone_is_like_a_signal(handlers: Callable) -> None:
    with Interrupts() as interrupts:
        interrupts.note(signal.SIGPIPE)
        assert interrupts.received == signal.SIGPIPE and Interrupted(signal.SIGPIPE).exit_code == 141
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.received == signal.SIGPIPE


def test_an_ignored_signal_stays_ignored(handlers: Callable) -> None:
    """As under nohup, and in the background of a script."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGHUP)
        assert interrupts.count == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_contexts_stand_inside_each_other(handlers: Callable) -> None:
    """The command's own, and a run's in it."""
    with Interrupts(at_once=True) as outer, Interrupts() as inner:
        signal.raise_signal(signal.SIGINT)
        assert (outer.count, inner.count) == (0, 1)
    with pytest.raises(Interrupted), Interrupts(at_once=True):
        with Interrupts():
            pass
        signal.raise_signal(signal.SIGINT)


def test_handlers_are_given_back_without_a_signal_and_after_an_error(handlers: Callable) -> None:
    with Interrupts():
        assert handlers not in now()
    assert now() == [handlers] * 3
    with pytest.raises(KeyError), Interrupts():
        raise KeyError
    assert now() == [handlers] * 3


def test_in_another_thread_handlers_are_left_alone(handlers: Callable) -> None:
    seen: list[Any] = []

    def run() -> None:
        with Interrupts() as interrupts:
            seen.extend([interrupts.received, *now()])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None, handlers, handlers, handlers]
