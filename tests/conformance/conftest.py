"""Every backend in turn, and a tiny model in the form that it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.api.convert import convert
from edgellm.api.fit import checked_needs
from edgellm.backends.base import LoadOptions, get_backend
from edgellm.backends.mlx.library import missing
from tinygguf import write_tiny


def never() -> bool:
    return False


class Subject:
    """A backend, and models in the form that it runs."""

    def __init__(self, name: str) -> None:
        self.backend = get_backend(name)
        self.name = name
        self.folders = name == "mlx"
        self.options = LoadOptions() if self.folders else LoadOptions(threads=1)

    def convert(self, source: Path, stem: Path) -> Path:
        target = stem.with_suffix(".mlx" if self.folders else ".gguf")
        convert(source, target, dtype="f32")
        return target

    def tiny(self, folder: Path, **options: object) -> Path:
        path = write_tiny(folder / "tiny.gguf", **options)
        return self.convert(path, folder / "tiny") if self.folders else path

    def load(self, path: Path, cancelled=never):
        assert self.backend.refusal(path) is None
        checked_needs(path)
        return self.backend.load(path, self.options, cancelled)


@pytest.fixture(
    scope="module",
    params=[
        "llama_cpp",
        # what mlx-lm and transformers warn of is theirs
        pytest.param("mlx", marks=[pytest.mark.oracle, pytest.mark.filterwarnings("default")]),
    ],
)
def subject(request):
    if request.param == "mlx" and (reason := missing()):
        pytest.skip(reason)
    return Subject(request.param)


@pytest.fixture(scope="module")
def path(subject, tmp_path_factory):
    return subject.tiny(tmp_path_factory.mktemp("tiny"), context=8192)


@pytest.fixture
def model(subject, path):
    model = subject.load(path)
    yield model
    model.close()
    model.close()  # closing twice does nothing


@pytest.fixture
def context(model):
    context = model.open_context(64)
    yield context
    context.close()
    context.close()
