"""The rows of the catalogue hold together."""

from __future__ import annotations

import re

import pytest

from edgellm.models.catalogue import CATALOGUE, DEFAULT_MODEL, CatalogueModel


def test_the_default_model_is_a_row() -> None:
    assert CATALOGUE[DEFAULT_MODEL].licence == "Apache-2.0"


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE.keys())
def test_a_row_is_whole(model: CatalogueModel) -> None:
    assert CATALOGUE[model.name] is model
    # A name is typed in lower case, and is a file name: no folder, no suffix.
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", model.name)
    assert not model.name.endswith(".gguf")
    assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
    assert len({part.member for part in model.parts}) == len(model.parts) >= 1
    for part in model.parts:
        assert part.bytes > 0
        assert part.member.startswith(part.package.replace("-", "_") + "/")
        assert model.source.count(part.requirement) == 1


def test_the_sizes_are_those_of_the_known_files() -> None:
    assert {model.name: model.bytes for model in CATALOGUE.values()} == {
        "smollm2-135m-instruct": 98_362_432,
        "gemma3-270m": 253_113_024,
        "all-minilm-l6-v2": 91_567_797,
    }


def test_a_model_with_terms_of_its_own_says_so() -> None:
    notice = CATALOGUE["gemma3-270m"].notice
    assert notice is not None
    assert "Gemma Terms of Use" in notice
