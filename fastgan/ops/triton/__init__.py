"""The Triton implementations of the stems that are called one at a time (kernels/); importing them registers them."""

from . import sample, update

__all__ = ["sample", "update"]
