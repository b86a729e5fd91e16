"""Finding and opening libggml, and declaring the functions used here, each once.

The library is the one inside the llama-cpp-python package; that package is located but not
imported. Python's ctypes gives up the interpreter lock for the length of every call.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from edgellm_quant.errors import LibraryError
from edgellm_quant.formats import BlockFormat

__all__ = ["Decode", "check_layout", "decoder", "library", "library_version"]

Decode = Callable[[int, int, int], None]
"""Address of blocks, address of float32 values, number of values."""

_REINSTALL = "reinstall llama-cpp-python"


def _candidates() -> list[Path]:
    """List where the library can be: in LLAMA_CPP_LIB_PATH if set, else in the package."""
    folders = []
    given = os.environ.get("LLAMA_CPP_LIB_PATH")
    if given:
        folders.append(Path(given))
    else:
        spec = importlib.util.find_spec("llama_cpp")
        roots = spec.submodule_search_locations if spec else None
        if not roots:
            raise LibraryError(
                "the package llama-cpp-python is not installed", hint="pip install llama-cpp-python"
            )
        folders += [Path(root) / "lib" for root in roots]
    names = {
        "darwin": ("libggml-base.dylib", "libggml-base.so"),
        "win32": ("ggml-base.dll", "libggml-base.dll"),
    }.get(sys.platform, ("libggml-base.so",))
    return [folder / name for folder in folders for name in names]


@functools.cache
def library() -> ctypes.CDLL:
    """Open libggml-base and declare its functions.

    Raises:
        LibraryError: it is not there, cannot be opened, or lacks a function.
    """
    candidates = _candidates()
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise LibraryError(f"{candidates[0]}: no such ggml library", hint=_REINSTALL)
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryError(f"{path}: cannot be opened: {error}", hint=_REINSTALL) from error
    number, size, address = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
    wide = ctypes.c_int64
    try:
        _declare(lib, "ggml_version", ctypes.c_char_p)
        _declare(lib, "ggml_type_name", ctypes.c_char_p, number)
        _declare(lib, "ggml_blck_size", wide, number)
        _declare(lib, "ggml_type_size", size, number)
        _declare(lib, "ggml_quantize_requires_imatrix", ctypes.c_bool, number)
        # type, source, target, first value, rows, values in a row, importance
        _declare(
            lib, "ggml_quantize_chunk", size, number, address, address, wide, wide, wide, address
        )
        _declare(lib, "ggml_validate_row_data", ctypes.c_bool, number, address, size)
    except AttributeError as error:
        raise LibraryError(f"{path}: {error}", hint=_REINSTALL) from error
    return lib


def _declare(lib: ctypes.CDLL, name: str, result: type | None, *arguments: type) -> None:
    function = getattr(lib, name)
    function.restype = result
    function.argtypes = arguments


def library_version() -> str:
    """Give ggml's version, such as "0.25.3"."""
    version: bytes = library().ggml_version()
    return version.decode()


@functools.cache
def check_layout(fmt: BlockFormat) -> None:
    """Make sure that this ggml knows the format and lays it out as the table says.

    Raises:
        LibraryError: it does not; nothing may be encoded or decoded then.
    """
    lib = library()
    name = lib.ggml_type_name(fmt.ggml_type)
    found = (name or b"").decode().upper()
    if found != fmt.name:
        raise LibraryError(
            f"ggml {library_version()} calls type {fmt.ggml_type} {found or 'nothing'!r}, "
            f"not {fmt.name!r}"
        )
    layout = (lib.ggml_blck_size(fmt.ggml_type), lib.ggml_type_size(fmt.ggml_type))
    if layout != (fmt.block_size, fmt.type_size):
        raise LibraryError(
            f"ggml {library_version()} stores {fmt.name} as {layout[0]} values in {layout[1]} "
            f"bytes, not {fmt.block_size} in {fmt.type_size}"
        )


@functools.cache
def decoder(fmt: BlockFormat) -> Decode | None:
    """Give ggml's function that decodes the format, or None if it has none."""
    lib = library()
    check_layout(fmt)
    own_names = {"F16": "ggml_fp16_to_fp32_row", "BF16": "ggml_bf16_to_fp32_row"}
    ggml_name = lib.ggml_type_name(fmt.ggml_type).decode()
    name = own_names.get(fmt.name, f"dequantize_row_{ggml_name}")
    try:
        _declare(lib, name, None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    except AttributeError:
        return None
    function: Decode = getattr(lib, name)
    return function
