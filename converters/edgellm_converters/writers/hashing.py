"""A file that is hashed while it is written, on a thread of its own: the disk is read only once."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = ["HashingFile"]

Buffer = bytes | bytearray | memoryview


class HashingFile:
    """Write to a binary file and hash what is written (sha256).

    Arrays given to `write_array` must not be changed afterwards: they may be hashed later. At most
    one of them waits at a time.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._waiting: Future[None] | None = None
        self.size = 0

    def write(self, data: Buffer) -> int:
        """Write bytes; part of the interface that gguf's writer uses."""
        kept = bytes(data)
        self._put(kept, len(kept))
        return len(kept)

    def write_array(self, array: npt.NDArray[Any]) -> None:
        """Write the bytes of an array; it must not be changed afterwards."""
        view = np.ascontiguousarray(array).data.cast("B")
        self._put(view, len(view))

    def _put(self, data: bytes | memoryview, size: int) -> None:
        if not size:
            return
        if self._waiting is not None:
            self._waiting.result()
        self._waiting = self._pool.submit(self._digest.update, data)
        self._file.write(data)
        self.size += size

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file and end the thread; a second call does nothing."""
        self._pool.shutdown(wait=True, cancel_futures=False)
        self._file.close()

    def sha256(self) -> str:
        """Give the digest of what was written so far, in hexadecimal."""
        if self._waiting is not None:
            self._waiting.result()
        return self._digest.hexdigest()

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
