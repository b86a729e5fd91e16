"""Bundles on emulated 64-bit ARM: installed without network, and the same words as here.

`make test-arm64` runs it, as root, with qemu-user-static, debootstrap, crossbuild-essential-arm64,
cmake and ninja-build. The first time it makes a small Debian, which takes minutes and is kept in
the cache. `QEMU_CPU` chooses a processor with dot products (Cortex-A76, Raspberry Pi 5) or without
(Cortex-A72, 4).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgellm
from edgellm.api.bundle import FOLDER, bundle
from edgellm.backends.base import LoadOptions, Sampling
from edgellm.backends.llama_cpp.scorer import LlamaCppScorer
from edgellm.generate.prompt import chat_tokens
from edgellm.generate.template import ChatTemplate, Message
from edgellm_converters.pipeline import convert

pytestmark = [
    pytest.mark.arm64,
    pytest.mark.skipif(
        os.environ.get("TEST_ARM64") != "1", reason="takes minutes: make test-arm64"
    ),
]

# Taken before a fixture turns tests away from the person's cache.
CACHE = Path(os.environ.get("EDGELLM_CACHE") or Path.home() / ".cache" / "edgellm")
TOOLS = ("qemu-aarch64-static", "debootstrap", "aarch64-linux-gnu-gcc", "cmake", "ninja", "unshare")
BINFMT = Path("/proc/sys/fs/binfmt_misc")
# The ELF header of aarch64 programs, and its mask (qemu's scripts/qemu-binfmt-conf.sh).
MAGIC = (
    r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
)
A76, A72 = "cortex-a76", "cortex-a72"
NEAR = 0.3  # nats between two tokens that rounding may exchange
PROMPT = "Tell me about the moon."


@dataclass(frozen=True)
class Debian:
    """A small Debian 12 for arm64, with a person called pi."""

    root: Path

    def run(self, cpu: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command as pi, on that processor and without any network."""
        inside = ["unshare", "-n", "chroot", "--userspec=pi:pi", str(self.root)]
        settings = ["env", "-i", "HOME=/home/pi", "PATH=/usr/bin:/bin", f"QEMU_CPU={cpu}"]
        return subprocess.run(
            [*inside, *settings, *words],
            env={**os.environ, "QEMU_CPU": cpu},
            capture_output=True,
            text=True,
            check=False,
        )

    def install(self, archive: Path, cpu: str) -> subprocess.CompletedProcess[str]:
        """Unpack a bundle in pi's home and run its script."""
        home = self.root / "home" / "pi"
        shutil.rmtree(home / FOLDER, ignore_errors=True)
        subprocess.run(["tar", "-xf", archive, "-C", home], check=True)
        subprocess.run(
            ["chroot", self.root, "chown", "-R", "pi:pi", f"/home/pi/{FOLDER}"], check=True
        )
        return self.run(cpu, "sh", f"/home/pi/{FOLDER}/install.sh")

    def edgellm(self, cpu: str, *words: str) -> dict[str, object]:
        """Run the installed edgellm with --json."""
        done = self.run(cpu, "/home/pi/.local/bin/edgellm", *words, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() or platform.machine() != "x86_64":
        pytest.skip(f"needs root on x86_64 and {', '.join(missing or TOOLS)}")
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "binfmt_misc", "-t", "binfmt_misc", BINFMT], check=True)
    if not (BINFMT / "qemu-aarch64").exists():
        qemu = shutil.which(TOOLS[0])
        (BINFMT / "register").write_text(f":qemu-aarch64:M::{MAGIC}:{qemu}:F")
    kept = CACHE / "arm64" / "bookworm.tar"
    root = tmp_path_factory.mktemp("arm64") / "root"
    if not kept.exists():
        bootstrap = ["debootstrap", "--arch=arm64", "--variant=minbase", "--foreign"]
        subprocess.run([*bootstrap, "--include=python3", "bookworm", root], check=True)
        subprocess.run(["chroot", root, "/debootstrap/debootstrap", "--second-stage"], check=True)
        subprocess.run(["chroot", root, "useradd", "-m", "pi"], check=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        subprocess.run(["tar", "-C", root, "-cf", partial, "."], check=True)
        partial.replace(kept)
    else:
        root.mkdir()
        subprocess.run(["tar", "-C", root, "-xf", kept], check=True)
    proc = root / "proc"
    subprocess.run(["mount", "-t", "proc", "proc", proc], check=True)
    try:
        yield Debian(root)
    finally:
        subprocess.run(["umount", "-l", proc], check=True)


@pytest.fixture(scope="session")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, shared: Path, smollm2: Path
) -> dict[tuple[str, str], Path]:
    """Bundles by target and model; llama.cpp is compiled once for each target and kept."""
    place = tmp_path_factory.mktemp("bundles")
    stories = place / "stories15m.gguf"
    convert(shared / "models" / "stories15M-hf-f16", stories)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELLM_CACHE", str(CACHE))
        for target, name, model in (
            ("rpi5", "stories15m", stories),
            ("rpi5", "smollm2", smollm2),
            ("rpi4", "stories15m", stories),
        ):
            found[target, name] = place / f"{target}-{name}.tar"
            bundle(str(model), found[target, name], target)
    return found


