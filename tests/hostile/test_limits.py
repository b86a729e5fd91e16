"""Headers as large and as dense as the reader admits: memory stays below 200 MB, time bounded."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.models.check_vocabulary import MAX_TOKENS
from edgellm_converters.checkpoints import gguf_header
from hostile import ggufbytes as g

LIMIT_BYTES = 200_000_000
CHILD = """
import resource, sys
from pathlib import Path
from edgellm.models.check import check_model_file
from edgellm_converters.errors import ConvertersError
try:
    check_model_file(Path(sys.argv[1]))
except ConvertersError as error:
    sys.stdout.write(type(error).__name__)
else:
    sys.stdout.write("passed")
try:
    # ru_maxrss would count the parent that started this process as well.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
except FileNotFoundError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sys.stdout.write(" %d" % peak)
"""


def tokens_of(length: int) -> g.File:
    """As many different tokens as there may be, all of one length."""
    head = struct.pack("<Q", length)
    value = struct.pack("<IQ", g.STRING, MAX_TOKENS)
    value += b"".join(head + b"%0*x" % (length, index) for index in range(MAX_TOKENS))
    file = g.model(g.bpe_vocabulary()).without("tokenizer.ggml.token_type")
    return file.with_pair(g.Pair("tokenizer.ggml.tokens", g.ARRAY, value))


def most_tokens() -> g.File:
    return tokens_of(5)


def most_and_long_tokens() -> g.File:
    return tokens_of(54)


def most_pairs() -> g.File:
    return g.File([g.pair(f"{index:x}", g.U8, 0) for index in range(gguf_header.MAX_PAIRS)])


def most_tensors() -> g.File:
    count = gguf_header.MAX_TENSORS
    tensors = [g.Tensor(f"{index:x}", (1, 1, 1, 1), g.GGML_F32) for index in range(count)]
    return g.File(g.parameters(), tensors)


def longest_header() -> g.File:
    """Arrays of empty strings until the header is full."""
    count = gguf_header.MAX_ELEMENTS - 1024
    value = struct.pack("<IQ", g.STRING, count) + b"\0" * (8 * count)
    return g.File([g.Pair(name, g.ARRAY, value) for name in "ab"])


def longest_strings() -> g.File:
    word = "🙂" * (1 << 20)
    return g.File([g.pair(str(index), g.STRING, word) for index in range(7)])


@pytest.mark.parametrize(
    "make",
    [most_tokens, most_and_long_tokens, most_pairs, most_tensors, longest_header, longest_strings],
)
def test_largest_header_stays_in_memory(make: object, tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    assert callable(make)
    path.write_bytes(make().build())
    done = subprocess.run(
        [sys.executable, "-c", CHILD, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    verdict, peak = done.stdout.split()
    assert verdict in ("passed", "CorruptFileError")
    assert int(peak) < LIMIT_BYTES


def test_sparse_file_of_a_terabyte(tmp_path: Path) -> None:
    """A header that promises what only the file's size, and nothing in it, could hold."""
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 16))
        try:
            file.truncate(1 << 40)
        except OSError:
            pytest.skip("this file system holds no sparse file of a terabyte")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, path], capture_output=True, text=True, timeout=60, check=False
    )
    verdict, peak = done.stdout.split()
    assert verdict == "CorruptFileError"
    assert int(peak) < LIMIT_BYTES
