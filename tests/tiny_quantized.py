"""Tiny checkpoints that are quantized already, and the values that they stand for.

Codes are drawn at random and packed one by one, by the published formulas written out for a single
value; the model's other tensors stay as they are.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import tiny

Stored = dict[str, tuple[str, tuple[int, ...], bytes]]
"""Tensors as a safetensors file holds them: dtype, shape, bytes."""

WORDS = {"F32": "<f4", "F16": "<f2", "I32": "<i4"}


def e4m3(code: int) -> float:
    """The value of a byte: sign, four bits of exponent (bias 7), three of mantissa."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def e5m2(code: int) -> float:
    """The value of a byte: sign, five bits of exponent (bias 15), two of mantissa."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = code >> 2 & 31, code & 3
    if exponent == 31:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * mantissa * 2.0**-16
    return sign * (1 + mantissa / 4) * 2.0 ** (exponent - 15)


def llama(folder: Path) -> Path:
    """The Llama that is quantized: smaller still, since it is done value by value."""
    return tiny.llama(folder, hidden=32, head_dim=8, feed_forward=48)


def linear(name: str) -> bool:
    """Tell whether such tools quantize a tensor: matrices but for embeddings and head."""
    return name.endswith("_proj.weight")


def write(folder: Path, stored: Stored, scheme: dict[str, Any] | None) -> None:
    """Put tensors in the place of a folder's own, and say in config.json how they are quantized."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, raw) in stored.items():
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    file = folder / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    config = json.loads((folder / "config.json").read_text())
    if scheme is not None:
        config["quantization_config"] = scheme
    (folder / "config.json").write_text(json.dumps(config))


