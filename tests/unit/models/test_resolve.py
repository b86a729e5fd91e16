"""References: what a person types, and the file that is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgellm.errors import NotFoundError
from edgellm.models import DEFAULT_MODEL, is_model_reference, resolve, store


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stored() -> Path:
    path = store.models_dir() / "mine-1b.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    return path


def test_a_path_is_itself(here: Path) -> None:
    (here / "a.gguf").write_bytes(b"GGUF")
    (here / "odd name").write_bytes(b"GGUF")
    assert resolve("a.gguf") == Path("a.gguf")
    assert resolve(str(here / "a.gguf")) == here / "a.gguf"
    assert resolve("odd name") == Path("odd name")


def test_a_tilde_is_the_home_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "a.gguf").write_bytes(b"GGUF")
    assert resolve("~/a.gguf") == here / "a.gguf"


def test_a_name_in_the_store(stored: Path) -> None:
    for name in ("mine-1b", "mine-1b.gguf", "MINE-1B"):
        assert resolve(name) == stored


def test_the_store_wins_over_a_file_that_happens_to_lie_here(stored: Path, here: Path) -> None:
    (here / "mine-1b.gguf").write_bytes(b"other")
    assert resolve("mine-1b.gguf") == stored
    assert resolve("./mine-1b.gguf") == Path("mine-1b.gguf")


def test_none_is_the_default_model() -> None:
    path = store.models_dir() / f"{DEFAULT_MODEL}.gguf"
    with pytest.raises(NotFoundError) as caught:
        resolve(None)
    assert caught.value.hint == f"edgellm pull {DEFAULT_MODEL}"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    assert resolve(None) == resolve() == resolve(DEFAULT_MODEL) == path


@pytest.mark.parametrize(
    ("reference", "sentence", "hint"),
    [
        ("gemma3-270m", "not in the store yet", "edgellm pull gemma3-270m"),
        ("Gemma3-270M", "not in the store yet", "edgellm pull gemma3-270m"),
        ("smollm2-135m-instuct", "no model", "did you mean smollm2-135m-instruct?"),
        ("smollm2", "no model", "did you mean smollm2-135m-instruct?"),
        ("mine-1c", "no model mine-1c", "did you mean mine-1b?"),
        ("qwertz", "no model or file qwertz", "edgellm list"),
        ("./no/such.gguf", "no file ./no/such.gguf", "there is no folder no"),
        ("user/repo.gguf", "no file user/repo.gguf", "there is no folder user"),
        ("./notes-1.gguf", "no file ./notes-1.gguf", "did you mean notes-2.gguf?"),
        ("https://x.org/a/b.gguf", "no address of a model on the Hugging Face", "give its path"),
        ("hf.co/a/b:Q4_K_M", "the model a/b:Q4_K_M is not in", "edgellm pull hf.co/a/b:Q4_K_M"),
        ("user/repo-1B:Q4_K_M", "no file user/repo-1B:Q4_K_M, and", "edgellm pull user/repo-1B"),
        ("", "empty", "edgellm list"),
        ("a\0b", "no model or file", "edgellm list"),
        ("x" * 5000, "no model or file", "edgellm list"),
        ("~no-such-user-here/a.gguf", "no file", "there is no folder ~no-such-user-here"),
    ],
)
def test_what_is_not_there_gets_a_hint(
    stored: Path, here: Path, reference: str, sentence: str, hint: str
) -> None:
    (here / "notes-2.gguf").write_bytes(b"GGUF")
    with pytest.raises(NotFoundError) as caught:
        resolve(reference)
    assert sentence in str(caught.value)
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_a_folder_is_no_model_file_unless_it_is_asked_for(here: Path) -> None:
    (here / "my finetune").mkdir()
    with pytest.raises(NotFoundError, match="is a folder") as caught:
        resolve("my finetune")
    assert caught.value.hint == "give the path of a GGUF file"
    (here / "lora").mkdir()
    (here / "lora" / "adapter_config.json").write_text("{}")
    with pytest.raises(NotFoundError) as caught:
        resolve("./lora")
    assert caught.value.hint is not None
    assert "a LoRA adapter: edgellm convert MODEL --lora" in caught.value.hint
    (here / "my finetune" / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(NotFoundError) as caught:
        resolve("my finetune")
    assert caught.value.hint == "there is my finetune/a.gguf in it"
    assert resolve("my finetune", folders=True) == Path("my finetune")


def test_a_folder_with_a_config_is_a_model(here: Path) -> None:
    (here / "my finetune").mkdir()
    assert not is_model_reference("my finetune")
    (here / "my finetune" / "config.json").write_text("{}")
    assert is_model_reference("my finetune")
    assert resolve("my finetune") == Path("my finetune")


@pytest.mark.parametrize("reference", ["x" * 5000 + "/a", "a\0b/c", "/srv/\0.gguf"])
def test_an_impossible_path_is_not_there(reference: str) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        resolve(reference)


def test_a_pipe_is_refused_without_being_opened(here: Path) -> None:
    os.mkfifo(here / "pipe.gguf")
    with pytest.raises(NotFoundError, match="not a regular file"):
        resolve("pipe.gguf")
    os.mkfifo(here / "pipe")
    assert not is_model_reference("pipe")


@pytest.mark.parametrize(
    "text",
    [
        "mine-1b",
        "mine-1b.gguf",
        "smollm2-135m-instruct",
        "Gemma3-270M",
        "nothing-here.gguf",
        "./nothing/here",
        "../x",
        "~/x",
        "/no/such/file",
        "smollm2",
        "smollm2-135m-instuct",
        "user/repo-1B",
        "user/repo-1B:Q4_K_M",
        "weights",
        "my model.gguf",
    ],
)
def test_what_means_a_model(stored: Path, here: Path, text: str) -> None:
    (here / "weights").write_bytes(b"GGUF\x03\0\0\0")
    (here / "my model.gguf").write_bytes(b"")
    assert is_model_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "hello there",
        "Why is the sky blue?",
        "سلام",
        "TCP/IP",
        "2+2=?",
        "1-2",
        "/help",
        "README",
        "folder",
        "say mine-1b\nplease",
        "what is a.gguf file?",
        "explain nothing.gguf",
        "x" * 10_000,
        "a\0b",
    ],
)
def test_what_is_a_prompt(stored: Path, here: Path, text: str) -> None:
    (here / "README").write_bytes(b"# read me")
    (here / "folder").mkdir()
    assert not is_model_reference(text)