def here(model: Path) -> str:
    """Give the greedy text of this machine's own llama.cpp."""
    with edgellm.load(model) as loaded:
        greedy = Sampling(temperature=0)
        if loaded.has_template:
            return loaded.chat(PROMPT, max_tokens=32, sampling=greedy).text
        return loaded.complete(PROMPT, max_tokens=32, sampling=greedy).read().text


def there(debian: Debian, cpu: str) -> str:
    words = ["run", "--temp", "0", "-n", "32", "--prompt-cache-size", "0", "-p", PROMPT]
    return str(debian.edgellm(cpu, *words)["text"])


def check_same(model: Path, ours: str, theirs: str) -> None:
    """Check that two greedy texts are the same, or part where two tokens are equally likely.

    Kernels round activations to 8 bits in blocks and add in another order on each processor.
    """
    if ours == theirs:
        return
    with edgellm.load(model) as loaded:
        messages = [Message("user", PROMPT)]
        template = ChatTemplate(
            loaded.template_source or "", bos=loaded.model.bos_text, eos=loaded.model.eos_text
        )
        prompt = chat_tokens(loaded.model, template, messages)
        first, second = (loaded.tokenize(text, ends=False) for text in (ours, theirs))
    same = 0
    while first[same] == second[same]:
        same += 1
    assert same >= 8, (ours, theirs)
    scorer = LlamaCppScorer(model, 256, LoadOptions(), lambda: False)
    logits = scorer.extend([*prompt, *first[:same]], lambda: False, outputs=True)[-1]
    gap = float(logits[first[same]] - logits[second[same]])
    rank = int((logits > logits[second[same]]).sum())
    scorer.close()
    print(f"token {same}: {gap:.3f} nats apart, the {rank + 1}. likeliest")
    assert abs(gap) < NEAR, (gap, ours, theirs)


def built(debian: Debian, cpu: str) -> list[str]:
    """Give what llama.cpp says it was built with."""
    build = debian.edgellm(cpu, "doctor")["llama_cpp"]
    assert isinstance(build, dict)
    features: list[str] = build["features"]
    return features


def test_a_raspberry_pi_5_answers_as_this_machine_does(
    debian: Debian, bundles: dict[tuple[str, str], Path], shared: Path, tmp_path: Path
) -> None:
    done = debian.install(bundles["rpi5", "stories15m"], A76)
    assert done.returncode == 0, done.stderr
    model = tmp_path / "stories15m.gguf"
    convert(shared / "models" / "stories15M-hf-f16", model)
    assert there(debian, A76) == here(model)
    assert "DOTPROD" in built(debian, A76)


def test_the_default_model_answers_there(
    debian: Debian, bundles: dict[tuple[str, str], Path], smollm2: Path
) -> None:
    done = debian.install(bundles["rpi5", "smollm2"], A76)
    assert done.returncode == 0, done.stderr
    check_same(smollm2, here(smollm2), there(debian, A76))


def test_the_kernels_of_a_5_are_refused_on_a_4(
    debian: Debian, bundles: dict[tuple[str, str], Path]
) -> None:
    done = debian.install(bundles["rpi5", "stories15m"], A72)
    assert done.returncode == 1
    assert "the processor lacks asimddp fphp asimdhp" in done.stderr


def test_a_raspberry_pi_4_answers_without_dot_products(
    debian: Debian, bundles: dict[tuple[str, str], Path], shared: Path, tmp_path: Path
) -> None:
    done = debian.install(bundles["rpi4", "stories15m"], A72)
    assert done.returncode == 0, done.stderr
    model = tmp_path / "stories15m.gguf"
    convert(shared / "models" / "stories15M-hf-f16", model)
    assert there(debian, A72) == here(model)
    assert "DOTPROD" not in built(debian, A72)
