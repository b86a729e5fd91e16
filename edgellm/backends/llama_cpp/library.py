"""The native library: its import, and its log kept quiet but not lost."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import types
from collections import deque
from typing import Any

from edgellm.errors import BackendError, UsageError

__all__ = ["CLOSED", "Log", "let_threads_sleep", "library", "log", "missing", "quiet"]

PACKAGE = "llama_cpp"
ERROR_LEVEL = 4  # ggml_log_level: 1 debug, 2 info, 3 warning, 4 error, 5 goes on with the last line
CONTINUE_LEVEL = 5


class Log:
    """The last error lines of llama.cpp, which explain why a call gave nothing.

    With EDGELLM_DEBUG=1 every line goes to stderr as well.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=20)
        self._level = 0
        self._debug = os.environ.get("EDGELLM_DEBUG") == "1"

    def write(self, level: int, text: bytes | None) -> None:
        """Take one event; llama.cpp sends pieces of lines with the level 5."""
        if level != CONTINUE_LEVEL:
            self._level = level
        if self._debug and text:
            os.write(2, text)
        if self._level == ERROR_LEVEL and text:
            self.lines.append(text[:500].decode("utf-8", "replace").strip())

    def clear(self) -> None:
        """Forget the lines of earlier calls."""
        self.lines.clear()

    def reason(self) -> str:
        """Give the line that says most about a failure, without the function's name before it.

        The first error is the cause; later ones repeat it on the way up.
        """
        for line in self.lines:
            name, colon, rest = line.partition(": ")
            text = rest if colon and " " not in name else line
            if text:
                return text.removeprefix("error loading model: ")
        return ""


log = Log()


class Closed:
    """Stands in the place of the library where a model or context is closed.

    Freed memory would be read otherwise, and the program would crash.
    """

    def __getattr__(self, _name: str) -> Any:
        raise UsageError("the model is closed, or its context made way for a larger one")


CLOSED = Closed()


def missing() -> str | None:
    """Say why the library cannot be used; None if its package is installed."""
    if PACKAGE in sys.modules or importlib.util.find_spec(PACKAGE) is not None:
        return None
    return "llama-cpp-python is not installed (pip install llama-cpp-python)"


def let_threads_sleep() -> None:
    """Ask OpenMP's threads to sleep while they wait, if the library is not loaded yet.

    By default they spin: a token is written sooner, but other work on the same cores (numpy's, or
    another program's) gets half of them. Where batches of hundreds of tokens are evaluated, waking
    up costs nothing.
    """
    if f"{PACKAGE}.{PACKAGE}" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@functools.cache
def library() -> Any:
    """Import the declarations, load the shared library and take over its log.

    Raises:
        BackendError: the package is not there or its shared library cannot be loaded.
    """
    try:
        module = _import_declarations()
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        # AttributeError: the library is of another version than the package's declarations.
        elsewhere = os.environ.get("LLAMA_CPP_LIB_PATH")
        hint = "pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python"
        if elsewhere:
            hint = f"LLAMA_CPP_LIB_PATH names the folder {elsewhere}: unset it"
        raise BackendError(f"llama.cpp cannot be loaded: {error}", hint=hint) from error
    module.llama_backend_init()
    return module


@functools.cache
def log_callback() -> Any:
    """Give the C callback; it has to live as long as the library."""

    def write(level: int, text: bytes | None, _data: object) -> None:
        log.write(level, text)

    return library().llama_log_callback(write)


def quiet() -> None:
    """Send the log to `log`; importing all of llama_cpp later would send it to stderr again."""
    library().llama_log_set(log_callback(), None)


def _import_declarations() -> Any:
    """Import `llama_cpp.llama_cpp` without running `llama_cpp/__init__.py`.

    The package's `__init__` imports its high-level classes with numpy and more, which takes several
    times as long as the declarations and is not needed here. A later `import llama_cpp` finds the
    same module object for the declarations.
    """
    name = f"{PACKAGE}.{PACKAGE}"
    if PACKAGE in sys.modules:
        return importlib.import_module(name)
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("the package llama_cpp is not installed")
    stand_in = types.ModuleType(PACKAGE)
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules[PACKAGE] = stand_in
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[PACKAGE]
