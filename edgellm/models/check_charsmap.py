"""SentencePiece's table of replacements in a GGUF file: no text may lead out of it.

llama.cpp walks it for each character of a text and throws where it runs out, which no caller across
a C interface can catch: it would end the process.
"""

from __future__ import annotations

import array
import sys
from typing import NoReturn

from edgellm_converters.checkpoints.gguf_header import GGUFHeader
from edgellm_converters.errors import CorruptFileError

__all__ = ["check_charsmap"]

KEY = "tokenizer.ggml.precompiled_charsmap"
MAX_BYTES = 1 << 22  # the largest in use, of NFKC with case folding, has 0.3 MB
LEAF, VALUE = 1 << 8, 1 << 31


def check_charsmap(header: GGUFHeader) -> None:
    """Check every step that a walk can take, and every replacement's end.

    The table is the size of a double array in bytes, the array, and replacements that each end
    with NUL. A node of the array is 32 bits: bits 10 to 30 the base, shifted by another 8 where bit
    9 is set; bit 8 tells that a replacement belongs to it; bits 0 to 7 and 31 its label. From node
    n with base b, a byte c leads to n ^ b ^ c, and the replacement's place stands in n ^ b
    (S. Kanda, 2018; `llm_tokenizer_ugm_session` in llama-vocab.cpp).

    Raises:
        CorruptFileError: the table is cut short, or leads out of itself.
    """
    if KEY not in header.metadata:
        return
    data = header.metadata.raw(KEY)
    if not 4 < len(data) <= MAX_BYTES:
        _fail(header, f"{KEY} has {len(data)} bytes, not from 5 to {MAX_BYTES}")
    size = int.from_bytes(data[:4], "little")
    if size % 4 or size + 4 >= len(data):
        _fail(header, f"{KEY} has an array of {size} bytes in {len(data)} bytes")
    if data[-1]:
        _fail(header, f"{KEY} does not end with NUL")
    if not size:
        return
    nodes = array.array("I", data[4 : 4 + size])
    if sys.byteorder == "big":
        nodes.byteswap()
    _check_nodes(header, nodes, len(data) - 4 - size)


def _check_nodes(header: GGUFHeader, nodes: array.array[int], replacements: int) -> None:
    count = len(nodes)
    for index, node in enumerate(nodes):
        if node >= VALUE:
            continue  # the place of a replacement, which no byte leads to
        start = index ^ (node >> 10 << ((node & 1 << 9) >> 6))
        # Every byte but NUL is tried from here: the block of 256 around it must be inside.
        if start | 255 >= count:
            _fail(header, f"{KEY} leads from node {index} out of its {count} nodes")
        if node & LEAF and nodes[start] & (VALUE - 1) >= replacements:
            _fail(header, f"{KEY} has a replacement at node {index} beyond its end")


def _fail(header: GGUFHeader, reason: str) -> NoReturn:
    raise CorruptFileError(header.path, reason)
