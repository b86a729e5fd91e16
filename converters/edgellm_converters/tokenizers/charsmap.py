"""SentencePiece's table of replacements (`precompiled_charsmap`): that no text leads out of it.

llama.cpp walks it for each character of a text and throws where it runs out, which no caller across
a C interface can catch: it would end the process.
"""

from __future__ import annotations

import array
import sys

__all__ = ["MAX_BYTES", "fault_of"]

MAX_BYTES = 1 << 22  # the largest in use, of NFKC with case folding, has 0.3 MB
LEAF, VALUE = 1 << 8, 1 << 31


def fault_of(table: bytes) -> str | None:
    """Say what is wrong with a table, None if every step of a walk and every replacement is inside.

    The table is the size of a double array in bytes, the array, and replacements that each end
    with NUL. A node of the array is 32 bits: bits 10 to 30 the base, shifted by another 8 where bit
    9 is set; bit 8 tells that a replacement belongs to it; bits 0 to 7 and 31 its label. From node
    n with base b, a byte c leads to n ^ b ^ c, and the replacement's place stands in n ^ b
    (S. Kanda, 2018; `llm_tokenizer_ugm_session` in llama-vocab.cpp).
    """
    if not 4 < len(table) <= MAX_BYTES:
        return f"has {len(table)} bytes, not from 5 to {MAX_BYTES}"
    size = int.from_bytes(table[:4], "little")
    if size % 4 or size + 4 >= len(table):
        return f"has an array of {size} bytes in {len(table)} bytes"
    if table[-1]:
        return "does not end with NUL"
    nodes = array.array("I", table[4 : 4 + size])
    if sys.byteorder == "big":
        nodes.byteswap()
    count, replacements = len(nodes), len(table) - 4 - size
    for index, node in enumerate(nodes):
        if node >= VALUE:
            continue  # the place of a replacement, which no byte leads to
        start = index ^ (node >> 10 << ((node & 1 << 9) >> 6))
        # Every byte but NUL is tried from here: the block of 256 around it must be inside.
        if start | 255 >= count:
            return f"leads from node {index} out of its {count} nodes"
        if node & LEAF and nodes[start] & (VALUE - 1) >= replacements:
            return f"has a replacement at node {index} beyond its end"
    return None
