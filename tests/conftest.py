"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
