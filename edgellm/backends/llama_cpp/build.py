"""How the library was built, and which devices it can compute on."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.backends.base import Accelerator
from edgellm.backends.llama_cpp.library import library, quiet

__all__ = ["Build", "accelerators", "describe_build"]

DISTRIBUTION = "llama-cpp-python"
LIMIT = 64 * 2**20  # bytes of the shared library that are searched
# enum ggml_backend_dev_type of ggml-backend.h, but for the processor itself (0)
KINDS = {1: "gpu", 2: "igpu", 3: "accel"}
# Devices that share main memory, although they count as graphics processors.
UNIFIED = ("MTL", "Metal")


@dataclass(frozen=True, slots=True)
class Build:
    """A build of llama.cpp.

    Attributes:
        package: the version of llama-cpp-python.
        llama_cpp: the version of llama.cpp itself; None if it gives none.
        features: instruction sets and libraries that it makes use of, as it writes them.
        gpu_offload: whether it can put layers on an accelerator.
        compiler: what compiled its kernels; None where the file does not tell.
    """

    package: str | None
    llama_cpp: str | None
    features: tuple[str, ...]
    gpu_offload: bool
    compiler: str | None


def describe_build() -> Build:
    """Ask the library.

    Raises:
        BackendError: it cannot be loaded.
    """
    native = library()
    quiet()
    line: bytes = native.llama_print_system_info() or b""
    features = re.findall(r"(\w+) = [1-9]", line.decode("utf-8", "replace"))
    return Build(
        package=_package(),
        llama_cpp=_version(native),
        features=tuple(features),
        gpu_offload=bool(native.llama_supports_gpu_offload()),
        compiler=_compiler(Path(native._lib._name).parent),
    )


def accelerators() -> tuple[Accelerator, ...]:
    """List the devices beside the processor, with their memory.

    Raises:
        BackendError: the library cannot be loaded.
    """
    lib = _devices()
    found = []
    for index in range(lib.ggml_backend_dev_count() if lib is not None else 0):
        device = lib.ggml_backend_dev_get(index)
        kind = KINDS.get(lib.ggml_backend_dev_type(device))
        if kind is None:
            continue
        free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
        lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name = _text(lib.ggml_backend_dev_name(device))
        found.append(
            Accelerator(
                name=name,
                description=_text(lib.ggml_backend_dev_description(device)),
                kind=kind,
                memory_free=free.value,
                memory_total=total.value,
                unified=kind != "gpu" or name.startswith(UNIFIED),
            )
        )
    return tuple(found)


@functools.cache
def _devices() -> Any:
    """Declare ggml's functions on devices; None where the library has none of that name.

    They are found through libllama, which depends on the library that has them.
    """
    native = library()
    quiet()
    lib = ctypes.CDLL(native._lib._name)
    pointer, count = ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)
    declared: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("ggml_backend_dev_count", ctypes.c_size_t, ()),
        ("ggml_backend_dev_get", pointer, (ctypes.c_size_t,)),
        ("ggml_backend_dev_name", ctypes.c_char_p, (pointer,)),
        ("ggml_backend_dev_description", ctypes.c_char_p, (pointer,)),
        ("ggml_backend_dev_type", ctypes.c_int, (pointer,)),
        ("ggml_backend_dev_memory", None, (pointer, count, count)),
    )
    try:
        for name, result, arguments in declared:
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError:
        return None
    return lib


def _version(native: Any) -> str | None:
    try:
        return _text(native.llama_version())
    except AttributeError:
        return None


def _package() -> str | None:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiler(folder: Path) -> str | None:
    """Find what a compiler writes into the files that it makes."""
    for name in ("libggml-cpu.so", "libggml-cpu.dylib"):
        try:
            with (folder / name).open("rb") as file:
                found = re.search(
                    rb"GCC: \([ -~]{1,80}\) (\d+\.\d+\.\d+)|clang version (\d+\.\d+\.\d+)",
                    file.read(LIMIT),
                )
        except OSError:
            continue
        if found:
            return f"GCC {found[1].decode()}" if found[1] else f"clang {found[2].decode()}"
    return None


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")
