"""The texts that the package ships: what they hold, and that the two sets are disjoint."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from pathlib import Path

import pytest

import edgellm.quantization
from edgellm.evaluate.texts import Text
from edgellm.quantization.calibration import calibration_texts, evaluation_texts

FOLDER = Path(edgellm.quantization.__file__).parent / "texts"
FILES = sorted(FOLDER.glob("*/*"))


def words(text: Text) -> str:
    messages = [m.content for messages in text.conversations for m in messages]
    return "\n".join([text.content, *messages])


def size(texts: tuple[Text, ...], *languages: str) -> int:
    chosen = [t for t in texts if t.language in languages or not languages]
    return sum(len(words(text).encode()) for text in chosen)


def squeezed(texts: tuple[Text, ...]) -> list[str]:
    return [re.sub(r"\s+", " ", words(text)) for text in texts]


def test_every_file_is_a_text():
    assert len(calibration_texts()) + len(evaluation_texts()) == len(FILES)
    for texts in (calibration_texts(), evaluation_texts()):
        assert len({text.name for text in texts}) == len(texts)


def test_the_sizes_and_languages_of_the_sets():
    texts = calibration_texts()
    assert size(texts) > 100_000
    assert size(texts, "fa") > 0.8 * size(texts, "en")
    assert size(texts, "code") > 20_000
    assert size(evaluation_texts()) > 24_000
    for found in (texts, evaluation_texts()):
        assert {"en", "fa", "code", "mul"} <= {text.language for text in found}
        assert sum(len(text.conversations) for text in found) >= 5


@pytest.mark.parametrize("texts", [calibration_texts, evaluation_texts])
@pytest.mark.parametrize(
    "sign", ["ß", "ç", "ñ", "ж", "的", "の", "ة", "म", "ğ", "پ", "\u200c", "۷", "{", "\\int"]
)
def test_each_script_is_there(texts, sign):
    assert any(sign in words(text) for text in texts())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_clean(path):
    text = path.read_bytes().decode("utf-8")
    assert unicodedata.normalize("NFC", text) == text
    assert text.endswith("\n")
    assert "\r" not in text
    strange = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cn", "Co")}
    assert strange <= {"\n", "\t", "\u200c"}
    # A non-joiner stands between two letters, or it does nothing.
    assert not re.search(r"\u200c(?!\w)|(?<!\w)\u200c", text.replace("\\u200c", ""))


@pytest.mark.parametrize("path", [p for p in FILES if ".fa." in p.name], ids=lambda p: p.name)
def test_persian_is_written_with_persian_letters(path):
    assert not set("يكىة٠١٢٣٤٥٦٧٨٩") & set(path.read_text("utf-8"))


def test_the_sets_share_no_sentence():
    def runs(texts: tuple[Text, ...], count: int) -> set[tuple[str, ...]]:
        found = set()
        for text in squeezed(texts):
            parts = text.split(" ")
            found |= {tuple(parts[i : i + count]) for i in range(len(parts) - count + 1)}
        return found

    def strings(texts: tuple[Text, ...], count: int) -> set[str]:
        found = set()
        for text in squeezed(texts):
            found |= {text[i : i + count] for i in range(len(text) - count + 1)}
        return found

    assert not runs(calibration_texts(), 8) & runs(evaluation_texts(), 8)
    assert not strings(calibration_texts(), 40) & strings(evaluation_texts(), 40)


def test_conversations_take_turns():
    for text in (*calibration_texts(), *evaluation_texts()):
        for messages in text.conversations:
            roles = [m.role for m in messages if m.role != "system"]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
            assert len(messages) - len(roles) <= (messages[0].role == "system")


def test_the_texts_are_in_the_wheel():
    """Hatchling takes whatever a package's folder holds, unless git ignores it."""
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder
    root = FOLDER.parents[2]
    if not (root / "pyproject.toml").exists():
        pytest.skip("the package is installed, not a source tree")
    config = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    assert config["build-system"]["build-backend"] == "hatchling.build"
    taken = {Path(file.path) for file in builder(str(root)).recurse_included_files()}
    assert {*FILES, FOLDER / "README.md"} <= taken
