"""tools/setup.py: what `make` runs first, on a machine where nothing is installed yet."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from edgellm import settings

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tools" / "setup.py"


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CMAKE_ARGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("edgellm_setup", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cache_folder_is_that_of_the_package(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert setup.cache_dir() == settings.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("EDGELLM_CACHE")
    assert setup.cache_dir() == settings.cache_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert setup.cache_dir() == settings.cache_dir()


def test_the_version_to_build_is_the_lowest_that_is_allowed(setup: ModuleType) -> None:
    version = setup.llama_version()
    assert f'"llama-cpp-python>={version},' in (ROOT / "pyproject.toml").read_text()


def test_an_old_python_is_one_sentence(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "MINIMUM_PYTHON", (4, 11))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(setup.SetupError) as caught:
        setup.check_python()
    assert f"{sys.executable} is {platform.python_version()}" in str(caught.value)
    assert caught.value.hint == "install Python 3.11 or newer"
    newer = tmp_path / "python3.12"
    newer.write_text("")
    newer.chmod(0o755)
    with pytest.raises(setup.SetupError) as caught:
        setup.check_python()
    assert caught.value.hint == "make chat PYTHON=python3.12"


def test_the_script_is_readable_to_old_pythons() -> None:
    """What an old Python cannot parse it would answer with a syntax error, not our sentence."""
    import ast

    ast.parse(SCRIPT.read_text(), feature_version=(3, 8))


@pytest.fixture
def done_before(setup: ModuleType, tmp_path: Path) -> Path:
    """An environment that looks finished, but in which nothing could be run."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text("")
    model = tmp_path / "model.gguf"
    model.write_text("")
    stamp = {
        "project": setup.hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        "python": platform.python_version(),
        "machine": setup.machine_key(),
        "cmake_args": "",
        "cmake_defaults": setup.cmake_defaults(),
        "extras": ["dev"],
        "models": {os.environ["EDGELLM_HOME"]: str(model)},
    }
    (venv / "edgellm-setup.json").write_text(json.dumps(stamp))
    return venv


def test_the_second_run_does_nothing_and_is_quick(done_before: Path) -> None:
    started = time.monotonic()
    for extras in ([], ["--extras", "dev"]):
        command = [sys.executable, str(SCRIPT), "--venv", str(done_before), *extras]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout + done.stderr == ""
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("project", "another"),
        ("python", "3.11.0rc1"),
        ("machine", "another"),
        ("extras", []),
        ("cmake_args", "-DGGML_NATIVE=OFF"),
    ],
)
def test_a_change_is_noticed(
    setup: ModuleType,
    done_before: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    value: object,
) -> None:
    reached = RuntimeError("the environment would be made")

    def stop(*_arguments: object, **_keywords: object) -> None:
        raise reached

    monkeypatch.setattr(setup, "make_venv", stop)
    stamp = done_before / "edgellm-setup.json"
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), key: value}))
    if key == "cmake_args":
        setup.set_up(done_before, {"dev"}, with_model=True)  # asked for earlier, and kept
        monkeypatch.setenv("CMAKE_ARGS", "")
    with pytest.raises(RuntimeError) as caught:
        setup.set_up(done_before, {"dev"}, with_model=True)
    assert caught.value is reached


