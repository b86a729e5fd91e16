"""Whole measurements on tiny models, against llama.cpp's logits taken one token at a time."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

import tiny
from edgellm.api.convert import convert
from edgellm.api.quantize import quantize
from edgellm.backends.base import CancelledError, LoadOptions
from edgellm.backends.llama_cpp import scorer as llama_cpp_scorer
from edgellm.errors import BackendError, TemplateError, UsageError
from edgellm.evaluate import compare as module
from edgellm.evaluate.chunks import cut
from edgellm.evaluate.compare import Result, compare
from edgellm.evaluate.texts import Text
from edgellm.generate.template import Message
from llama_model import opened
from tinygguf import TEMPLATE, write_tiny

CONTEXT = 32
PROSE = Text("prose", "en", content="the quick brown fox and the lazy dog, " * 12)
PERSIAN = Text("fa", "fa", content="کتاب روی میز است و باران می‌بارد. " * 8)
ONE_THREAD = LoadOptions(threads=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model in float32, in Q8_0 and Q4_0, and with the values of Q4_0 in float32 again."""
    root = tmp_path_factory.mktemp("models")
    tiny.llama(root / "hf")
    convert(root / "hf", root / "f32.gguf", dtype="f32")
    quantize(root / "f32.gguf", root / "q8.gguf", "Q8_0", method="rtn")
    quantize(root / "f32.gguf", root / "q4.gguf", "Q4_0", method="rtn")
    convert(root / "q4.gguf", root / "coarse.gguf", dtype="f32")
    return root


def measure(reference, models, texts, **changes) -> Result:
    options = {"context": CONTEXT, "options": ONE_THREAD, **changes}
    return compare(reference, models, texts, **options)


