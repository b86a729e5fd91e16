"""`edgellm embed` on a tiny encoder, and on a decoder whose vectors are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from edgellm.api.embed import load_embedder
from edgellm_converters.pipeline import convert
from tinygguf import WIDTH, byte_token, write_tiny


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    convert(tiny.ENCODERS["bert"](folder / "hf"), folder / "bert.gguf", dtype="f32")
    return str(folder / "bert.gguf")


@pytest.fixture(scope="module")
def vectors(bert):
    with load_embedder(bert, threads=1) as embedder:
        yield embedder.embed


def numbers(text: str) -> np.ndarray:
    return np.array([line.split() for line in text.splitlines()], np.float32)


def test_a_line_of_numbers_for_each_text(call, bert, vectors):
    status, out, err = call("embed", bert, "the cat", "گربه", "-t", "1")
    assert (status, err) == (0, "")
    # the decimals stand for the very numbers
    assert np.array_equal(numbers(out), vectors(["the cat", "گربه"]))


def test_json_has_the_documented_keys(call, bert, vectors):
    status, out, _ = call("embed", "-m", bert, "--json", "the cat", "-t", "1", "--no-normalize")
    body = json.loads(out)
    assert status == 0
    assert list(body) == [
        "embeddings", "output", "texts", "dimension", "pooling", "normalized", "truncated",
        "model", "backend",
    ]  # fmt: skip
    assert np.array_equal(
        np.array(body["embeddings"], np.float32), vectors(["the cat"], normalize=False)
    )
    del body["embeddings"]
    assert body == {
        "output": None,
        "texts": 1,
        "dimension": 64,
        "pooling": "mean",
        "normalized": False,
        "truncated": [],
        "model": bert,
        "backend": "llama_cpp",
    }


def test_lines_of_stdin_are_texts(call, bert, vectors):
    status, out, _ = call("embed", bert, "-t", "1", stdin="the cat\r\nگربه\n")
    assert status == 0
    assert np.array_equal(numbers(out), vectors(["the cat", "گربه"]))


def test_a_file_of_lines_or_of_json(call, bert, vectors, tmp_path):
    plain, lines = tmp_path / "texts.txt", tmp_path / "texts.jsonl"
    plain.write_text("the cat\nگربه", encoding="utf-8")
    lines.write_text('"the\\ncat"\n{"text": "گربه", "id": 7}\n', encoding="utf-8")
    _, out, _ = call("embed", bert, "--input", str(plain), "-t", "1")
    assert np.array_equal(numbers(out), vectors(["the cat", "گربه"]))
    _, out, _ = call("embed", bert, "--input", str(lines), "-t", "1")
    assert np.array_equal(numbers(out), vectors(["the\ncat", "گربه"]))


def test_a_numpy_file_whole_or_not_at_all(call, bert, vectors, tmp_path):
    target = tmp_path / "x.npy"
    args = ("embed", bert, "-o", str(target), "-t", "1")
    assert call(*args, "the cat") == (0, "", "")
    assert np.array_equal(np.load(target, allow_pickle=False), vectors(["the cat"]))
    status, _, err = call(*args, "a")
    assert (status, "exists already" in err) == (1, True)
    assert call(*args, "a", "", "--force")[0] == 2
    assert np.array_equal(np.load(target, allow_pickle=False), vectors(["the cat"]))
    status, out, _ = call(*args, "a", "--force", "--json")
    assert json.loads(out)["output"] == str(target)
    assert json.loads(out)["embeddings"] is None
    assert np.array_equal(np.load(target, allow_pickle=False), vectors(["a"]))
    assert list(tmp_path.iterdir()) == [target]


def test_a_long_text_is_an_error_or_cut_and_said(call, bert):
    long = "the cat " * 100
    status, out, err = call("embed", bert, "a", long)
    assert (status, out) == (6, "")
    assert "text 2" in err
    assert "--truncate" in err
    status, out, err = call("embed", bert, "a", long, "--truncate", "--json")
    body = json.loads(out)
    assert status == 0
    assert [each["text"] for each in body["truncated"]] == [1]
    assert f"of text 2, 128 of {body['truncated'][0]['tokens']} tokens were read" in err


def test_pooling_and_prefix(call, tmp_path):
    path = str(write_tiny(tmp_path / "tiny.gguf"))
    status, _, err = call("embed", path, "ab")
    assert (status, "--pooling" in err) == (2, True)
    _, out, _ = call("embed", path, "b", "--pooling", "mean", "--prefix", "a", "-t", "1")
    (found,) = numbers(out)
    assert found.shape == (WIDTH,)
    assert np.count_nonzero(found > 0.5) == 3
    assert found[byte_token(0x61)] > 0.5


def test_the_variable_names_a_model_that_a_word_replaces(call, bert, monkeypatch):
    monkeypatch.setenv("EDGELLM_MODEL", bert)
    assert call("embed", "the cat", "a", "--json")[0] == 0
    status, _, err = call("embed", "./other.gguf", "a")
    assert (status, "other.gguf" in err) == (3, True)


@pytest.mark.parametrize(
    ("args", "stdin", "status", "sentence"),
    [
        ((), None, 2, "there is no model"),
        (("{bert}",), None, 2, "there is no text"),
        (("{bert}",), "", 2, "there is no text"),
        (("{bert}",), "a\n\nb\n", 2, "text 2 is empty"),
        (("{bert}", "a", "--input", "x"), None, 2, "one of them"),
        (("{bert}", "--input", "{here}/none.txt"), None, 3, "none.txt"),
        (("{bert}", "--input", "{here}/bad.jsonl"), None, 2, "bad.jsonl, line 2"),
        (("{bert}", "--input", "{here}/latin.txt"), None, 2, "not UTF-8"),
        (("{bert}", "a", "-o", "{here}/x.txt"), None, 2, ".npy"),
        (("{bert}", "a", "-o", "{here}/no/x.npy"), None, 1, "does not exist"),
        (("{bert}", "a", "--backend", "mlx"), None, 1, "no encoders"),
        (("nowhere.gguf", "a"), None, 3, "nowhere.gguf"),
    ],
)
def test_one_sentence_for_what_is_wrong(call, bert, tmp_path: Path, args, stdin, status, sentence):
    (tmp_path / "bad.jsonl").write_text('"a"\n[1]\n')
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    filled = [arg.format(bert=bert, here=tmp_path) for arg in args]
    found, out, err = call("embed", *filled, stdin=stdin)
    assert (found, out) == (status, "")
    assert sentence in err