def plain(array: np.ndarray, dtype: str = "F32") -> tuple[str, tuple[int, ...], bytes]:
    if dtype == "BF16":
        return dtype, array.shape, (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    if dtype == "F8_E8M0":
        exponents = np.log2(array) + 127
        return dtype, array.shape, exponents.astype(np.uint8).tobytes()
    return dtype, array.shape, array.astype(WORDS[dtype]).tobytes()


def scale_grid(layout: str, rows: int, columns: int) -> tuple[tuple[int, ...], int, int]:
    """The shape of a scale, and the rows and columns that one of its numbers stands for."""
    if layout == "tensor":
        return (), rows, columns
    if layout == "tensor of one":
        return (1,), rows, columns
    if layout == "channel":
        return (rows, 1), 1, columns
    if layout == "channel vector":
        return (rows,), 1, columns
    height, width = (int(size) for size in layout.split("x"))
    return (-(-rows // height), -(-columns // width)), height, width


def float8(
    folder: Path,
    layout: str,
    *,
    ending: str,
    scheme: dict[str, Any] | None,
    dtype: str = "F8_E4M3",
    scale_dtype: str = "F32",
    extra: str | None = None,
    skip: str | None = None,
) -> tiny.Tensors:
    """Write a Llama whose matrices are 8-bit floats; give the values that it stands for.

    `layout` is "none", "tensor", "channel" or "ROWSxCOLUMNS"; `ending` is that of the scales'
    names, `extra` that of a scale of activations, `skip` a part of names that stay as they are.
    """
    values = [(e4m3 if dtype == "F8_E4M3" else e5m2)(code) for code in range(256)]
    finite = [code for code, value in enumerate(values) if math.isfinite(value)]
    rng = np.random.default_rng(11)
    llama(folder)
    wanted = tiny.read_safetensors(folder)
    stored: Stored = {}
    for name, array in wanted.items():
        if not linear(name) or (skip and skip in name):
            stored[name] = plain(array)
            continue
        rows, columns = array.shape
        codes = rng.choice(finite, (rows, columns)).astype(np.uint8)
        stored[name] = dtype, array.shape, codes.tobytes()
        decoded = np.array(values, np.float32)[codes]
        if layout != "none":
            shape, height, width = scale_grid(layout, rows, columns)
            scale = np.exp2(rng.integers(-9, -3, shape)).astype(np.float32)
            if scale_dtype != "F8_E8M0":
                mantissa = rng.integers(0, 128, shape).astype(np.float32)  # exact in bf16
                scale = scale * (1 + mantissa / 128)
            scale = np.asarray(scale, np.float32)
            stored[name + ending] = plain(scale, scale_dtype)
            grid = scale.reshape(-(-rows // height), -(-columns // width))
            for row in range(rows):
                for column in range(columns):
                    decoded[row, column] *= grid[row // height, column // width]
        wanted[name] = decoded
        if extra:
            stored[name.removesuffix("weight") + extra] = plain(np.array(0.5, np.float32))
    write(folder, stored, scheme)
    return wanted


def pack(fields: list[int], bits: int) -> int:
    """Put fields into a word, the first one in the lowest bits; as a signed number."""
    word = sum(field << bits * at for at, field in enumerate(fields))
    assert 0 <= word < 1 << 32
    return word - (1 << 32) if word >> 31 else word


def packed(
    folder: Path,
    kind: str,
    *,
    bits: int = 4,
    group: int = 16,
    shuffled: bool = False,
    second: bool = False,
    indices: bool = True,
    scale_dtype: str = "F16",
    zero: int | None = None,
    wide: bool = False,
    **scheme: Any,
) -> tiny.Tensors:
    """Write a Llama packed by "gptq" or "awq"; give the values that it stands for.

    `shuffled` gives columns to groups in no order, `second` writes zero points as gptq_v2 does,
    `indices` writes g_idx, `zero` is the zero point of all groups,
    `wide` makes the model as wide as `tiny.llama` is.
    """
    rng = np.random.default_rng(12)
    (tiny.llama if wide else llama)(folder)
    wanted = tiny.read_safetensors(folder)
    stored: Stored = {}
    per_word = 32 // bits
    for name, array in wanted.items():
        if not linear(name):
            stored[name] = plain(array, "F32")
            continue
        rows, columns = array.shape
        groups = 1 if group < 0 else columns // group
        q = rng.integers(0, 1 << bits, (rows, columns))
        # Zero points from 1 on, so that those of the first version are never all ones.
        zeros = rng.integers(1, 1 << bits, (groups, rows))
        if zero is not None:
            zeros[:] = zero
        scales = rng.uniform(0.001, 0.05, (groups, rows)).astype(np.float16).astype(np.float32)
        index = np.arange(columns) // (columns if group < 0 else group)
        if shuffled:
            rng.shuffle(index)
        value = np.empty((rows, columns), np.float32)
        for row in range(rows):
            for column in range(columns):
                g = index[column]
                value[row, column] = np.float32(q[row, column] - zeros[g, row]) * scales[g, row]
        wanted[name] = value
        base = name.removesuffix(".weight")
        stored[base + ".scales"] = plain(scales, scale_dtype)
        if kind == "gptq":
            # words of consecutive columns: (columns / per_word, rows)
            words = [
                [pack(list(q[row, at : at + per_word]), bits) for row in range(rows)]
                for at in range(0, columns, per_word)
            ]
            kept = zeros if second else (zeros - 1) % (1 << bits)
            zero_words = [
                [pack(list(line[at : at + per_word]), bits) for at in range(0, rows, per_word)]
                for line in kept
            ]
            if indices:
                stored[base + ".g_idx"] = plain(index, "I32")
        else:
            # words of eight consecutive rows, which lie in the order 0 2 4 6 1 3 5 7
            order = [0, 2, 4, 6, 1, 3, 5, 7]
            words = [
                [pack([q[at + step, column] for step in order], 4) for at in range(0, rows, 8)]
                for column in range(columns)
            ]
            zero_words = [
                [pack([line[at + step] for step in order], 4) for at in range(0, rows, 8)]
                for line in zeros
            ]
        stored[base + ".qweight"] = plain(np.array(words), "I32")
        stored[base + ".qzeros"] = plain(np.array(zero_words), "I32")
    given = {"quant_method": kind, "bits": bits, "group_size": group, **scheme}
    write(folder, stored, given)
    return wanted
