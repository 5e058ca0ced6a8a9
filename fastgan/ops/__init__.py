"""The five families of operators: sample, linear, loss, penalty, update. Importing them registers every implementation."""

from . import sample_triton, update_triton

__all__ = ["sample_triton", "update_triton"]
