"""Signals while training: the first is noted, the second acts, and handlers are given back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fastgan.training.signals import SIGNALS, Interrupts

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="Python handles signals in the main thread alone"
)


class Heard(Exception):
    """A person's own handler ran."""


@pytest.fixture
def handlers() -> Any:
    """Handlers of a person's own."""

    def handle(number: int, frame: object) -> None:
        raise Heard(number)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    yield handle
    for number, handler in before.items():
        signal.signal(number, handler)


def now() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_acts_as_before(first: int, second: int, handlers: Callable) -> None:
    with Interrupts() as interrupts:
        assert interrupts.received is None and handlers not in now()
        signal.raise_signal(first)
        assert interrupts.received == first and now() == [handlers] * 2
        with pytest.raises(Heard):
            signal.raise_signal(second)
        assert interrupts.received == first
    assert now() == [handlers] * 2


def test_handlers_are_given_back_without_a_signal_and_after_an_error(handlers: Callable) -> None:
    with Interrupts():
        assert handlers not in now()
    assert now() == [handlers] * 2
    with pytest.raises(KeyError), Interrupts():
        raise KeyError
    assert now() == [handlers] * 2


def test_in_another_thread_handlers_are_left_alone(handlers: Callable) -> None:
    seen: list[Any] = []

    def run() -> None:
        with Interrupts() as interrupts:
            seen.extend([interrupts.received, *now()])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None, handlers, handlers]
