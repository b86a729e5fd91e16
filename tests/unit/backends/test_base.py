"""The table of backends and the options that every backend takes."""

from __future__ import annotations

import pytest

from edgellm.backends.base import BACKENDS, LoadOptions, Sampling, get_backend, select
from edgellm.backends.llama_cpp.library import Log
from edgellm.backends.llama_cpp.threads import default_threads
from edgellm.errors import BackendError, UsageError


@pytest.mark.parametrize("name", BACKENDS)
def test_every_row_imports_and_has_its_name(name):
    assert get_backend(name).name == name


def test_an_unknown_backend_names_the_known():
    with pytest.raises(UsageError) as caught:
        get_backend("tensorflow")
    assert "llama_cpp" in caught.value.hint


def test_no_backend_for_a_folder_gives_every_reason(tmp_path):
    with pytest.raises(BackendError, match="llama_cpp: reads single GGUF files only"):
        select(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": float("nan")},
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


def test_threads_are_cores_and_a_quota_lowers_them(tmp_path):
    import os

    for number in os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ():
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings").write_text("ff\n")  # all are threads of one core
    if not any(tmp_path.iterdir()):
        pytest.skip("this system does not tell its cores through files")
    assert default_threads(tmp_path, tmp_path / "none") == 1
    quota = tmp_path / "cpu.max"
    quota.write_text("max 100000\n")
    all_cores = default_threads(tmp_path / "none", quota)
    assert all_cores == len(os.sched_getaffinity(0))
    quota.write_text("100000 100000\n")
    assert default_threads(tmp_path / "none", quota) == 1
    quota.write_text("50000 100000\n")
    assert default_threads(tmp_path / "none", quota) == 1
