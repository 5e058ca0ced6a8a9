"""The five families of operators: sample, linear, loss, penalty, update. Importing them registers every implementation."""

from . import cpp, linear, loss, penalty, sample, triton, update

__all__ = ["cpp", "linear", "loss", "penalty", "sample", "triton", "update"]
