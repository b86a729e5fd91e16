"""`edgellm tokenize` on a vocabulary that is known, against llama.cpp, and on a folder."""

from __future__ import annotations

import importlib.util
import json

import pytest
from tokenizers import Tokenizer

import tiny
from edgellm.api.tokenize import load_tokenizer
from edgellm.errors import UsageError
from edgellm_converters.pipeline import convert
from llama_model import opened
from tinygguf import BOS, END, SPACE, START, byte_token, write_tiny


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


def test_numbers_and_pieces(call, path):
    status, out, err = call("tokenize", path, "a م\n")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{BOS:>3}  <s>",
        f"{byte_token(0x61):>3}  a",
        f"{SPACE:>3}  ␣",
        f"{byte_token(0xD9):>3}  <0xD9>",
        f"{byte_token(0x85):>3}  <0x85>",
        f"{byte_token(0x0A):>3}  \\n",
        "6 tokens",
    ]


def test_json_and_numbers_alone(call, path):
    status, out, _ = call("tokenize", path, "ab", "--json")
    assert status == 0
    wanted = [BOS, byte_token(0x61), byte_token(0x62)]
    assert json.loads(out) == {
        "ids": wanted,
        "pieces": ["<s>", "a", "b"],
        "count": 3,
        "model": path,
    }
    assert call("tokenize", path, "ab", "--ids") == (0, " ".join(map(str, wanted)) + "\n", "")


def test_control_texts_ends_and_the_template(call, path):
    def ids(*args: str, **more: str) -> list[int]:
        status, out, _ = call("tokenize", path, *args, "--json", **more)
        assert status == 0
        return json.loads(out)["ids"]

    plain = [byte_token(value) for value in b"<|im_end|>"]
    assert ids("<|im_end|>") == [BOS, *plain]
    assert ids("<|im_end|>", "--special", "--no-bos") == [END]
    assert ids("", "--no-bos") == []
    chat = ids("<|im_end|>", "--chat")
    assert chat[:2] == [BOS, START]
    assert chat.count(END) == 1  # a person's text stays text
    assert ids(stdin="ab\n") == [BOS, *map(byte_token, b"ab\n")]


def test_it_is_what_llama_cpp_says(smollm2, call):
    text = "سلام، می‌روم! <|im_end|> 12"
    with opened(smollm2, vocab_only=True) as native:
        wanted = native.tokenize(text), native.tokenize(text, parse=False)
    for flags, ids in zip((["--special"], []), wanted, strict=True):
        _, out, _ = call("tokenize", str(smollm2), text, "--json", *flags)
        assert json.loads(out)["ids"] == ids


def test_pieces_put_together_are_the_text(smollm2):
    text = "سلام، می‌روم! naïve 🙂"
    with load_tokenizer(smollm2) as tokenizer:
        tokens = tokenizer.tokenize(text)
        raw = b"".join(tokenizer._tokenizer.token_bytes(token) for token in tokens)
        with pytest.raises(UsageError, match="no token"):
            tokenizer.pieces([10**6])
        with pytest.raises(UsageError, match="no token"):
            tokenizer.pieces([-1])
    assert raw.decode() == text


@pytest.mark.parametrize("name", ["bert", "roberta", "modern-bert", "gemma-embedding"])
def test_an_encoder_has_ends(name, call, tmp_path):
    folder = tiny.ENCODERS[name](tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    wanted = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("the cat سلام").ids
    _, out, _ = call("tokenize", str(tmp_path / "x.gguf"), "the cat سلام", "--ids")
    assert [int(word) for word in out.split()] == wanted


@pytest.mark.filterwarnings("default")
def test_a_folder_gives_the_same_as_its_file(call, tmp_path):
    if importlib.util.find_spec("mlx_lm") is None:
        pytest.skip("needs the extra: pip install 'edgellm[mlx]'")
    folder = tiny.MODELS["llama-bpe"](tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    for text in ("the cat سلام", ""):
        found = [
            json.loads(call("tokenize", str(each), text, "--json")[1])
            for each in (folder, tmp_path / "x.gguf")
        ]
        assert found[0]["ids"] == found[1]["ids"]
        assert found[0]["pieces"] == found[1]["pieces"]


@pytest.mark.parametrize(
    ("args", "status", "sentence"),
    [
        (("{path}", "-p", "a", "--chat", "--special"), 2, "--special has no place"),
        (("{path}",), 2, "there is no text"),
        (("{path}", "a", "b"), 2, "unexpected word"),
        (("nowhere.gguf", "a"), 3, "nowhere.gguf"),
    ],
)
def test_one_sentence_for_what_is_wrong(call, path, args, status, sentence):
    found, out, err = call("tokenize", *(arg.format(path=path) for arg in args))
    assert (found, out) == (status, "")
    assert sentence in err
