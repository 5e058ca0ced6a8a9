"""What is wrong with data, each with what to do about it."""

from __future__ import annotations


class DataError(ValueError):
    """A data set cannot be used; the message names it and says what to do.

    Example:
        >>> try:
        ...     as_image_set(torch.zeros(0, 28, 28))
        ... except DataError as error:
        ...     print(error)
        tensor is empty: its shape is (0, 28, 28)
    """


class DataNotFound(DataError, FileNotFoundError):
    """The files of a data set are not there.

    Example:
        >>> try:
        ...     load("mnist", "no/such/folder")
        ... except DataNotFound as error:
        ...     print(str(error)[:40])
        mnist: there is no train-images-idx3-uby
    """


class DataTypeError(DataError, TypeError):
    """Data of a type that is not understood.

    Example:
        >>> try:
        ...     as_image_set(torch.zeros(8, 28, 28, dtype=torch.int32))
        ... except DataTypeError as error:
        ...     print(str(error)[:34])
        tensor: values are torch.int32; gi
    """
