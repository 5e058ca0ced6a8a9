"""What is wrong with data, each with what to do about it."""

from __future__ import annotations


class DataError(ValueError):
    """A data set cannot be used; the message names it and says what to do."""


class DataNotFound(DataError, FileNotFoundError):
    """The files of a data set are not there."""


class DataTypeError(DataError, TypeError):
    """Data of a type that is not understood."""
