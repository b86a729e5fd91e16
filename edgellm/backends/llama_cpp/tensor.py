"""ggml's tensors as llama.cpp's graph holds them: read in place, through ctypes.

llama-cpp-python declares no `struct ggml_tensor`. The layout here is that of ggml/include/ggml.h;
`check_layout` compares it with tensors that the library itself makes before one is believed.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import BackendError
from edgellm_quant.errors import LibraryError
from edgellm_quant.library import library, library_version

__all__ = ["Tensor", "check_layout"]

DIMENSIONS = 4
SOURCES = 10
OBJECT_BYTES = 32  # struct ggml_object: two sizes, a pointer, an int, four bytes of padding
DTYPES = {b"f32": np.float32, b"f16": np.float16, b"i32": np.int32}


class _Struct(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * DIMENSIONS),
        ("nb", ctypes.c_size_t * DIMENSIONS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


class _InitParams(ctypes.Structure):
    _fields_ = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


@functools.cache
def _functions() -> ctypes.CDLL:
    """Declare what is used of libggml-base, which llama.cpp has loaded already."""
    lib = library()
    address, size, whole = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
    declared: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("ggml_op_name", ctypes.c_char_p, (ctypes.c_int,)),
        ("ggml_nbytes", size, (address,)),
        ("ggml_backend_buffer_is_host", ctypes.c_bool, (address,)),
        ("ggml_backend_tensor_get", None, (address, address, size, size)),
        ("ggml_backend_tensor_set", None, (address, address, size, size)),
        ("ggml_tensor_overhead", size, ()),
        ("ggml_init", address, (_InitParams,)),
        ("ggml_free", None, (address,)),
        ("ggml_new_tensor_2d", address, (address, ctypes.c_int, whole, whole)),
        ("ggml_set_name", address, (address, ctypes.c_char_p)),
        ("ggml_view_2d", address, (address, address, whole, whole, size, size)),
        ("ggml_mul_mat", address, (address, address, address)),
    )
    for name, result, arguments in declared:
        try:
            function = getattr(lib, name)
        except AttributeError as error:
            raise LibraryError(f"ggml {library_version()} has no {name}") from error
        function.restype, function.argtypes = result, arguments
    return lib


@functools.cache
def _op_name(number: int) -> str:
    name: bytes = _functions().ggml_op_name(number)
    return name.decode()


class Tensor:
    """One tensor of a graph that is being evaluated; nothing of it may outlive the evaluation."""

    __slots__ = ("_struct", "address")

    def __init__(self, address: int) -> None:
        self.address = address
        self._struct = _Struct.from_address(address)

    @property
    def op(self) -> str:
        """What computes it, by ggml's name: MUL_MAT, SOFT_MAX ...; NONE for a weight or input."""
        return _op_name(self._struct.op)

    @property
    def name(self) -> str:
        """Its name, without the device's that a copy on another device has around it."""
        name = bytes(self._struct.name).decode("utf-8", "replace")
        return name.split("#")[1] if "#" in name else name

    @property
    def shape(self) -> tuple[int, ...]:
        """Its four dimensions, the fastest last, as numpy has them."""
        return tuple(self._struct.ne[::-1])

    @property
    def view_of(self) -> int:
        """The address of the tensor that it is a part of; 0 if it is none."""
        return self._struct.view_src or 0

    @property
    def view_offset(self) -> int:
        """Where it begins in that tensor, in bytes."""
        return int(self._struct.view_offs)

    def source(self, index: int) -> Tensor | None:
        """Give an operand."""
        address = self._struct.src[index]
        return Tensor(address) if address else None

    def read(self) -> NDArray[Any]:
        """Give its values in four dimensions, in place where the host can read them.

        Raises:
            BackendError: the values are of a type that is not read here, or nowhere.
        """
        lib, struct = _functions(), self._struct
        type_name: bytes = lib.ggml_type_name(struct.type)
        dtype = DTYPES.get(type_name)
        if dtype is None:
            raise BackendError(f"the values of {self.name!r} are {type_name.decode()}, not floats")
        size = lib.ggml_nbytes(self.address)
        buffer = struct.buffer
        if not buffer and struct.view_src:
            buffer = _Struct.from_address(struct.view_src).buffer
        if not (buffer and struct.data):
            raise BackendError(f"the values of {self.name!r} lie nowhere")
        if lib.ggml_backend_buffer_is_host(buffer):
            memory = (ctypes.c_char * size).from_address(struct.data)
        else:
            memory = (ctypes.c_char * size)()
            lib.ggml_backend_tensor_get(self.address, memory, 0, size)
        return np.ndarray(self.shape, dtype, memory, strides=tuple(struct.nb[::-1]))

    def write(self, blocks: NDArray[np.uint8]) -> None:
        """Put bytes in the place of its own.

        Raises:
            BackendError: it has another number of them, or lies nowhere.
        """
        lib, struct = _functions(), self._struct
        size = lib.ggml_nbytes(self.address)
        if blocks.nbytes != size or not (struct.buffer and struct.data):
            raise BackendError(f"{blocks.nbytes} bytes for {self.name!r}, which has {size}")
        whole = np.ascontiguousarray(blocks)
        lib.ggml_backend_tensor_set(self.address, whole.ctypes.data, 0, size)


@functools.cache
def check_layout() -> None:
    """Make three tensors in the library and find every field where the struct has it.

    Raises:
        BackendError: this ggml lays its tensors out differently; none may be read then.
    """
    lib = _functions()
    context = lib.ggml_init(_InitParams(1 << 16, None, True))
    try:
        weight = lib.ggml_new_tensor_2d(context, 1, 6, 5)  # float16
        inputs = lib.ggml_new_tensor_2d(context, 0, 6, 3)  # float32
        lib.ggml_set_name(weight, b"x" * 63)
        view = lib.ggml_view_2d(context, inputs, 4, 2, 24, 8)
        product = lib.ggml_mul_mat(context, weight, inputs)
        found = [_Struct.from_address(each) for each in (weight, inputs, view, product)]
        w, x, v, p = found
        holds = (
            ctypes.sizeof(_Struct) == lib.ggml_tensor_overhead() - OBJECT_BYTES
            and [each.type for each in found] == [1, 0, 0, 0]
            and [tuple(each.ne) for each in found]
            == [(6, 5, 1, 1), (6, 3, 1, 1), (4, 2, 1, 1), (5, 3, 1, 1)]
            and tuple(w.nb) == (2, 12, 60, 60)
            and tuple(v.nb)[:2] == (4, 24)
            and w.name == b"x" * 63
            and (v.view_src, v.view_offs, w.view_src) == (inputs, 8, None)
            and tuple(p.src) == (weight, inputs, *[None] * (SOURCES - 2))
            and not any(each.data or each.buffer or each.extra for each in (w, x, p))
            # ggml has more operations than 64, and reads beyond its table for a number beyond them.
            and (w.op, 0 < p.op < 64) == (0, True)
            and (_op_name(w.op), _op_name(p.op)) == ("NONE", "MUL_MAT")
        )
    finally:
        lib.ggml_free(context)
    if not holds:
        raise BackendError(
            f"ggml {library_version()} lays out its tensors in a way that is not known here",
            hint="statistics need the version of llama-cpp-python that edgellm asks for",
        )
