"""The table of backends and the options that every backend takes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.backends.base import BACKENDS, LoadOptions, Sampling, get_backend, select
from edgellm.backends.llama_cpp.library import Log
from edgellm.errors import BackendError, UsageError

ROOT = Path(__file__).resolve().parents[3]
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"


@pytest.mark.parametrize("name", BACKENDS)
def test_every_row_imports_and_has_its_name(name):
    assert get_backend(name).name == name


def test_an_unknown_backend_names_the_known():
    with pytest.raises(UsageError) as caught:
        get_backend("tensorflow")
    assert "llama_cpp" in caught.value.hint


def test_no_backend_for_a_folder_gives_every_reason(tmp_path):
    with pytest.raises(BackendError) as caught:
        select(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: no backend can run it (llama_cpp: reads GGUF files only; "
        "mlx: reads folders with a config.json and safetensors only)"
    )
    with pytest.raises(BackendError, match="mlx cannot run it: reads folders with"):
        select(tmp_path / "a.gguf", "mlx")


def test_without_mlx_the_refusal_names_its_pip_command(tmp_path):
    """In a process whose packages are those of this one, without MLX's."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in (Path(entry) for entry in sys.path if "site-packages" in entry):
        for entry in folder.iterdir():
            if not entry.name.startswith(("mlx", "__editable__")) and entry.suffix != ".pth":
                (packages / entry.name).symlink_to(entry)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    code = (
        "import sys\n"
        f"sys.path = [{str(packages)!r}, *(p for p in sys.path if 'site-packages' not in p)]\n"
        f"sys.path += {[str(ROOT / part) for part in ('', 'converters', 'quant')]!r}\n"
        "from pathlib import Path\n"
        "from edgellm.backends.base import select\n"
        "from edgellm.errors import BackendError\n"
        "try:\n"
        f"    select(Path({str(tmp_path / 'model')!r}))\n"
        "except BackendError as error:\n"
        "    print(error, '|', error.hint)\n"
    )
    said = python(code)
    assert "llama_cpp: reads GGUF files only; mlx: mlx is not installed (pip install" in said
    assert "'edgellm[mlx]'" in said
    assert f"edgellm convert {tmp_path / 'model'} -o model.gguf" in said


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": float("nan")},
        {"dry_multiplier": float("nan")},
        {"dry_base": 0.5},
        {"dry_last_n": -1},
        {"dry_breakers": "abc"},
        {"dry_breakers": [""]},
        {"dry_breakers": ["a\0"]},
        {"dry_breakers": ["\ud800"]},
        {"dry_breakers": ["م" * 21]},
        {"dry_breakers": ["a"] * 65},
        {"mirostat": 3},
        {"mirostat_tau": -1},
        {"xtc_probability": 2},
        {"top_n_sigma": -1},
        {"top_n_sigma": 1, "typical_p": 0.5},
        {"temperature": float("inf")},
        {"top_p": 1.01},
        {"min_p": -0.1},
        {"typical_p": 2},
        {"repeat_penalty": 0.0},
        {"repeat_penalty": float("nan")},
        {"repeat_last_n": -1},
        {"top_k": 2**31},
        {"seed": -1},
        {"seed": 2**32 - 1},
        {"presence_penalty": float("inf")},
    ],
)
def test_a_sampling_value_out_of_range_is_named(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        Sampling(**values)


@pytest.mark.parametrize("values", [{"threads": 0}, {"threads": 513}, {"gpu_layers": -1}])
def test_a_load_value_out_of_range_is_named(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        LoadOptions(**values)


def test_penalties_cost_nothing_unless_they_do_something():
    assert not Sampling().penalizes
    assert not Sampling(repeat_penalty=1.5, repeat_last_n=0).penalizes
    assert Sampling(repeat_penalty=1.5).penalizes


def test_the_first_error_line_is_the_reason_and_other_levels_are_not():
    log = Log()
    log.write(2, b"llama_model_loader: loaded meta data\n")
    log.write(4, b"llama_model_load: error loading model: missing tensor 'x'\n")
    log.write(5, b"\n")
    log.write(4, b"llama_model_load_from_file_impl: failed to load model\n")
    assert log.reason() == "missing tensor 'x'"
    log.clear()
    assert log.reason() == ""


LOAD = """
from edgellm.backends.base import get_backend
from edgellm.errors import BackendError
try:
    get_backend("llama_cpp")
    from edgellm.backends.llama_cpp.library import library
    library()
except BackendError as error:
    print(error, "|", error.hint)
"""


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_library_that_cannot_be_loaded_is_one_sentence(tmp_path):
    """A folder without it, a file that is none, and the library of another version."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "none").mkdir()
    (tmp_path / "other").mkdir()
    (package,) = importlib.util.find_spec("llama_cpp").submodule_search_locations
    (real,) = (Path(package) / "lib").glob(f"libggml-base{SUFFIX}")
    for name in ("libllama.so", "libllama.dylib"):
        (tmp_path / "none" / name).write_bytes(b"no library")
        (tmp_path / "other" / name).symlink_to(real)
    for folder in ("empty", "none", "other"):
        said = python(LOAD, LLAMA_CPP_LIB_PATH=str(tmp_path / folder))
        assert said.startswith("llama.cpp cannot be loaded: "), said
        assert said.rstrip().endswith(f"LLAMA_CPP_LIB_PATH names the folder {tmp_path / folder}: "
                                      "unset it")  # fmt: skip


def test_without_the_package_the_refusal_names_its_pip_command(tmp_path):
    code = (
        "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from edgellm.backends.llama_cpp.library import missing\n"
        "print(missing())"
    )
    assert "pip install llama-cpp-python" in python(code)


def test_llama_cpp_can_be_imported_afterwards_as_usual():
    code = LOAD + (
        "import llama_cpp, llama_cpp.llama_grammar\n"
        "print(llama_cpp.llama_cpp is library(), llama_cpp.Llama.__name__)"
    )
    assert python(code) == "True Llama\n"
