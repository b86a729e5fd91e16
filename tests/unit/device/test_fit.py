"""What fits: contexts against the demand itself, layers against sums done by hand."""

from __future__ import annotations

import pytest

from edgellm.device.fit import RESERVE, Needs, choose_context, layers_that_fit
from edgellm.device.memory import Runtime
from edgellm.errors import DoesNotFitError

MB = 10**6
# 4 layers of 4 heads of 128 in keys and values: 4 * 2 * 512 * 2 = 8192 bytes a token in f16.
METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 4,
    "llama.context_length": 8192,
    "llama.embedding_length": 512,
    "llama.feed_forward_length": 1536,
    "llama.attention.head_count": 4,
    "llama.vocab_size": 4096,
}
LAYER = 10 * MB
TENSORS = {f"blk.{at}.ffn_up.weight": LAYER - 100 for at in range(4)}
TENSORS |= {f"blk.{at}.attn_norm.weight": 100 for at in range(4)}
TENSORS |= {"token_embd.weight": 4 * MB, "output.weight": 3 * MB, "output_norm.weight": 2048}
NEEDS = Needs(METADATA, TENSORS)
PLENTY = 10**12


def total(context: int, cache: str = "f16") -> int:
    demand = NEEDS.demand(Runtime(context, cache))
    assert demand is not None
    assert demand.weights == 4 * LAYER + 7 * MB + 2048
    assert demand.cache == context * 8192 * {"f16": 64, "q8_0": 34, "q4_0": 18}[cache] // 64
    return demand.total


def test_with_room_enough_it_is_what_was_wanted_or_the_usual() -> None:
    for wanted, context in ((None, 4096), (8192, 8192), (100, 100)):
        choice = choose_context(NEEDS, PLENTY, wanted=wanted)
        assert (choice.context, choice.reduced) == (context, False)
    short = Needs(METADATA | {"llama.context_length": 2048}, TENSORS)
    assert choose_context(short, PLENTY).context == 2048


@pytest.mark.parametrize("context", [512, 1024, 3840])
def test_it_is_the_largest_that_fits(context: int) -> None:
    choice = choose_context(NEEDS, total(context))
    assert (choice.context, choice.usual, choice.reduced) == (context, 4096, True)
    assert choice.demand is not None
    assert choice.demand.total == total(context)
    # a byte less, and it is a cell of 256 tokens less
    if context > 512:
        assert choose_context(NEEDS, total(context) - 1).context == context - 256


def test_a_context_that_would_be_of_no_use_is_an_error() -> None:
    with pytest.raises(DoesNotFitError, match=r"model\.gguf does not fit: \d+ MB") as caught:
        choose_context(NEEDS, total(512) - 1, name="model.gguf")
    assert "at 512 tokens its weights take 47 MB, the cache (f16) 4 MB" in str(caught.value)
    assert "--cache-type q8_0 makes 512 tokens fit" in (caught.value.hint or "")
    with pytest.raises(DoesNotFitError) as caught:
        choose_context(NEEDS, MB)
    assert (caught.value.hint or "").startswith("a smaller model")


def test_what_was_wanted_is_refused_with_what_would_fit() -> None:
    with pytest.raises(DoesNotFitError, match="at 8192 tokens") as caught:
        choose_context(NEEDS, total(5120), wanted=8192)
    assert caught.value.hint == (
        "--ctx 5120 fits; --cache-type q8_0 makes 8192 tokens fit; --no-fit loads it all the same"
    )
    with pytest.raises(DoesNotFitError) as caught:
        choose_context(NEEDS, total(5120, "q4_0"), wanted=8192, cache="q8_0")
    assert "--cache-type" not in (caught.value.hint or "")


def test_a_type_of_cache_that_the_heads_do_not_allow_is_no_hint() -> None:
    # heads of 48, as those of stories15M, are no whole blocks of 32
    narrow = Needs(METADATA | {"llama.attention.key_length": 48}, TENSORS)
    with pytest.raises(DoesNotFitError) as caught:
        choose_context(narrow, total(5120), wanted=8192)
    assert "--cache-type" not in (caught.value.hint or "")


def test_metadata_that_do_not_tell_are_no_reason_to_refuse() -> None:
    unknown = Needs({"general.architecture": "other"}, TENSORS)
    choice = choose_context(unknown, 1)
    assert (choice.context, choice.demand) == (4096, None)
    assert unknown.largest_context(1, 4096) is None


def test_layers_go_to_an_accelerator_from_the_last_on() -> None:
    runtime = Runtime(1024)
    demand = NEEDS.demand(runtime)
    assert demand is not None
    layer = LAYER + 1024 * 2048  # with its keys and values
    output = 3 * MB + 2048
    once = RESERVE + demand.compute
    for free, count in (
        (once, 0),
        (once + output, 1),
        (once + output + 2 * layer, 3),
        (once + output + 3 * layer - 1, 3),
        (once + output + 4 * layer, None),
    ):
        assert layers_that_fit(NEEDS, runtime, free) == count
    assert layers_that_fit(NEEDS, runtime, once, unified=True) is None
    assert layers_that_fit(NEEDS, runtime, 0) is None  # it does not tell


def test_tied_embeddings_are_copied_to_the_accelerator() -> None:
    tensors = {name: size for name, size in TENSORS.items() if name != "output.weight"}
    needs, runtime = Needs(METADATA, tensors), Runtime(1024)
    demand = needs.demand(runtime)
    assert demand is not None
    once = RESERVE + demand.compute
    assert layers_that_fit(needs, runtime, once + 4 * MB) == 0
    assert layers_that_fit(needs, runtime, once + 4 * MB + 2048) == 1