def by_hand(reference, model, text):
    """Perplexities and KL divergences in float64: (n,) of each, and where the likeliest agree."""
    with opened(reference) as one, opened(model) as other:
        tokens = one.tokenize(text.content, parse=False)
        rows = []
        for at in range(0, len(tokens) - CONTEXT + 1, CONTEXT):
            chunk = [tokens[0], *tokens[at + 1 : at + CONTEXT]]
            both = [np.array(m.logits(chunk[:-1])[CONTEXT // 2 :]) for m in (one, other)]
            q, p = (
                x - np.log(np.exp(x - x.max(1)[:, None]).sum(1))[:, None] - x.max(1)[:, None]
                for x in both
            )
            follows = chunk[CONTEXT // 2 + 1 :]
            here = np.arange(len(follows))
            rows.append(
                np.stack(
                    [
                        -q[here, follows],
                        -p[here, follows],
                        (np.exp(q) * (q - p)).sum(1),
                        q.argmax(1) == p.argmax(1),
                    ]
                )
            )
    return np.concatenate(rows, axis=1)


def test_a_measurement_is_that_of_logits_taken_another_way(models):
    result = measure(models / "f32.gguf", [models / "coarse.gguf"], [PROSE, PERSIAN])
    assert result.context == CONTEXT
    assert result.comparisons == ()
    (found,) = result.evaluations
    wanted = [
        by_hand(models / "f32.gguf", models / "coarse.gguf", each) for each in (PROSE, PERSIAN)
    ]
    for scores, (reference_nll, nll, kld, agree) in zip(found.scores, wanted, strict=True):
        # Keys and values in float16 and other orders of sums on one side.
        assert scores.reference_nll == pytest.approx(reference_nll, rel=5e-3, abs=5e-3)
        assert scores.nll == pytest.approx(nll, rel=5e-3, abs=5e-3)
        assert scores.kld.mean() == pytest.approx(kld.mean(), rel=1e-2)
        assert (scores.agree == agree).mean() > 0.95
    together = np.concatenate(wanted, axis=1)
    quality = found.quality
    assert quality.tokens == together.shape[1]
    assert quality.perplexity == pytest.approx(np.exp(together[1].mean()), rel=2e-3)
    assert quality.reference_perplexity == pytest.approx(np.exp(together[0].mean()), rel=2e-3)
    assert quality.kld.mean == pytest.approx(together[2].mean(), rel=1e-2)
    assert quality.kld.mean > 1e-4


def test_small_steps_change_nothing_but_rounding(models, monkeypatch):
    """A vocabulary so large that its logits come a few rows at a time is measured alike."""
    arguments = (models / "f32.gguf", [models / "q4.gguf"], [PROSE])
    whole = measure(*arguments).evaluations[0].scores[0]
    monkeypatch.setattr(llama_cpp_scorer, "output_limit", lambda _size, _batch: 4)
    steps = measure(*arguments).evaluations[0].scores[0]
    assert steps.nll.shape == whole.nll.shape
    assert steps.nll == pytest.approx(whole.nll, rel=5e-3)
    assert steps.kld.mean() == pytest.approx(whole.kld.mean(), rel=2e-2)


def test_a_model_against_itself_is_exactly_alike(models):
    path = models / "q4.gguf"
    quality = measure(path, [path], [PROSE]).evaluations[0].quality
    assert quality.kld.maximum == 0
    assert quality.top1_agreement == 100
    assert quality.perplexity == quality.reference_perplexity
    assert quality.perplexity_ratio == 1


def test_a_text_does_not_know_the_one_before(models):
    texts = [PROSE, PERSIAN, replace(PROSE, name="again")]
    one, _, other = measure(None, [models / "f32.gguf"], texts).evaluations[0].scores
    assert np.array_equal(one.nll, other.nll)


def test_several_models_are_compared_with_the_first(models):
    paths = [models / name for name in ("q4.gguf", "q8.gguf", "q4.gguf")]
    result = measure(models / "f32.gguf", paths, [PROSE], seed=3)
    assert [each.model for each in result.evaluations] == paths
    better, same = result.comparisons
    assert better.kld_difference.high < 0
    assert better.kld_ratio.high < 1
    assert same.kld_difference.low == same.kld_difference.high == 0
    again = measure(models / "f32.gguf", paths, [PROSE], seed=3)
    assert again.comparisons == result.comparisons
    alone = measure(None, paths[:2], [PROSE])
    assert alone.comparisons[0].kld_ratio is None
    assert alone.evaluations[0].quality.kld is None
    assert np.array_equal(alone.evaluations[1].scores[0].nll, result.evaluations[1].scores[0].nll)


def test_conversations_are_rendered_with_the_models_template(tmp_path):
    path = write_tiny(tmp_path / "tiny.gguf")
    turns = (Message("user", "abcabc <|im_end|>"), Message("assistant", "abcdefg" * 9))
    talk = Text("talk", "en", conversations=(turns, turns))
    rendered = "".join(f"<|im_start|>{t.role}\n{t.content}<|im_end|>\n" for t in turns)
    with opened(path) as model:
        one = model.tokenize(rendered)
        smuggled = model.tokenize(f"{turns[0].content}", special=False)
    scorer = llama_cpp_scorer.LlamaCppScorer(path, CONTEXT, ONE_THREAD, lambda: False)
    (chunks,) = cut(scorer.tokenizer, [talk], 8, None)
    scorer.close()
    found = [token for chunk in chunks.chunks for token in chunk[1:]]
    # The control token's text inside a message stays text: more tokens than the one.
    longer = len(turns[0].content) - len(smuggled)
    assert len(chunks.chunks) == 2 * (len(one) + longer) // 8
    assert found.count(4) < 2 * one.count(4)
    result = measure(None, [path], [talk])
    assert result.evaluations[0].quality.tokens == 15 * (2 * (len(one) + longer) // CONTEXT)


def test_a_model_without_a_template_reads_messages_as_text(tmp_path):
    path = write_tiny(tmp_path / "plain.gguf", template=None)
    turns = (Message("system", "abc"), Message("user", "defg" * 20))
    talk = Text("talk", "en", conversations=(turns,))
    text = Text("text", "en", content="abc\n\n" + "defg" * 20 + "\n\n")
    one, other = measure(None, [path], [talk, text]).evaluations[0].scores
    assert np.array_equal(one.nll, other.nll)


def test_a_template_without_system_messages_gives_them_to_the_user(tmp_path):
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    )
    path = write_tiny(tmp_path / "strict.gguf", template=source)
    turns = (Message("system", "abc"), Message("user", "defg" * 20))
    joined = (Message("user", f"{turns[0].content}\n\n{turns[1].content}"),)
    talks = [Text(name, "en", conversations=(t,)) for name, t in (("a", turns), ("b", joined))]
    one, other = measure(None, [path], talks).evaluations[0].scores
    assert np.array_equal(one.nll, other.nll)
    lonely = Text("lonely", "en", conversations=(turns[:1],))
    with pytest.raises(TemplateError, match="no"):
        measure(None, [path], [lonely])


def test_progress_comes_to_its_end_and_cancelling_stops(models):
    seen = []
    measure(
        models / "f32.gguf",
        [models / "q4.gguf", models / "q8.gguf"],
        [PROSE],
        max_tokens=3 * CONTEXT - 1,
        progress=lambda done, total: seen.append((done, total)),
    )
    total = 2 * (CONTEXT - 1) * 3
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    stop = threading.Event()
    with pytest.raises(CancelledError):
        measure(
            None,
            [models / "f32.gguf"],
            [PROSE],
            progress=lambda _done, _total: stop.set(),
            cancelled=stop.is_set,
        )


def test_what_cannot_be_measured(models, tmp_path):
    f32, q4 = models / "f32.gguf", models / "q4.gguf"
    with pytest.raises(UsageError, match="no model"):
        measure(None, [], [PROSE])
    with pytest.raises(UsageError, match="no text"):
        measure(None, [f32], [])
    with pytest.raises(UsageError, match=r"context of 4096 .* was trained on 128") as caught:
        measure(f32, [q4], [PROSE], context=4096)
    assert caught.value.hint == "--ctx takes 8 to 128 for this model"
    with pytest.raises(UsageError, match="context of 7 tokens is too short"):
        measure(f32, [q4], [PROSE], context=7)
    with pytest.raises(UsageError, match="at most 31 tokens are not even a chunk, which has 32"):
        measure(f32, [q4], [PROSE], context=32, max_tokens=31)
    with pytest.raises(UsageError, match="short has 2 tokens, and a chunk has 32"):
        measure(f32, [q4], [PROSE, replace(PROSE, name="short", content="a")], context=32)
    plain = write_tiny(tmp_path / "plain.gguf", template=None)
    with pytest.raises(UsageError, match="has a vocabulary of") as caught:
        measure(f32, [plain], [PROSE], context=32)
    assert str(f32) in str(caught.value)
    assert str(plain) in str(caught.value)


def test_another_tokenizer_of_the_same_size_is_refused(models, tmp_path):
    folder = tiny.llama(tmp_path / "hf")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = (t for t in vocabulary if t in "to")
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    with pytest.raises(UsageError, match="they have other tokenizers") as caught:
        measure(models / "f32.gguf", [tmp_path / "x.gguf"], [PROSE], context=32)
    assert str(tmp_path / "x.gguf") in str(caught.value)


def test_logits_that_are_not_numbers_name_their_model(models, tmp_path, monkeypatch):
    data = bytearray((models / "f32.gguf").read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data)
    with pytest.raises(BackendError, match=r"broken\.gguf: the model's logits are not finite"):
        measure(models / "f32.gguf", [broken], [PROSE], context=32)


def test_the_default_context_is_what_a_model_was_trained_on(models):
    longer = Text("a", "en", content="the fox " * 200)
    assert measure(None, [models / "f32.gguf"], [longer], context=None).context == 128
    assert module.DEFAULT_CONTEXT == 512
