"""What archives of all formats have in common: members."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError

STORE_ERRORS = (ObjectError, StorageUnreachableError, UsageError)
"""What a store raises, which says nothing of the archive that was being read."""

Content = bytes | NDArray[np.uint8]
"""An encoded image, or a grey (H, W) page."""

ContentOrError = Content | ObjectError


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    """Bytes of its content, or `UNKNOWN_SIZE`."""
    position: str
    """For its format's own use; no two members of an archive share name and position."""
    status: str = ""
    error: str = ""
    """Why it cannot be read, if that is known."""
