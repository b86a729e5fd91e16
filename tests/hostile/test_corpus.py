"""The folder of malformed files beside the checkout, judged by ggml's own reader."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.cli.main import run
from edgellm.models.check import check_model_file
from edgellm_converters.checkpoints.gguf import read_header
from edgellm_converters.errors import ConvertersError, CorruptFileError

# Opens each file with gguf_init_from_file and prints 1 where ggml can read it.
GGML_READS = """
import ctypes, importlib.util, pathlib, sys
home = pathlib.Path(importlib.util.find_spec("llama_cpp").submodule_search_locations[0]) / "lib"
(name,) = [p for p in home.iterdir() if p.stem == "libggml-base"]
ggml = ctypes.CDLL(str(name))
class Parameters(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]
ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, Parameters]
ggml.gguf_init_from_file.restype = ctypes.c_void_p
for path in sys.argv[1:]:
    opened = ggml.gguf_init_from_file(path.encode(), Parameters(True, None))
    sys.stdout.write("%d\\n" % bool(opened))
"""


@pytest.fixture(scope="module")
def corpus(shared: Path) -> dict[Path, bool]:
    """Every file, and whether ggml can read it."""
    folder = shared / "corrupt"
    if not folder.is_dir():
        pytest.skip("needs the folder of malformed files")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    done = subprocess.run(
        [sys.executable, "-c", GGML_READS, *paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    answers = done.stdout.split()
    assert len(answers) == len(paths) > 100
    return {path: answer == b"1" for path, answer in zip(paths, answers, strict=True)}


def test_reader_agrees_with_ggml(corpus: dict[Path, bool]) -> None:
    for path, good in corpus.items():
        try:
            read_header(path)
        except CorruptFileError:
            assert not good, path
        else:
            assert good, path


def test_no_file_reaches_native_code(corpus: dict[Path, bool]) -> None:
    """None of them is a whole model, not even the well-formed ones."""
    for path, good in corpus.items():
        with pytest.raises(ConvertersError) as caught:
            check_model_file(path)
        assert good or isinstance(caught.value, CorruptFileError), path


def test_command_line_gives_exit_code_5(corpus: dict[Path, bool]) -> None:
    for path, good in corpus.items():
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run(["show", str(path), "--json"])
        if good:
            assert status == 0, path
            continue
        assert status == 5, path
        assert "Traceback" not in err.getvalue()
        first, *hints = err.getvalue().splitlines()
        assert first.startswith("edgellm: ")
        assert len(hints) <= 1
        assert json.loads(out.getvalue())["error"]["code"] == "corrupt_file"
