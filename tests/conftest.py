"""Fixtures that every test may use."""

from __future__ import annotations

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
