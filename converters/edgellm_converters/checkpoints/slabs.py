"""Reading bytes of a file into arrays that the caller owns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm_converters.errors import CorruptFileError

__all__ = ["read_into"]

# What passes through memory on the way to the array.
SLAB = 4 << 20


def read_into(descriptor: int, array: npt.NDArray[Any], offset: int, path: Path) -> None:
    """Fill a C-contiguous array with the bytes of a file from `offset` on.

    Raises:
        CorruptFileError: the file ends before; it was longer when its header was read.
    """
    if array.nbytes == 0:
        return
    view = array.reshape(-1).view(np.uint8)
    done = 0
    while done < len(view):
        slab = os.pread(descriptor, min(SLAB, len(view) - done), offset + done)
        if not slab:
            raise CorruptFileError(
                path, "the file became shorter while it was read", offset=offset + done
            )
        view[done : done + len(slab)] = np.frombuffer(slab, dtype=np.uint8)
        done += len(slab)
