"""Vectors of texts: those of transformers' golden files, and of a model whose vectors are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgellm
import tiny
import tiny_encoders
from edgellm.api.embed import LoadedEmbedder, load_embedder
from edgellm.backends.base import CancelledError
from edgellm.backends.llama_cpp import embedder as native
from edgellm.errors import BackendError, ContextOverflowError, NotFoundError, UsageError
from edgellm_converters.pipeline import convert
from tinygguf import BOS, WIDTH, byte_token, write_tiny

GOLDEN = Path(__file__).parents[1] / "golden" / "transformers"
PROMPT = "the cat sat on the  mat"
TEXTS = ["the cat sat on the mat", "سلام", "a", "the mat " * 9, "کتابدار پیر", "cat cat"]
POOLINGS = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
SPECS = {spec.name: spec for spec in tiny_encoders.ENCODERS}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All tiny encoders as GGUF files, in float32."""
    folder = tmp_path_factory.mktemp("encoders")
    found = {}
    for name, write in tiny.ENCODERS.items():
        found[name] = folder / f"{name}.gguf"
        convert(write(folder / name), found[name], dtype="f32")
    return found


@pytest.fixture(scope="module")
def bert(files: dict[str, Path]) -> Iterator[LoadedEmbedder]:
    with load_embedder(files["bert"], threads=1) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder whose vector of a token is that token's one-hot, whatever stood before it."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context=2048)


def unit(vector: np.ndarray) -> np.ndarray:
    wide = np.asarray(vector, np.float64)
    return wide / np.linalg.norm(wide)


@pytest.mark.parametrize("name", tiny.ENCODERS)
def test_vectors_are_those_of_transformers(name: str, files: dict[str, Path]) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    with load_embedder(files[name], threads=1) as embedder:
        # the prompt of the golden file holds a control token's text: its tokens are given
        (found,) = next(iter(embedder._embedder.embed([golden["prompt"]], lambda: False)))
        assert embedder.dimension == len(golden["pooled"])
        files_of = SPECS[name].files
        (mode,) = [
            mode.removeprefix("pooling_mode_")
            for mode, on in files_of["1_Pooling/config.json"].items()
            if on is True
        ]
        assert embedder.pooling == POOLINGS[mode]
    assert unit(found) @ unit(golden["pooled"]) > 1 - 1e-4


@pytest.mark.parametrize("name", tiny.ENCODERS)
def test_many_texts_at_a_time_are_as_one_by_one_in_their_order(
    name: str, files: dict[str, Path]
) -> None:
    with load_embedder(files[name], threads=1) as embedder:
        together = embedder.embed(TEXTS * 3)
        alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    assert together.shape == (18, embedder.dimension)
    assert together.dtype == np.float32
    # llama.cpp's attention adds up in float16 for a few tokens, and in float32 for more.
    assert ((together * np.tile(alone, (3, 1))).sum(axis=1) > 1 - 2e-6).all()
    products = alone @ alone.T
    assert products[~np.eye(len(TEXTS), dtype=bool)].max() < 1 - 1e-5  # texts are told apart


@pytest.mark.parametrize(("batch", "sequences"), [(16, 64), (512, 2), (1, 1)])
def test_how_texts_are_put_together_changes_nothing(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, batch: int, sequences: int
) -> None:
    with load_embedder(files["jina-bert-v2"], threads=1) as embedder:
        wanted = embedder.embed(TEXTS)
    monkeypatch.setattr(native, "BATCH", batch)
    monkeypatch.setattr(native, "SEQUENCES", sequences)
    with load_embedder(files["jina-bert-v2"], threads=1) as embedder:
        found = embedder.embed(TEXTS)
    assert ((found * wanted).sum(axis=1) > 1 - 2e-6).all()


def test_lengths_are_one_unless_they_are_left(bert: LoadedEmbedder) -> None:
    free = bert.embed(TEXTS, normalize=False)
    lengths = np.linalg.norm(free, axis=1)
    assert np.abs(lengths - 1).min() > 0.1
    assert np.allclose(free / lengths[:, None], bert.embed(TEXTS), atol=1e-6)


def test_a_prefix_is_a_part_of_the_text(bert: LoadedEmbedder) -> None:
    assert np.array_equal(bert.embed(["cat"], prefix="the "), bert.embed(["the cat"]))
    assert not np.array_equal(bert.embed(["cat"], prefix="the "), bert.embed(["cat"]))


def test_no_texts_give_no_vectors(bert: LoadedEmbedder) -> None:
    assert bert.embed([]).shape == (0, bert.dimension)


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_is_refused_by_its_number(bert: LoadedEmbedder, text: str) -> None:
    with pytest.raises(UsageError, match="text 2 is empty"):
        bert.embed(["a", text])


def test_one_string_is_not_taken_for_its_letters(bert: LoadedEmbedder) -> None:
    with pytest.raises(UsageError, match="a list of texts"):
        bert.embed("abc")


