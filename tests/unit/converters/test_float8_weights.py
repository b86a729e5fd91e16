"""Scales of 8-bit floats: for a matrix, its rows or its blocks, also of several matrices."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_quantized as quantized
from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint
from edgellm_converters.checkpoints.scaled import Float8Weight
from edgellm_converters.errors import UnsupportedError

QUICK = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def weight(
    folder: Path,
    shape: tuple[int, ...],
    scale: np.ndarray,
    block: tuple[int, int] | None,
    seed: int = 0,
) -> tuple[Float8Weight, np.ndarray]:
    """A weight with a scale, and the values of its codes."""
    codes = np.random.default_rng(seed).integers(0, 0x7E, shape).astype(np.uint8)
    (folder / "config.json").write_text("{}")
    stored = {
        "w": ("F8_E4M3", shape, codes.tobytes()),
        "w_scale": quantized.plain(scale.astype(np.float32)),
    }
    quantized.write(folder, stored, None)
    checkpoint = SafetensorsCheckpoint.open(folder)
    found = Float8Weight(checkpoint, checkpoint.tensors["w"], checkpoint.tensors["w_scale"], block)
    values = np.array([quantized.e4m3(code) for code in range(256)], np.float32)
    return found, values[codes]


@given(st.data())
@QUICK
def test_any_rows_of_blocks(tmp_path: Path, data: st.DataObject) -> None:
    sizes = st.integers(1, 9)
    lead = data.draw(st.sampled_from([(), (1,), (3,)]))
    rows, columns, height, width = (data.draw(sizes) for _ in range(4))
    grid = (-(-rows // height), -(-columns // width))
    scale = np.arange(1, math.prod((*lead, *grid)) + 1, dtype=np.float32).reshape(*lead, *grid)
    found, values = weight(tmp_path, (*lead, rows, columns), scale, (height, width))
    wanted = values.reshape(-1, rows, columns).copy()
    for at, matrix in enumerate(scale.reshape(-1, *grid)):
        for row in range(rows):
            for column in range(columns):
                wanted[at, row, column] *= matrix[row // height, column // width]
    wanted = wanted.reshape(-1, columns)
    start = data.draw(st.integers(0, len(wanted)))
    stop = data.draw(st.integers(start, len(wanted)))
    assert np.array_equal(found.rows(start, stop), wanted[start:stop])


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((6, 4), ()),
        ((6, 4), (1,)),
        ((6, 4), (6,)),
        ((6, 4), (6, 1)),
        ((3, 2, 4), ()),
        ((3, 2, 4), (1,)),
        ((3, 2, 4), (3,)),
        ((3, 2, 4), (3, 1)),
        ((3, 2, 4), (3, 1, 1)),
        ((3, 2, 4), (3, 2)),
        ((3, 2, 4), (3, 2, 1)),
        ((4,), ()),
        ((4,), (1,)),
    ],
)
def test_scales_of_matrices_and_rows(
    shape: tuple[int, ...], scale: tuple[int, ...], tmp_path: Path
) -> None:
    numbers = np.arange(1, math.prod(scale) + 1, dtype=np.float32).reshape(scale)
    found, values = weight(tmp_path, shape, numbers, None)
    spread = numbers if math.prod(scale) > 1 else numbers.reshape(())
    while spread.ndim < len(shape) and spread.ndim:
        spread = spread[..., None]
    wanted = (values * spread).reshape(-1, shape[-1])
    assert np.array_equal(found.rows(0, len(wanted)), wanted)
    assert np.array_equal(found.rows(len(wanted) - 1, len(wanted)), wanted[-1:])


@pytest.mark.parametrize(
    ("shape", "scale", "block"),
    [
        ((6, 4), (4,), None),
        ((6, 4), (1, 4), None),
        ((6, 4), (6, 4), None),
        ((3, 2, 4), (2,), None),
        ((6, 4), (3, 1), (2, 2)),
        ((6, 4), (6,), (2, 2)),
        ((3, 6, 4), (3, 2), (2, 2)),
    ],
)
def test_scales_that_do_not_fit(
    shape: tuple[int, ...],
    scale: tuple[int, ...],
    block: tuple[int, int] | None,
    tmp_path: Path,
) -> None:
    with pytest.raises(UnsupportedError, match="does not fit"):
        weight(tmp_path, shape, np.ones(scale), block)
