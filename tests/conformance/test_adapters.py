"""LoRA adapters beside a model: what every backend must compute with them, and without again."""

from __future__ import annotations

import ctypes
import json
from dataclasses import replace

import numpy as np
import pytest

import adapter_folders as adapters
import edgellm
import tiny
from edgellm.api.fit import checked_needs
from edgellm.backends.base import LoadOptions, Sampling
from edgellm.errors import BackendError, UsageError
from edgellm.evaluate.scorers import inspect
from edgellm.generate.engine import GenerateOptions
from edgellm.models.adapter import prepare_adapters
from edgellm_converters.adapters.convert import convert_adapter
from edgellm_converters.architectures.base import Side
from edgellm_converters.errors import ConvertersError

GREEDY = Sampling(temperature=0)
IDS = [1, 5, 9, 77, 12, 30]
# Shares of the logits' standard deviation: keys and values are kept in float16 by one backend.
SAME, OTHER = 2e-3, 0.2
FIRST = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
SECOND = ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj", "lm_head"]


def never() -> bool:
    return False


class Places:
    """A model of a backend, two adapters of it, and weights with both merged by hand."""

    def __init__(self, subject, folder) -> None:
        self.subject, self.folder = subject, folder
        self.hf = tiny.llama(folder / "hf")
        config = self.hf / "config.json"  # long enough for states on disk
        config.write_text(
            json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 2048})
        )
        self.path = subject.convert(self.hf, folder / "base")
        first = adapters.write_peft(folder / "first", self.hf, FIRST)
        second = adapters.write_peft(folder / "second", self.hf, SECOND, rank=8, alpha=3.0)
        self.first, self.second = str(folder / "first"), str(folder / "second")
        half = adapters.merged(self.hf, folder / "half", first, 0.5)
        both = adapters.merged(half, folder / "both", second, -1.5)
        self.merged = subject.convert(both, folder / "merged")

    def load(self, *given):
        checked_needs(self.path)
        prepared = prepare_adapters([*given], self.path)
        options = LoadOptions(threads=self.subject.options.threads, adapters=prepared)
        return self.subject.backend.load(self.path, options, never)

    def logits(self, path, *given):
        candidate = replace(inspect(path), adapters=prepare_adapters([*given], path))
        scorer = candidate.open(64, self.subject.options, never)
        try:
            return np.array(scorer.extend(IDS, never, outputs=True))
        finally:
            scorer.close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def places(subject, tmp_path_factory):
    return Places(subject, tmp_path_factory.mktemp("adapters"))


def raw_logits(context) -> bytes:
    """The logits after the last token, bit by bit."""
    if hasattr(context, "_logits"):
        return np.array(context._logits).tobytes()
    native, model = context._native, context._model
    found = native.llama_get_logits_ith(context._context, -1)
    return ctypes.string_at(found, 4 * model.vocabulary_size)


def written(context, tokens, count=8) -> list[bytes | None]:
    context.prefill(tokens, GREEDY, never)
    return [context.next_piece() for _ in range(count)]


def test_two_adapters_with_scales_are_the_merged_weights(places):
    found = places.logits(places.path, (places.first, 0.5), (places.second, -1.5))
    wanted, base = places.logits(places.merged), places.logits(places.path)
    assert np.abs(found - wanted).max() <= SAME * wanted.std()
    assert np.abs(base - wanted).max() > OTHER * wanted.std()
    # Each counts, and neither does where its scale is 0.
    for one in (places.first, places.second):
        assert np.abs(places.logits(places.path, (one, 1.0)) - base).max() > OTHER * base.std()
    none = places.logits(places.path, (places.first, 0.0), (places.second, 0.0))
    assert none.tobytes() == base.tobytes()


def test_without_an_adapter_all_is_as_it_was(places):
    plain, adapted = places.load(), places.load((places.first, 0.0), (places.second, 1.0))
    alone, context = plain.open_context(64), adapted.open_context(64)
    alone.prefill(IDS, GREEDY, never)
    exact = raw_logits(alone)
    without = written(alone, IDS)
    for scales in ([0.0, 1.0], [3.0, 1.0], [3.0, 0.0]):
        context.adapt(scales)
        context.prefill(IDS, GREEDY, never)
        assert raw_logits(context) != exact
    assert written(context, IDS) != without
    before = context.prefills
    context.adapt([0.0, 0.0])
    assert (list(context.held), context.prefills) == ([], before + 1)
    assert context.prefill(IDS, GREEDY, never) == 0
    assert raw_logits(context) == exact
    assert written(context, IDS) == without
    # The same scales again drop nothing.
    context.adapt([0.0, 0.0])
    assert context.prefill(IDS, GREEDY, never) == len(IDS) - 1
    for each in (alone, context, plain, adapted):
        each.close()


def test_each_context_has_its_own_scales(places):
    model = places.load((places.first, 2.0))
    one, other = model.open_context(64), model.open_context(64)
    other.adapt([0.0])
    one.prefill(IDS, GREEDY, never)
    with_it = raw_logits(one)
    other.prefill(IDS, GREEDY, never)
    without = raw_logits(other)
    one.adapt([0.0])
    one.adapt([2.0])
    one.prefill(IDS, GREEDY, never)
    assert raw_logits(one) == with_it != without
    for each in (one, other, model):
        each.close()