def test_a_long_text_is_an_error_or_cut_and_reported(bert: LoadedEmbedder) -> None:
    long = "the cat " * 100
    count = len(bert.tokenize(long))
    assert bert.max_tokens == 128 < count
    with pytest.raises(ContextOverflowError, match=rf"text 2 \('the cat.*has {count} tokens.*128"):
        bert.embed(["a", long])
    cut: list[tuple[int, int]] = []
    found = bert.embed(["a", long], truncate=True, cut=lambda *each: cut.append(each))
    assert cut == [(1, count)]
    # what is left is the beginning, and the tokens around a text stay around it
    start, *inner, end = bert.tokenize(long)
    (wanted,) = next(iter(bert._embedder.embed([[start, *inner[:126], end]], lambda: False)))
    assert np.allclose(found[1], unit(wanted), atol=1e-6)


def test_the_longest_text_fits(bert: LoadedEmbedder) -> None:
    text = "a " * 126
    assert len(bert.tokenize(text)) == 128
    assert np.isfinite(bert.embed([text])).all()


def test_progress_and_an_end_on_demand(bert: LoadedEmbedder) -> None:
    seen: list[tuple[int, int]] = []
    bert.embed(["a b c d e f"] * 150, progress=lambda *each: seen.append(each))
    assert seen[-1] == (150, 150)
    assert len(seen) > 2
    with pytest.raises(CancelledError):
        bert.embed(["a"], cancelled=lambda: True)
    assert bert.embed(["a"]).shape == (1, bert.dimension)


# -- decoders -------------------------------------------------------------------------------------


def test_a_decoder_s_last_token_and_mean(writer: Path) -> None:
    with load_embedder(writer, pooling="last", threads=1) as embedder:
        assert (embedder.dimension, embedder.pooling) == (WIDTH, "last")
        found = embedder.embed(["ab", "c", "xم"])
    assert [row.argmax() for row in found] == [byte_token(n) for n in (0x62, 0x63, 0x85)]
    assert np.allclose(found.max(axis=1), 1, atol=1e-3)
    with load_embedder(writer, pooling="mean", threads=1) as embedder:
        (found,) = embedder.embed(["ab"])
    wanted = np.zeros(WIDTH)
    wanted[[BOS, byte_token(0x61), byte_token(0x62)]] = 3**-0.5
    assert np.allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_text_longer_than_a_batch(writer: Path, pooling: str) -> None:
    """The context grows for it; a causal one is evaluated in steps for the last token."""
    with load_embedder(writer, pooling=pooling, threads=1) as embedder:
        long = "a" * 1500 + "b"
        found = embedder.embed(["x", long, "x"])
    (first, second) = (byte_token(0x61), byte_token(0x62))
    assert found[1].argmax() == (second if pooling == "last" else first)
    assert np.array_equal(found[0], found[2])
    if pooling == "mean":
        assert found[1][second] / found[1][first] == pytest.approx(1 / 1500, rel=0.02)


def test_a_decoder_needs_a_pooling(writer: Path) -> None:
    with pytest.raises(UsageError, match="does not say how vectors"):
        load_embedder(writer)
    with pytest.raises(UsageError, match="no pooling is called 'max'"):
        load_embedder(writer, pooling="max")


# -- what embeds nothing --------------------------------------------------------------------------


def test_mlx_says_why_before_it_looks_for_the_model() -> None:
    with pytest.raises(BackendError, match=r"mlx cannot embed texts: .* no encoders"):
        load_embedder("nowhere.gguf", backend="mlx")


def test_a_folder_is_led_to_convert(tmp_path: Path) -> None:
    folder = tiny.ENCODERS["bert"](tmp_path / "bert")
    with pytest.raises(BackendError, match="mlx-lm runs no encoders") as caught:
        load_embedder(folder)
    assert "edgellm convert" in str(caught.value.hint)


def test_a_translator_is_refused(tmp_path: Path) -> None:
    folder = tiny.TRANSLATORS["t5"](tmp_path / "t5")
    convert(folder, tmp_path / "t5.gguf", dtype="f32")
    with pytest.raises(BackendError, match="an encoder and a decoder"):
        load_embedder(tmp_path / "t5.gguf")


def test_a_ranking_model_is_refused(tmp_path: Path) -> None:
    import gguf

    folder = tiny.ENCODERS["bert"](tmp_path / "bert")
    path = tmp_path / "rank.gguf"
    convert(folder, path, dtype="f32")
    field = gguf.GGUFReader(path, "r+").fields["bert.pooling_type"]
    field.parts[field.data[0]][0] = 4
    del field
    with pytest.raises(BackendError, match="ranks pairs of texts"):
        load_embedder(path)


def test_load_leads_an_encoder_to_embed(files: dict[str, Path]) -> None:
    with pytest.raises(BackendError, match="writes no text") as caught:
        edgellm.load(files["bert"])
    assert "edgellm embed" in str(caught.value.hint)


def test_a_closed_one_says_so(files: dict[str, Path]) -> None:
    embedder = load_embedder(files["bert"], threads=1)
    embedder.close()
    embedder.close()
    with pytest.raises(UsageError, match="closed"):
        embedder.embed(["a"])
    with pytest.raises(NotFoundError):
        load_embedder("nowhere.gguf")