def test_a_missing_compiler_is_one_sentence(tmp_path: Path) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CC", "CXX") and not name.startswith("PIP_")
    }
    environment |= {"PATH": "/nonexistent", "EDGELLM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--venv", str(tmp_path / "venv"), "--no-model"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    sentence, hint = done.stderr.splitlines()
    assert sentence == (
        "edgellm setup: no C++ compiler was found, and llama-cpp-python has to be built from source"
    )
    assert re.fullmatch(r"  hint: (sudo \w+|xcode-select|install g\+\+).*", hint)


def test_a_compiler_that_was_named_wrongly(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(setup.SetupError, match=r"\(CXX is no-such-compiler\)"):
        setup.check_compilers()


def test_a_compiler_that_does_not_work(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'fatal error: vector: No such file' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(setup.SetupError, match="does not work") as caught:
        setup.check_compilers()
    assert caught.value.lines == ["fatal error: vector: No such file"]


def test_the_compilers_of_this_machine(setup: ModuleType) -> None:
    if not (shutil.which("c++") and shutil.which("cc")):
        pytest.skip("needs a C++ compiler")
    setup.check_compilers()


def test_a_built_wheel_is_used_again_without_a_compiler(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    keys = []
    for arguments in ("", "-DGGML_NATIVE=OFF"):
        with pytest.raises(setup.SetupError, match="compiler"):
            setup.built_wheel(Path("python"), "1.2.3", arguments)
        facts = [f"{setup.cmake_defaults()} {arguments}".strip(), setup.machine_key(), *[""] * 4]
        key = setup._digest(["1.2.3", *facts])
        wheel = tmp_path / "cache" / "wheels" / f"llama-cpp-python-1.2.3-{key}" / "x.whl"
        wheel.parent.mkdir(parents=True)
        wheel.write_bytes(b"")
        assert setup.built_wheel(Path("python"), "1.2.3", arguments) == str(wheel)
        keys.append(key)
    assert len(set(keys)) == 2


def test_a_failing_step_names_its_log_and_the_lines_that_matter(
    setup: ModuleType, tmp_path: Path
) -> None:
    log = tmp_path / "logs" / "build.log"
    script = (
        "echo '  [1/3] compiling a.cpp'; echo 'a.cpp:1:2: error: boom'; echo noise\n"
        "echo 'error: subprocess-exited-with-error'; echo 'ERROR: Failed building wheel'; exit 3"
    )
    with pytest.raises(setup.SetupError, match=r"^building x failed$") as caught:
        setup.run_logged(["sh", "-c", script], "building x", log)
    assert caught.value.lines == ["a.cpp:1:2: error: boom"]
    assert caught.value.hint == f"the full log is {log}"
    assert "noise" in log.read_text()


def test_what_cmake_says_on_the_next_line_is_shown_too(setup: ModuleType) -> None:
    error = "  CMake Error at a.txt:1 (find):\n\n    no nvcc\n"
    assert setup.relevant_lines(f"-- ok\n{error}noise\n{error}-- end\n") == [
        "CMake Error at a.txt:1 (find): no nvcc"
    ]
    assert setup.relevant_lines("a\n\nb\n") == ["a", "b"]
    assert setup.relevant_lines("") == []


def test_an_index_that_cannot_be_reached_is_named(setup: ModuleType, tmp_path: Path) -> None:
    script = "echo 'WARNING: Retrying: Failed to establish a new connection'; exit 1"
    with pytest.raises(setup.SetupError) as caught:
        setup.run_logged(["sh", "-c", script], "building x", tmp_path / "log")
    assert caught.value.hint.startswith("pip could not reach its index")


def test_a_build_that_ran_out_of_memory_says_what_to_do(setup: ModuleType, tmp_path: Path) -> None:
    script = "echo 'c++: fatal error: Killed signal terminated program cc1plus'; exit 1"
    with pytest.raises(setup.SetupError) as caught:
        setup.run_logged(["sh", "-c", script], "building x", tmp_path / "log")
    assert "CMAKE_BUILD_PARALLEL_LEVEL=1" in caught.value.hint


def test_a_good_step_leaves_no_log_and_shows_life(
    setup: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(setup, "HEARTBEAT_S", 0.4)
    script = "echo '  [12/94] compiling'; sleep 1.2"
    setup.run_logged(["sh", "-c", script], "building x", tmp_path / "log")
    assert not (tmp_path / "log").exists()
    assert re.search(r"^building x \[12/94\] 0:0[01]$", capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_compilers_too(tmp_path: Path, sign: signal.Signals) -> None:
    """The set-up is stopped while a grandchild works; nobody is left, and it says one sentence."""
    code = f"""
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("edgellm_setup", {str(SCRIPT)!r})
setup = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup)
script = "sleep 60 & echo $! > {tmp_path}/pid; mv {tmp_path}/pid {tmp_path}/started; wait"
setup.set_up = lambda *a, **k: setup.run_logged(["sh", "-c", script], "x", Path("{tmp_path}/log"))
sys.exit(setup.main([]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    started = tmp_path / "started"
    for _ in range(200):
        if started.exists():
            break
        time.sleep(0.05)
    grandchild = int(started.read_text())
    process.send_signal(sign)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "edgellm setup: interrupted; what was finished is kept\n"
    for _ in range(100):
        if not _runs(grandchild):
            return
        time.sleep(0.05)
    raise AssertionError("the grandchild still runs")


def _runs(pid: int) -> bool:
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(state) and not state.startswith("Z")


def test_an_environment_of_another_python_is_not_touched(setup: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    settings_file = tmp_path / "venv" / "pyvenv.cfg"
    settings_file.write_text("home = /usr/bin\nversion = 3.9.1\n")
    with pytest.raises(setup.SetupError, match=r"is of Python 3\.9, not of") as caught:
        setup.make_venv(tmp_path / "venv", ours=False)
    assert "make chat PYTHON=python3.9" in caught.value.hint
    assert settings_file.exists()


def test_sources_that_are_there_are_those_that_tests_find(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAMA_CPP_SOURCE", raising=False)
    there = tmp_path / "cache" / "sources" / f"llama.cpp-{setup.llama_version()}"
    there.mkdir(parents=True)
    assert setup.keep_sources(Path(sys.executable), setup.llama_version()) == there
    spec = importlib.util.spec_from_file_location("sources", ROOT / "tests" / "llama_sources.py")
    assert spec is not None
    assert spec.loader is not None
    sources = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sources)
    assert there == sources.SOURCE


def test_a_build_leaves_out_tiles_that_the_compiler_gets_wrong(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "has_amx", lambda: True)
    assert setup.cmake_defaults().count("-mno-amx-tile") == 2
    monkeypatch.setattr(setup, "has_amx", lambda: False)
    assert setup.cmake_defaults() == setup.CMAKE_DEFAULTS
