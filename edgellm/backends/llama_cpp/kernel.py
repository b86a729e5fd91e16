"""How fast llama.cpp multiplies matrices that no cache holds with a vector, as writing does.

Its kernels do not reach what memory gives, because unpacking blocks takes time as well; and this
differs from one processor to another, so that it is measured.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

from edgellm.backends.llama_cpp.library import library, quiet
from edgellm.errors import BackendError

__all__ = ["measure_kernel"]

Q4_0, F32 = 2, 0  # ggml_type
BLOCK, BLOCK_BYTES = 32, 18
COLUMNS = 2048
DURATION = 0.1
# Beside the tensors: the graph, and what the product needs to work.
ROOM = 32 * 2**20
# Short products find a moment in which no other program runs.
MATRICES = 16
# Scales that are ordinary numbers, as 16-bit floats.
FILLING = 0x11


class _InitParams(ctypes.Structure):
    _fields_ = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


def measure_kernel(threads: int, size: int) -> float:
    """Give the bytes of matrices in Q4_0 that are read a second, in the best of many products.

    Args:
        threads: how many compute.
        size: bytes of all matrices together, which are multiplied in turn.

    Raises:
        BackendError: the library cannot be loaded or has not what this needs.
    """
    lib = _functions()
    rows = max(1, size // (MATRICES * COLUMNS // BLOCK * BLOCK_BYTES))
    memory = size + 8 * MATRICES * rows + ROOM
    context = lib.ggml_init(_InitParams(memory, None, False))
    if not context:
        raise BackendError(f"there is no memory for matrices of {size} bytes")
    try:
        vector = lib.ggml_new_tensor_2d(context, F32, COLUMNS, 1)
        ctypes.memset(lib.ggml_get_data(vector), 0, lib.ggml_nbytes(vector))
        graphs, read = [], 0
        for _ in range(MATRICES):
            weight = lib.ggml_new_tensor_2d(context, Q4_0, COLUMNS, rows)
            read = int(lib.ggml_nbytes(weight))
            ctypes.memset(lib.ggml_get_data(weight), FILLING, read)
            graphs.append(lib.ggml_new_graph(context))
            product = lib.ggml_mul_mat(context, weight, vector)
            lib.ggml_build_forward_expand(graphs[-1], product)
        best = 0.0
        end = time.perf_counter() + DURATION
        # Each computation takes a little of the memory, and none is given back before the end.
        while best == 0.0 or (
            time.perf_counter() < end and lib.ggml_used_mem(context) < memory - ROOM // 2
        ):
            for graph in graphs:
                begin = time.perf_counter()
                if lib.ggml_graph_compute_with_ctx(context, graph, threads):
                    raise BackendError("llama.cpp cannot multiply a matrix with a vector")
                best = max(best, read / (time.perf_counter() - begin))
        return best
    finally:
        lib.ggml_free(context)


class _Functions:
    """Functions of ggml's libraries, by their names; each is looked for in both."""

    def __init__(self, libraries: list[ctypes.CDLL]) -> None:
        address, number, wide = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
        declared: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
            ("ggml_init", address, (_InitParams,)),
            ("ggml_free", None, (address,)),
            ("ggml_new_tensor_2d", address, (address, number, wide, wide)),
            ("ggml_used_mem", ctypes.c_size_t, (address,)),
            ("ggml_nbytes", ctypes.c_size_t, (address,)),
            ("ggml_get_data", address, (address,)),
            ("ggml_mul_mat", address, (address, address, address)),
            ("ggml_new_graph", address, (address,)),
            ("ggml_build_forward_expand", None, (address, address)),
            ("ggml_graph_compute_with_ctx", number, (address, address, number)),
        )
        for name, result, arguments in declared:
            found = next((lib for lib in libraries if hasattr(lib, name)), None)
            if found is None:
                raise BackendError(f"this build of llama.cpp has no {name}")
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def _functions() -> _Functions:
    native = library()
    quiet()
    main = Path(native._lib._name)
    beside = main.with_name(main.name.replace("llama", "ggml-cpu"))
    names = [main, beside] if beside.is_file() else [main]
    try:
        return _Functions([ctypes.CDLL(str(name)) for name in names])
    except OSError as error:
        raise BackendError(f"{beside}: cannot be opened: {error}") from error
