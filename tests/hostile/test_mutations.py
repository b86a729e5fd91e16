"""Files with bytes changed at random: an error of ours, or a header that holds together."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellm.models.check import check_model_file
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint, read_header
from edgellm_converters.errors import ConvertersError
from hostile import ggufbytes as g

SMALL = g.small().build()
SMALL_HEADER = len(g.small().header())
MODEL = g.model().build()
MODEL_HEADER = len(g.model().header())

QUICK = settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Single bytes, and the numbers at the edges of their types.
VALUES = st.one_of(
    st.binary(min_size=1, max_size=1),
    st.sampled_from(
        [0, 1, 2, 0x7F, 0xFF, 1 << 31, (1 << 32) - 1, 1 << 42, 1 << 63, (1 << 64) - 1]
    ).map(lambda number: number.to_bytes(8, "little")),
)


def changed(whole: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    file = bytearray(whole)
    for position, value in changes:
        file[position : position + len(value)] = value
    return bytes(file)


def bounded(check: Callable[[Path], object], path: Path) -> bool:
    """Run a check; True if it passes, False if it raises an error of ours within its time."""
    started = time.process_time()
    try:
        check(path)
    except ConvertersError:
        return False
    finally:
        assert time.process_time() - started < 2
    return True


@given(st.lists(st.tuples(st.integers(0, SMALL_HEADER - 1), VALUES), min_size=1, max_size=4))
@QUICK
def test_mutated_header(tmp_path: Path, changes: list[tuple[int, bytes]]) -> None:
    path = tmp_path / "mutated.gguf"
    path.write_bytes(changed(SMALL, changes))
    if not bounded(read_header, path):
        return
    header = read_header(path)
    assert all(isinstance(key, str) and key for key in header.metadata)
    assert len(dict(header.metadata)) == len(header.value_types)
    end = header.data_offset
    for tensor in header.tensors:
        assert tensor.offset % header.alignment == header.data_offset % header.alignment
        assert end <= tensor.offset
        end = tensor.offset + tensor.nbytes
        assert end <= header.file_size
        assert tensor.nbytes == tensor.rows * tensor.format.row_bytes(tensor.columns)
    if "split.count" not in header.metadata:
        with GGUFCheckpoint(path) as checkpoint:
            assert all(checkpoint.raw(name).size for name in checkpoint.names)


@given(st.lists(st.tuples(st.integers(0, MODEL_HEADER - 1), VALUES), min_size=1, max_size=3))
@QUICK
def test_mutated_model(tmp_path: Path, changes: list[tuple[int, bytes]]) -> None:
    path = tmp_path / "mutated.gguf"
    path.write_bytes(changed(MODEL, changes))
    bounded(check_model_file, path)


@given(st.binary(max_size=300))
@QUICK
def test_noise_behind_the_magic(tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + noise)
    bounded(check_model_file, path)


@pytest.mark.parametrize("whole", [SMALL, MODEL], ids=["small", "model"])
def test_unmutated_files_pass(whole: bytes, tmp_path: Path) -> None:
    """The mutations above start from something that passes; else they would prove nothing."""
    path = tmp_path / "good.gguf"
    path.write_bytes(whole)
    assert bounded(read_header, path)
    assert bounded(check_model_file, path) == (whole is MODEL)
