"""Our GGUF reader tells the same as the gguf package's about whatever that package writes."""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellm_converters.checkpoints.gguf import GGUFCheckpoint, GGUFHeader, read_header

NUMBERS = {
    gguf.GGUFValueType.UINT8: st.integers(0, 2**8 - 1),
    gguf.GGUFValueType.INT8: st.integers(-(2**7), 2**7 - 1),
    gguf.GGUFValueType.UINT16: st.integers(0, 2**16 - 1),
    gguf.GGUFValueType.INT16: st.integers(-(2**15), 2**15 - 1),
    gguf.GGUFValueType.UINT32: st.integers(0, 2**32 - 1),
    gguf.GGUFValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    gguf.GGUFValueType.UINT64: st.integers(0, 2**64 - 1),
    gguf.GGUFValueType.INT64: st.integers(-(2**63), 2**63 - 1),
    gguf.GGUFValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    gguf.GGUFValueType.FLOAT64: st.floats(allow_nan=False),
    gguf.GGUFValueType.BOOL: st.booleans(),
    gguf.GGUFValueType.STRING: st.text(max_size=200),
}
SCALARS = st.sampled_from(list(NUMBERS)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.none(), NUMBERS[kind])
)
ARRAYS = st.sampled_from(list(NUMBERS)).flatmap(
    lambda kind: st.tuples(
        st.just(gguf.GGUFValueType.ARRAY),
        st.just(kind),
        st.lists(NUMBERS[kind], min_size=1, max_size=20),
    )
)
KEYS = st.text("abc.xyz_سلام", min_size=1, max_size=20)
METADATA = st.dictionaries(KEYS, st.one_of(SCALARS, ARRAYS), max_size=8)
SHAPES = st.lists(st.integers(1, 5), min_size=0, max_size=3).flatmap(
    lambda rows: st.sampled_from([32, 64]).map(lambda columns: (*rows, columns))
)
KINDS = st.sampled_from([Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q5_1])
TENSORS = st.dictionaries(st.text("tensor.0", min_size=1, max_size=63), st.tuples(SHAPES, KINDS))


@given(METADATA, TENSORS, st.sampled_from([8, 32, 64]))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_reader_equals_gguf_reader(
    tmp_path: Path,
    metadata: dict[str, tuple[gguf.GGUFValueType, gguf.GGUFValueType | None, object]],
    tensors: dict[str, tuple[tuple[int, ...], Type]],
    alignment: int,
) -> None:
    path = tmp_path / "file.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    for key, (kind, element, value) in metadata.items():
        writer.add_key_value("x." + key, value, kind, element)
    source = np.random.default_rng(0)
    for name, (shape, kind) in tensors.items():
        values = source.standard_normal(shape).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    header = read_header(path)
    assert header.alignment == alignment
    for key, (kind, element, value) in metadata.items():
        assert header.metadata["x." + key] == value
        assert tuple(header.value_types["x." + key]) == (kind, element)
    assert_same_as_gguf_reader(header, gguf.GGUFReader(path))


def assert_same_as_gguf_reader(header: GGUFHeader, reader: gguf.GGUFReader) -> None:
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert list(fields) == list(header.metadata)
    for key, field in fields.items():
        mine, theirs = header.metadata[key], field.contents()
        if isinstance(theirs, list):
            theirs = [x.item() if isinstance(x, np.generic) else x for x in theirs]
        assert mine == theirs, key
        assert tuple(kind for kind in header.value_types[key] if kind is not None) == tuple(
            field.types[:2]
        )
    assert [tensor.name for tensor in header.tensors] == [tensor.name for tensor in reader.tensors]
    with GGUFCheckpoint(header.path) as checkpoint:
        for theirs in reader.tensors:
            mine = checkpoint.info(theirs.name)
            assert mine.shape == tuple(int(size) for size in theirs.shape[::-1])
            assert (mine.offset, mine.nbytes) == (theirs.data_offset, theirs.n_bytes)
            assert mine.format.ggml_type == theirs.tensor_type
            if math.prod(mine.shape) > 1 << 20:
                continue
            assert checkpoint.raw(theirs.name).tobytes() == theirs.data.tobytes()
            wanted = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
            np.testing.assert_array_equal(
                checkpoint.load(theirs.name), wanted.reshape(mine.shape).astype(np.float32)
            )