@pytest.mark.parametrize("form", ["peft", "mlx", "gguf"])
def test_every_form_of_an_adapter_is_taken(form, places, tmp_path):
    """What is not the backend's own is converted into the cache, once."""
    given = places.first
    if form != "peft":
        to = Side.MLX if form == "mlx" else Side.GGUF
        given = str(tmp_path / ("first" if form == "mlx" else "first.gguf"))
        convert_adapter(places.folder / "first", places.hf, tmp_path / given, to=to)
    [prepared] = prepare_adapters([(given, 1.0)], places.path)
    native = form == ("mlx" if places.subject.folders else "gguf")
    assert (prepared.path == prepared.source) is native
    assert (prepared.name, prepared.rank) == ("first", 4)
    again = prepare_adapters([(given, 1.0)], places.path)
    assert again == (prepared,)
    found = places.logits(places.path, (given, 1.0))
    wanted = places.logits(places.path, (places.first, 1.0))
    assert np.abs(found - wanted).max() <= 1e-5 * wanted.std()


def test_an_adapter_of_another_model_is_a_sentence(places, tmp_path):
    wide = tiny.MODELS["qwen2"](tmp_path / "wide")
    wide_modules = [name for name in adapters.adaptable(wide) if "mlp" in name]
    adapters.write_peft(tmp_path / "other", wide, wide_modules, rank=2)
    convert_adapter(tmp_path / "other", wide, tmp_path / "other.gguf", to=Side.GGUF)
    adapters.write_mlx(tmp_path / "deeper", {"model.layers.7.mlp.up_proj": (96, 64)})
    adapters.write_mlx(tmp_path / "wider", {"model.layers.0.mlp.up_proj": (97, 64)})
    adapters.write_mlx(tmp_path / "norm", {"model.layers.0.input_layernorm": (64, 64)})
    # MLX's own folders do not say of which architecture they are.
    for given in ("other.gguf", "deeper", "wider", "norm")[places.subject.folders :]:
        with pytest.raises((ConvertersError, BackendError)) as caught:
            places.load((str(tmp_path / given), 1.0))
        assert str(tmp_path / given) in str(caught.value), caught.value
        assert "\n" not in str(caught.value)


def test_the_api_switches_adapters(places):
    options = GenerateOptions(GREEDY, 8)
    with edgellm.load(places.path) as plain:
        wanted = plain.complete("the cat", options=options).read().text
    given = [f"{places.first}:0", (places.second, 2)]
    with edgellm.load(places.path, lora=given) as model:
        assert [(a.name, a.scale) for a in model.adapters] == [("first", 0), ("second", 2)]
        assert model.needs.weights > checked_needs(places.path).weights
        changed = model.complete("the cat", options=options).read().text
        model.adapt({"second": 0})
        assert model.complete("the cat", options=options).read().text == wanted != changed
        with pytest.raises(UsageError, match="no adapter is called x") as caught:
            model.adapt({"x": 1})
        assert "first, second" in (caught.value.hint or "")
        with pytest.raises(UsageError, match="must lie between"):
            model.adapt({"first": float("nan")})


def test_a_state_of_another_adapter_is_never_used(places):
    text = "the cat sat on the mat and " * 90
    options = GenerateOptions(GREEDY, 1)

    def restored(*lora) -> int:
        with edgellm.load(places.path, lora=list(lora), prompt_cache=10**9) as model:
            model.complete(text, options=options, on_overflow="shift").read()
            return model.restored_tokens

    first, second = places.first, places.second
    assert restored() == 0
    assert restored() > 200
    assert restored(first) == 0
    assert restored(first) > 200
    assert restored(f"{first}:0.5") == 0
    assert restored(second) == 0
    assert restored(first, second) == 0
    assert restored(f"{first}:0") > 200  # one that is off is none
    with edgellm.load(places.path, lora=[first], prompt_cache=10**9) as model:
        model.adapt({"first": 0})
        model.complete(text, options=options, on_overflow="shift").read()
        assert model.restored_tokens > 200
        model.adapt({"first": 0.25})
        before = model.restored_tokens
        model.complete(text, options=options, on_overflow="shift").read()
        assert model.restored_tokens == before


def test_several_answers_are_written_with_the_adapters(places):
    warm = Sampling(temperature=1.5, seed=4)
    with edgellm.load(
        places.path, backend=places.subject.name, lora=[(places.first, 2.0)]
    ) as loaded:
        texts = {}
        for scale in (2.0, 0.0, -1.5):
            loaded.adapt({loaded.adapters[0].name: scale})
            found = loaded.samples("the cat", 2, sampling=warm, max_tokens=9, raw=True)
            one = loaded.complete("the cat", special=True, sampling=warm, max_tokens=9).read()
            texts[scale] = found.candidates[0].sample.text
            assert texts[scale] == one.text
    assert len({*texts.values()}) == 3
