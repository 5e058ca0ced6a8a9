"""The C++ implementations of every stem (csrc/); importing them registers them."""

from . import linear, loss, penalty, sample, update

__all__ = ["linear", "loss", "penalty", "sample", "update"]
