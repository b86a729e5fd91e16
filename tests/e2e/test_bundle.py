"""A bundle for machines like this one: made, installed without network, changed, taken back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import adapter_folders
import edgellm
import tiny
from edgellm.api.bundle import FOLDER, bundle, verify_bundle
from edgellm.api.quantize import quantize
from edgellm.backends.base import Sampling
from edgellm.errors import UnsafeModelError, UsageError
from edgellm.models import store
from edgellm_converters.pipeline import convert
from tinygguf import PERSIAN, write_tiny

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bundles are for Linux")

Install = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a tiny model, made from what is installed here."""
    place = tmp_path_factory.mktemp("bundle")
    model = write_tiny(place / "tiny.gguf")
    bundle(str(model), place / "tiny.tar")
    return place / "tiny.tar"


@pytest.fixture
def unpacked(archive: Path, tmp_path: Path) -> Path:
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    return tmp_path / FOLDER


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Run a script of a bundle as a person without network settings would."""

    def run(
        folder: Path, *options: str, script: str = "install.sh"
    ) -> subprocess.CompletedProcess[str]:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
        return subprocess.run(
            ["sh", str(folder / script), *options],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def change(folder: Path, name: str, pattern: str, value: str) -> None:
    """Change a constant of a script, and the sums with it: another bundle."""
    import hashlib

    script = folder / name
    before = script.read_bytes()
    after = re.sub(pattern.encode(), value.encode(), before, count=1, flags=re.MULTILINE)
    assert after != before
    script.write_bytes(after)
    sums = folder / "SHA256SUMS"
    old, new = (hashlib.sha256(data).hexdigest() for data in (before, after))
    sums.write_text(sums.read_text().replace(old, new))


def test_it_installs_answers_and_is_taken_back(
    unpacked: Path, install: Install, tmp_path: Path
) -> None:
    done = install(unpacked)
    assert done.returncode == 0, done.stderr
    assert "a first answer" in done.stderr
    home = tmp_path / "home"
    link = home / ".local" / "bin" / "edgellm"
    prefix = home / ".local" / "share" / "edgellm-bundles"
    first = (prefix / "current").readlink()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    said = subprocess.run(
        [link, "run", "--temp", "0", "-p", "?"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"Hi {PERSIAN}\n"
    # Again: nothing is done twice.
    before = (prefix / "current" / "first.json").stat().st_mtime_ns
    assert install(unpacked).returncode == 0
    assert (prefix / "current" / "first.json").stat().st_mtime_ns == before

    # Another version, and back.
    change(unpacked, "uninstall.sh", "^# Removes", "# Takes away")
    assert install(unpacked).returncode == 0
    second = (prefix / "current").readlink()
    assert second != first
    assert (prefix / "previous").readlink() == first
    back = install(unpacked, "--rollback")
    assert back.returncode == 0, back.stderr
    assert (prefix / "current").readlink() == first
    assert (prefix / "previous").readlink() == second

    # A version that gives no answer changes nothing.
    change(unpacked, "install.sh", "^model='.*'", "model='models/none.gguf'")
    failed = install(unpacked)
    assert failed.returncode == 1
    assert "gives no answer, so that nothing was changed" in failed.stderr
    assert (prefix / "current").readlink() == first
    assert sorted(path.name for path in (prefix / "versions").iterdir()) == sorted(
        [first.name, second.name]
    )

    assert install(unpacked, script="uninstall.sh").returncode == 0
    assert not prefix.exists()
    assert not link.is_symlink()
    assert install(unpacked, script="uninstall.sh").returncode == 1


def test_another_program_of_that_name_stays(
    unpacked: Path, install: Install, tmp_path: Path
) -> None:
    theirs = tmp_path / "home" / ".local" / "bin" / "edgellm"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    done = install(unpacked)
    assert done.returncode == 0, done.stderr
    assert "is another program and stays" in done.stderr
    assert theirs.read_text() == "theirs"


MACHINES = {
    "another processor": ("^machine='.*'", "machine='riscv64'", "the bundle is for riscv64"),
    "no such kernels": (
        "^features='.*'",
        "features='neverheard'",
        "the processor lacks neverheard",
    ),
    "an old system": ("^glibc='.*'", "glibc='9.99'", "the bundle needs 9.99 or newer"),
    "another Python": ("^pythons='.*'", "pythons='3.99'", "no Python of the versions 3.99"),
    "little memory": ("^memory='.*'", "memory='1000000000000000'", "with its context takes"),
    "little disk": ("^unpacked='.*'", "unpacked='1000000000000000'", "MiB free, and"),
}


@pytest.mark.parametrize("case", MACHINES)
def test_a_machine_that_does_not_suit_is_left_as_it_is(
    archive: Path, install: Install, tmp_path: Path, case: str
) -> None:
    # It is looked at before any other file is.
    names = [f"{FOLDER}/{name}" for name in ("install.sh", "SHA256SUMS")]
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path, *names], check=True)
    pattern, value, why = MACHINES[case]
    change(tmp_path / FOLDER, "install.sh", pattern, value)
    done = install(tmp_path / FOLDER)
    assert done.returncode == 1
    assert why in done.stderr
    assert list((tmp_path / "home").iterdir()) == []


def test_files_are_checked_before_any_of_them_is_used(unpacked: Path, install: Install) -> None:
    assert install(unpacked, "--check").returncode == 0
    wheel = next((unpacked / "wheels").glob("numpy-*.whl"))
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 1
    wheel.write_bytes(data)
    done = install(unpacked)
    assert (done.returncode, f"- wheels/{wheel.name}" in done.stderr) == (1, True)
    data[len(data) // 2] ^= 1
    wheel.write_bytes(data)
    (unpacked / "wheels" / "more.whl").write_bytes(b"")
    assert "do not belong to the bundle: wheels/more.whl" in install(unpacked, "--check").stderr
    (unpacked / "wheels" / "more.whl").unlink()
    wheel.unlink()
    assert f"- wheels/{wheel.name}" in install(unpacked).stderr


def test_verify_names_the_file_whose_byte_was_flipped(archive: Path, tmp_path: Path) -> None:
    assert verify_bundle(archive).model == "models/tiny.gguf"
    copy = tmp_path / "copy.tar"
    data = bytearray(archive.read_bytes())
    data[data.index(b"GGUF\x03") + 5000] ^= 1
    copy.write_bytes(data)
    with pytest.raises(UnsafeModelError, match=r"models/tiny\.gguf is not what the manifest says"):
        verify_bundle(copy)


def test_the_same_inputs_give_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    bundle(str(archive.parent / "tiny.gguf"), again)
    assert again.read_bytes() == archive.read_bytes()


def test_a_folder_has_to_be_quantized_on_the_way(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    with pytest.raises(UsageError, match="a bundle takes a GGUF file"):
        bundle(str(folder), tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def test_a_folder_is_quantized_and_its_adapters_come_along(
    install: Install, tmp_path: Path
) -> None:
    folder = tiny.llama(tmp_path / "hf")
    targets = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    adapter_folders.write_peft(tmp_path / "style", folder, targets)
    adapter_folders.write_peft(tmp_path / "other", folder, targets[:1], rank=8)
    loras = [f"{tmp_path}/style:4", f"{tmp_path}/other:0.5"]
    archive = tmp_path / "both.tar"
    wish = {"type": "Q8_0", "method": "rtn"}
    done = bundle(str(folder), archive, lora=loras, quantization=wish)
    assert done.model == "models/hf-Q8_0.gguf"
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    installed = install(tmp_path / FOLDER)
    assert installed.returncode == 0, installed.stderr
    home = tmp_path / "home"
    words = ["run", "--raw", "--json", "--temp", "0", "-n", "12", "-p", "a b"]
    said = subprocess.run(
        [home / ".local" / "bin" / "edgellm", *words],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    model = tmp_path / "q8.gguf"
    quantize(folder, model, **wish)
    greedy = Sampling(temperature=0)
    with edgellm.load(model, lora=loras) as loaded:
        ours = loaded.complete("a b", special=True, sampling=greedy, max_tokens=12).read().text
    with edgellm.load(model) as loaded:
        plain = loaded.complete("a b", special=True, sampling=greedy, max_tokens=12).read().text
    assert json.loads(said.stdout)["text"] == ours != plain


def test_a_library_comes_with_its_embedder(archive: Path, install: Install, tmp_path: Path) -> None:
    store.models_dir().mkdir(parents=True)
    convert(tiny.ENCODERS["bert"](tmp_path / "bert"), store.models_dir() / "mini.gguf", dtype="f32")
    notes = tmp_path / "notes.txt"
    notes.write_text("The ferry leaves at nine.")
    library = tmp_path / "notes.db"
    with edgellm.open_library(library, write=True, embedder="mini") as opened:
        opened.index([notes])
    out = tmp_path / "notes.tar"
    bundle(str(archive.parent / "tiny.gguf"), out, library=library)
    subprocess.run(["tar", "-xf", out, "-C", tmp_path], check=True)
    installed = install(tmp_path / FOLDER)
    assert installed.returncode == 0, installed.stderr
    home = tmp_path / "home"
    said = subprocess.run(
        [
            home / ".local" / "bin" / "edgellm",
            "rag",
            "search",
            "ferry",
            "--weight",
            "0.5",
            "--json",
        ],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    (hit,) = json.loads(said.stdout)["hits"]
    assert hit["text"] == "The ferry leaves at nine."
    # That tiny model knows no words; a real one embeds the question with this file.
    there = home / ".local" / "share" / "edgellm" / "models" / "mini.gguf"
    elsewhere = store.models_dir() / "mini.gguf"
    assert there.read_bytes() == elsewhere.read_bytes()
    elsewhere = elsewhere.rename(tmp_path / "mini.gguf")
    with edgellm.open_library(tmp_path / "b.db", write=True, embedder=elsewhere) as opened:
        opened.index([notes])
    with pytest.raises(UsageError, match="which is not in the store"):
        bundle(str(archive.parent / "tiny.gguf"), tmp_path / "b.tar", library=tmp_path / "b.db")
