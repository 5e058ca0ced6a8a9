"""Data sets, each one tensor of images: those that have a name here, and whatever a person already has.

`load` knows the names; `as_image_set` takes a name, a tensor or any map-style torch Dataset. Nothing is unpickled.
"""

from .errors import DataError, DataNotFound, DataTypeError
from .image_set import ImageSet
from .sources import NAMES, as_image_set, load, modes

__all__ = ["NAMES", "DataError", "DataNotFound", "DataTypeError", "ImageSet", "as_image_set", "load", "modes"]
