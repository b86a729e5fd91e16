"""States of evaluated prompts on disk, so that a prompt is evaluated once.

An entry is two files: NAME.state, which the backend wrote, and NAME.head, which says of which
tokens it is the state. Names are drawn by chance and never used again, so that no process can
write over what another one reads.

Native code reads a state without doubting it. Therefore nothing reaches it whose sha256 is not the
one in the head, and the head ends with a sha256 of itself: an entry with a changed byte is removed.
That guards against damage, not against somebody who may write in this folder: as the programs
themselves, it belongs to the person alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import EdgellmError
from edgellm.generate.held import TEMPORARIES, held_temporary, remove_abandoned
from edgellm.settings import cache_dir

__all__ = ["Entry", "PromptCache", "log", "prompts_dir"]

VERSION = 1
SHARE = 4  # no state may take more than this part of the whole
SPARE = 2**29  # bytes that are left free on the disk
MAX_LINE = 512  # bytes of a head but its tokens
MAX_TOKENS = 2**24
DIGEST = 32  # bytes of a sha256

log = logging.getLogger("edgellm.promptcache")


def prompts_dir() -> Path:
    """Give the folder of states."""
    return cache_dir() / "prompts"


@dataclass(frozen=True, slots=True)
class Entry:
    """A state on disk.

    Attributes:
        head: the file that says so; its time is that of the last use.
        tokens: the tokens whose state it is, 32 bits each in this machine's order.
        size: bytes of the state.
        sha256: of the state.
    """

    head: Path
    tokens: bytes
    size: int
    sha256: str

    @property
    def count(self) -> int:
        """How many tokens."""
        return len(self.tokens) // 4

    def token_list(self) -> list[int]:
        """Give them as numbers."""
        return array("i", self.tokens).tolist()

    @property
    def state(self) -> Path:
        """The file that the backend wrote."""
        return self.head.with_suffix(".state")


class PromptCache:
    """A folder of states, bounded in bytes; whatever goes wrong in it is a miss, never an error.

    What it does is told to the logger `edgellm.promptcache`.
    """

    def __init__(self, folder: Path, limit: int, *, worth: int) -> None:
        """Take a folder, which need not be there yet.

        Args:
            folder: where the entries lie.
            limit: the most bytes that they take together.
            worth: an entry is removed for one that lacks fewer of its tokens than this.
        """
        self._folder = folder
        self._limit = limit
        self._worth = worth

    def find(self, fingerprint: str, tokens: Sequence[int]) -> tuple[Entry, int] | None:
        """Give the entry with the longest common beginning, and how many tokens that has."""
        wanted = array("i", tokens).tobytes()
        best: tuple[Entry, int] | None = None
        for entry in self._entries(fingerprint):
            common = _common(entry.tokens, wanted)
            if best is None or common > best[1]:
                best = entry, common
        return best

    def read(self, entry: Entry, load: Callable[[Path], None]) -> bool:
        """Give an entry's state to `load`, if it is whole; False where it could not be read."""
        try:
            with entry.state.open("rb") as file:
                whole = (
                    os.fstat(file.fileno()).st_size == entry.size
                    and hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
                )
            if not whole:
                raise EdgellmError("it is not what was written")
            load(entry.state)
            os.utime(entry.head)
        except (OSError, EdgellmError) as error:
            log.debug("%s is removed: %s", entry.head.stem, error)
            self.remove(entry)
            return False
        return True

    def add(
        self, fingerprint: str, tokens: Sequence[int], size: int, save: Callable[[Path], None]
    ) -> bool:
        """Write the state of tokens with `save`; False where that is not possible.

        Older entries make room, and those go of which this one holds nearly all.

        Args:
            fingerprint: of all that the state depends on but the tokens.
            tokens: whose state it is.
            size: how many bytes it will have, nearly.
            save: writes it to a file that is there already.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)  # a conversation is private
            self._sweep()
            if size > self._limit // SHARE:
                raise EdgellmError(f"{size} bytes are too many for a cache of {self._limit}")
            self._make_room(size + 4 * len(tokens) + MAX_LINE)
            if shutil.disk_usage(self._folder).free < size + SPARE:
                raise EdgellmError("the disk is nearly full")
            entry = self._write(fingerprint, array("i", tokens).tobytes(), save)
        except (OSError, EdgellmError) as error:
            log.debug("a state is not kept: %s", error)
            return False
        log.debug("%s is kept: %d tokens, %d bytes", entry.head.stem, len(tokens), entry.size)
        for other in list(self._entries(fingerprint)):
            missed = other.count - _common(other.tokens, entry.tokens)
            if other.head != entry.head and missed < self._worth:
                self.remove(other)
        return True

    def remove(self, entry: Entry) -> None:
        """Remove an entry; the head first, since a state without one is nothing."""
        _unlink(entry.head)
        _unlink(entry.state)

    def _entries(self, fingerprint: str) -> Iterator[Entry]:
        for head in sorted(self._folder.glob(f"{fingerprint[:16]}-*.head")):
            try:
                entry = _read_head(head, fingerprint)
            except FileNotFoundError:  # another process removed it
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.debug("%s is removed: %s", head.stem, error)
                _unlink(head)
                _unlink(head.with_suffix(".state"))
                continue
            if entry is not None:
                yield entry

    def _write(self, fingerprint: str, tokens: bytes, save: Callable[[Path], None]) -> Entry:
        head = self._folder / f"{fingerprint[:16]}-{secrets.token_hex(8)}.head"
        state = head.with_suffix(".state")
        with held_temporary(state) as temporary:
            save(temporary)
            with temporary.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            if size > self._limit // SHARE:
                raise EdgellmError(f"{size} bytes are too many for a cache of {self._limit}")
            with held_temporary(head) as beside:
                body = {
                    "version": VERSION,
                    "fingerprint": fingerprint,
                    "tokens": len(tokens) // 4,
                    "bytes": size,
                    "sha256": sha256,
                }
                raw = json.dumps(body).encode() + b"\n" + tokens
                with beside.open("wb") as file:
                    file.write(raw + hashlib.sha256(raw).digest())
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(state)
                beside.replace(head)
        return Entry(head, tokens, size, sha256)

    def _sweep(self) -> None:
        """Remove what killed processes left: files of no whole entry that nobody holds."""
        remove_abandoned(self._folder.glob(TEMPORARIES))
        # Whoever wrote a state without a head may have written the head while this was asked.
        remove_abandoned(
            self._folder.glob("*.state"), lambda state: not state.with_suffix(".head").exists()
        )

    def _make_room(self, size: int) -> None:
        """Remove what was not used for longest, until so many bytes more fit."""
        found = []
        for head in self._folder.glob("*.head"):
            with contextlib.suppress(OSError):
                state = head.with_suffix(".state")
                both = head.stat().st_size + (state.stat().st_size if state.exists() else 0)
                found.append((head.stat().st_mtime_ns, both, head))
        total = sum(both for _, both, _ in found) + size
        for _, both, head in sorted(found):
            if total <= self._limit:
                break
            log.debug("%s makes room", head.stem)
            _unlink(head)
            _unlink(head.with_suffix(".state"))
            total -= both


def _read_head(head: Path, fingerprint: str) -> Entry | None:
    """Read a head; None if it is of something else.

    Raises:
        OSError, ValueError, KeyError, TypeError: it is none.
    """
    with head.open("rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_LINE + 4 * MAX_TOKENS + DIGEST:
            raise ValueError("its head is too large")
        raw = file.read()
    content = raw[:-DIGEST]
    if hashlib.sha256(content).digest() != raw[-DIGEST:]:
        raise ValueError("its head is not what was written")
    line, _, tokens = content.partition(b"\n")
    body = json.loads(line)
    if body["version"] != VERSION or len(tokens) != 4 * body["tokens"]:
        raise ValueError("its head is of another version")
    if body["fingerprint"] != fingerprint:
        return None
    return Entry(head, tokens, body["bytes"], body["sha256"])


def _common(one: bytes, other: bytes) -> int:
    """Count the tokens that two begin with alike."""
    low, high = 0, min(len(one), len(other)) // 4
    while low < high:  # of comparisons of memory, which are faster than a loop over tokens
        middle = (low + high + 1) // 2
        if one[4 * low : 4 * middle] == other[4 * low : 4 * middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
