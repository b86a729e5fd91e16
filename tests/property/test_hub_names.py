"""Names from a hub: whatever passes stays inside of its folder."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edgellm.models import store
from edgellm.models.choice import candidates
from edgellm.models.hub import RemoteFile, Repository
from edgellm.models.reference import is_safe_name, parse_hub_reference

ROOT = Path("/store/folder")
PIECES = st.sampled_from(["..", ".", "/", "//", "\\", "a", "q4_k_m", "-00001-of-00002", ".gguf",
                          "\0", "\n", ":", "~", "م\u200cس", "\u202e", "x" * 90, "config.json",
                          ".safetensors", " "])  # fmt: skip
NAMES = st.one_of(st.lists(PIECES, max_size=6).map("".join), st.text(max_size=40))
SAFE_PIECES = st.sampled_from(["/a", "a", "q4_k_m", "-00001-of-00002", ".gguf", "م\u200cس", " ",
                               "x" * 90, "/config.json", ".safetensors", "-F16"])  # fmt: skip
SAFE_NAMES = st.lists(SAFE_PIECES, max_size=6).map(lambda pieces: "m" + "".join(pieces))


@given(NAMES)
def test_a_safe_name_stays_inside(name: str) -> None:
    if is_safe_name(name):
        inside = os.path.normpath(ROOT / name)
        assert inside.startswith(f"{ROOT}/")
        assert inside == f"{ROOT}/{name}"


@given(st.lists(SAFE_NAMES.filter(is_safe_name), max_size=6))
def test_labels_are_names_of_folders(names: list[str]) -> None:
    files = tuple(RemoteFile(name, 1, "0" * 64, None) for name in dict.fromkeys(names))
    found = Repository("user/repo", "0" * 40, None, False, frozenset(), files)
    for candidate in candidates(found):
        path = store.hub_manifest_path("user/repo", candidate.label)
        assert path.parent == store.models_dir() / "hub" / "user" / "repo"
        assert is_safe_name(candidate.label)
        assert "/" not in candidate.label


@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=6).map("".join)))
def test_a_repository_is_two_plain_names(text: str) -> None:
    reference = parse_hub_reference(text)
    if reference is not None:
        user, repo = reference.repo.split("/")
        assert is_safe_name(user)
        assert is_safe_name(repo)
        assert parse_hub_reference(f"{user}/{repo}") is not None or repo.endswith(".gguf")
