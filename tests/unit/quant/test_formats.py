"""The table of block formats, against ggml and gguf-py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgellm_quant.errors import ShapeError, UnknownTypeError
from edgellm_quant.formats import BY_TYPE, FORMATS, get_format
from edgellm_quant.library import library, library_version


def test_names_and_numbers_are_unique():
    assert len(FORMATS) == len(BY_TYPE) == 35
    assert all(name == fmt.name == name.upper() for name, fmt in FORMATS.items())
    assert all(number == fmt.ggml_type for number, fmt in BY_TYPE.items())


def test_every_type_of_ggml_is_in_the_table():
    # ggml's table ends with Q2_0 (42); removed types have blocks of no values.
    lib = library()
    for number in range(43):
        size = lib.ggml_blck_size(number)
        if size == 0:
            assert number not in BY_TYPE
            continue
        fmt = BY_TYPE[number]
        assert lib.ggml_type_name(number).decode().upper() == fmt.name
        assert (size, lib.ggml_type_size(number)) == (fmt.block_size, fmt.type_size)
    assert max(BY_TYPE) == 42


def test_gguf_py_says_the_same():
    from gguf import GGML_QUANT_SIZES

    for kind, sizes in GGML_QUANT_SIZES.items():
        fmt = FORMATS[kind.name]
        if kind.name == "Q8_1":  # gguf-py still has its two scales as float32
            continue
        assert (fmt.ggml_type, fmt.block_size, fmt.type_size) == (int(kind), *sizes)


def test_bits_per_weight_and_row_bytes():
    fmt = get_format("q4_k")
    assert fmt is FORMATS["Q4_K"]
    assert fmt.bits_per_weight == 4.5
    assert fmt.row_bytes(768) == 3 * 144
    assert fmt.is_quantized
    assert not FORMATS["BF16"].is_quantized
    assert FORMATS["BF16"].row_bytes(3) == 6


@pytest.mark.parametrize("columns", [0, -256, 255, 257, 576])
def test_rows_that_are_no_whole_blocks_are_refused(columns):
    assert not FORMATS["Q6_K"].holds(columns)
    with pytest.raises(ShapeError, match=f"{columns} values .* 256 values"):
        FORMATS["Q6_K"].row_bytes(columns)


def test_an_unknown_name_gets_a_near_one():
    with pytest.raises(UnknownTypeError, match="'Q4K'") as caught:
        get_format("Q4K")
    assert caught.value.hint == "did you mean Q4_K?"
    with pytest.raises(UnknownTypeError) as caught:
        get_format("zzz")
    assert "Q8_0" in caught.value.hint


def test_the_table_is_imported_without_numpy():
    code = "import sys, edgellm_quant.formats; print('numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_library_is_found_without_importing_llama_cpp():
    code = (
        "import sys; from edgellm_quant.ggml import library_version; "
        "print(library_version(), 'llama_cpp' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [library_version(), "False"]
