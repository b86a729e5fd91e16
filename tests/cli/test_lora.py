"""`--lora` and `/lora`, on a tiny model whose greedy text is known and adapters change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import adapter_folders as adapters
from edgellm.errors import UsageError
from edgellm.generate.saved import load_session
from edgellm.models.adapter import parse_lora
from tinygguf import write_tiny

GREEDY = ("--temp", "0", "-t", "1", "-n", "4")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and three adapters; each lets the answer begin with the letter of its name."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "tiny.gguf")
    adapters.tiny_gguf(tmp_path / "d.gguf", "d")
    adapters.tiny_gguf(tmp_path / "b.gguf", "b", 20)
    adapters.tiny_gguf(tmp_path / "سبک.gguf", "c")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "file", "scale"),
    [
        ("a.gguf", "a.gguf", 1),
        ("a.gguf:0.5", "a.gguf", 0.5),
        ("a:b/c.gguf:-2", "a:b/c.gguf", -2),
        ("a.gguf:.5e1", "a.gguf", 5),
        ("C:\\style.gguf", "C:\\style.gguf", 1),
        ("C:\\style.gguf:0", "C:\\style.gguf", 0),
        ("user/repo:Q4_K_M", "user/repo:Q4_K_M", 1),
        ("سبک:۰", "سبک", 0),
        (":3", ":3", 1),
        ("a.gguf:", "a.gguf:", 1),
        ("a.gguf:1x", "a.gguf:1x", 1),
    ],
)
def test_a_file_and_its_scale(text: str, file: str, scale: float) -> None:
    assert parse_lora(text) == (file, scale)


def test_a_file_of_that_very_name_is_meant(here: Path) -> None:
    (here / "style:2").touch()
    assert parse_lora("style:2") == ("style:2", 1)
    assert parse_lora("style:2:3") == ("style:2", 3)


@pytest.mark.parametrize("text", ["a:nan", "a:inf", "a:-inf", "a:1e9", "a:-101", "", " "])
def test_no_scale_that_an_adapter_can_have(text: str) -> None:
    with pytest.raises(UsageError):
        parse_lora(text)


def test_an_answer_with_adapters(call, here: Path) -> None:
    assert call("run", "tiny.gguf", "x", *GREEDY)[1].startswith("Hi ")
    assert call("run", "tiny.gguf", "x", *GREEDY, "--lora", "d.gguf") == (0, "defg\n", "")
    assert call("run", "tiny.gguf", "x", *GREEDY, "--lora", "سبک.gguf") == (0, "cdef\n", "")
    both = ("--lora", "d.gguf:1", "--lora", "b.gguf:0.1", "--json")
    status, out, _ = call("run", "tiny.gguf", "x", *GREEDY, *both)
    body = json.loads(out)
    assert (status, body["text"]) == (0, "defg")
    assert body["adapters"] == [
        {"name": "d", "path": "d.gguf", "scale": 1.0},
        {"name": "b", "path": "b.gguf", "scale": 0.1},
    ]


def test_the_variable_has_a_line_for_each(call, monkeypatch) -> None:
    monkeypatch.setenv("EDGELLM_LORA", "d.gguf\nb.gguf:1")
    assert call("run", "tiny.gguf", "x", *GREEDY) == (0, "bcde\n", "")


@pytest.mark.parametrize(
    ("lora", "status", "words"),
    [
        (["nowhere.gguf"], 3, ["no adapter nowhere.gguf"]),
        (["d.gguf:x"], 3, ["no adapter d.gguf:x", "a number as scale, not 'x'"]),
        (["d.gguf:nan"], 2, ["scale is nan"]),
        (["d.gguf:1000"], 2, ["between -100 and 100"]),
        (["d.gguf", "./d.gguf:2"], 2, ["given twice"]),
        (["tiny.gguf"], 1, ["no LoRA adapter"]),
        (["."], 3, ["no adapter_config.json"]),
    ],
)
def test_what_is_no_adapter(call, lora, status, words) -> None:
    args = [word for one in lora for word in ("--lora", one)]
    found, out, err = call("run", "tiny.gguf", "x", *GREEDY, *args)
    assert (found, out) == (status, "")
    assert all(word in err for word in words), err
    assert "Traceback" not in err


def test_switching_in_a_conversation(call) -> None:
    lines = ["x", "/lora d off", "x", "/lora", "/lora b on", "x", "/lora d 0.5", "/lora b 0", "x"]
    args = ("chat", "tiny.gguf", *GREEDY, "--lora", "d.gguf", "--lora", "b.gguf:0")
    status, out, err = call(*args, stdin="\n".join(lines))
    assert status == 0
    assert [line[:3] for line in out.splitlines()] == ["def", "Hi ", "bcd", "def"]
    assert "  d    off  d.gguf\n  b    off  b.gguf\n" in err
    assert "d is 0.5 from the next answer on." in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/lora d", ["a name and a scale"]),
        ("/lora d x", ["a number, off or on"]),
        ("/lora e 1", ["no adapter is called e", "loaded are: d"]),
        ("/lora d nan", ["scale is nan"]),
    ],
)
def test_wrong_lines(call, line: str, words: list[str]) -> None:
    status, _, err = call("chat", "tiny.gguf", *GREEDY, "--lora", "d.gguf", stdin=line)
    assert status == 2
    assert all(word in err for word in words), err


def test_a_conversation_remembers_its_adapters(call, here: Path) -> None:
    start = ("chat", "--session", "work", *GREEDY)
    lines = "x\n/lora d 0.75\nx\n"
    assert (
        call(*start, "-m", "tiny.gguf", "--lora", "d.gguf", "--lora", "b.gguf", stdin=lines)[0] == 0
    )
    saved = load_session("work").adapters
    assert saved == ((str(here / "d.gguf"), 0.75), (str(here / "b.gguf"), 1.0))
    status, out, err = call(*start, stdin="/lora\nx\n")
    assert (status, out) == (0, "bcde\n")
    assert "0.75" in err
    # Given on the command line, others take their place.
    assert call(*start, "--lora", "d.gguf", stdin="x\n")[1] == "defg\n"
    status, out, err = call(
        "chat", "tiny.gguf", *GREEDY, "--lora", "b.gguf", stdin="/load work\nx\n"
    )
    assert (status, out[:3]) == (0, "Hi ")
    assert f"It was with the adapter {here / 'd.gguf'}, which is not loaded" in err
    assert call(*start, "--lora", "d.gguf", stdin="x\n")[1] == "defg\n"
    (here / "d.gguf").unlink()
    status, out, err = call(*start, stdin="x\n")
    assert (status, out[:3]) == (0, "Hi ")
    assert "which is not there any more" in err


def test_eval_measures_with_an_adapter(call, here: Path) -> None:
    text = here / "text"
    text.write_text("\nabc" * 200)
    args = ("eval", "tiny.gguf", "--text", str(text), "--ctx", "64", "--json", "-t", "1")
    plain = json.loads(call(*args)[1])
    status, out, _ = call(*args, "--against", "tiny.gguf", "--lora", "d.gguf")
    body = json.loads(out)
    assert status == 0
    assert body["reference_perplexity"] == pytest.approx(plain["perplexity"])
    assert body["kld"]["mean"] > 0.1


def test_speed_with_an_adapter(call) -> None:
    args = ("bench", "tiny.gguf", "-p", "8", "-n", "4", "-r", "1", "-t", "1", "--json")
    plain, adapted = (json.loads(call(*args, *more)[1]) for more in ((), ("--lora", "d.gguf")))
    size = Path("d.gguf").stat().st_size
    assert 0 < adapted["model_bytes"] - plain["model_bytes"] <= size
