"""What every backend must do, on a tiny model whose greedy text is known."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time

import pytest
from tokenizers import Tokenizer

import tiny
from edgellm.api.chat import load
from edgellm.backends.base import CACHE_TYPES, CancelledError, Sampling
from edgellm.errors import BackendError, UsageError
from edgellm.generate.engine import GenerateOptions
from tinygguf import BOS, END, PERSIAN, START, TEMPLATE, WIDTH, byte_token, write_tiny

GREEDY = Sampling(temperature=0)
Q = b"blk.1.attn_q"


def never() -> bool:
    return False


def pieces(context, count: int) -> list[bytes]:
    found = []
    while len(found) < count and (piece := context.next_piece()) is not None:
        found.append(piece)
    return found


def test_metadata(model):
    assert model.chat_template == TEMPLATE
    assert (model.start_token, model.bos_text, model.eos_text) == (BOS, "<s>", "<|im_end|>")
    assert model.trained_context == 8192
    assert re.fullmatch(r"llama, \d+\.\d [MG] weights, \S.*", model.description)


def test_what_a_backend_has(subject, model):
    assert subject.backend.missing() is None
    assert all(device.name for device in subject.backend.accelerators())
    assert model.threads == subject.options.threads
    assert max(model.tokenize(PERSIAN, special=False)) < model.vocabulary_size


def test_it_goes_on_behind_the_end_of_a_text(model, context):
    context.prefill([byte_token(0x0A)], GREEDY, never)
    answer = len(("Hi " + PERSIAN).encode())
    found = [context.next_piece() for _ in range(answer + 5)]
    assert found.index(None) == answer
    assert len(context.held) == answer + 5


def test_control_texts_are_tokens_only_where_asked(model):
    assert model.tokenize("<|im_start|>", special=True) == [START]
    plain = model.tokenize("<|im_start|>", special=False)
    assert plain == [byte_token(value) for value in b"<|im_start|>"]
    assert model.control_text(START) == "<|im_start|>"
    assert model.control_text(byte_token(65)) is None


def test_tokenize_adds_nothing_and_refuses_lone_surrogates(model):
    assert model.tokenize("", special=True) == []
    assert model.tokenize("م", special=False) == [byte_token(0xD9), byte_token(0x85)]
    with pytest.raises(UsageError, match="UTF-8"):
        model.tokenize("\udcff", special=False)


def test_texts_are_composed_where_the_model_does(subject, tmp_path):
    folder = tiny.MODELS["qwen2"](tmp_path / "qwen2")
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": {"type": "NFC"}}))
    wanted = Tokenizer.from_file(str(file))
    model = subject.load(subject.convert(folder, tmp_path / "x"))
    for text in ("\u0627\u0653ب", "e\u0301tait", "the cat"):  # alef and madda, e and acute
        assert model.tokenize(text, special=False) == wanted.encode(text).ids
    model.close()


def test_greedy_text_byte_by_byte_to_the_end(model, context):
    assert context.prefill(model.tokenize("x\n", special=False), GREEDY, never) == 0
    assert b"".join(pieces(context, 99)) == ("Hi " + PERSIAN).encode()


def test_the_same_seed_gives_the_same_text_and_another_one_another(model, context):
    hot = [Sampling(temperature=100, top_k=0, top_p=1, min_p=0, seed=seed) for seed in (1, 1, 2)]
    texts = []
    for sampling in hot:
        context.prefill(model.tokenize("a", special=False), sampling, never)
        texts.append(pieces(context, 12))
    assert texts[0] == texts[1] != texts[2]


def test_top_k_of_one_is_greedy(model, context):
    context.prefill(model.tokenize("a", special=False), Sampling(top_k=1, seed=7), never)
    assert b"".join(pieces(context, 8)) == b"bcdefgab"


def test_a_repeat_penalty_changes_the_text(model, context):
    strong = Sampling(temperature=0, frequency_penalty=100, repeat_last_n=64)
    context.prefill(model.tokenize("a", special=False), strong, never)
    assert b"".join(pieces(context, 12)) != b"bcdefgabcdef"


def test_a_repetition_is_broken_off(model, context):
    prompt = model.tokenize("abcdefgabcdefga", special=False)
    context.prefill(prompt, Sampling(temperature=0, dry_multiplier=100), never)
    assert pieces(context, 1) != [b"b"]
    breaker = Sampling(temperature=0, dry_multiplier=100, dry_breakers=["a"])
    context.prefill(prompt, breaker, never)
    assert b"".join(pieces(context, 2)) == b"bc"


@pytest.mark.parametrize("fields", [
    {"mirostat": 1}, {"mirostat": 2}, {"xtc_probability": 0.5}, {"top_n_sigma": 90},
    {"dry_multiplier": 1.0, "typical_p": 0.7},
])  # fmt: skip
def test_ways_to_choose_depend_on_the_seed_alone(model, context, fields):
    texts = []
    for seed in (3, 3, 4):
        sampling = Sampling(temperature=50, top_k=0, top_p=1, min_p=0, seed=seed, **fields)
        context.prefill(model.tokenize("a", special=False), sampling, never)
        texts.append([context.next_piece() for _ in range(15)])
    assert texts[0] == texts[1] != texts[2]


def test_the_penalties_see_the_prompt(model, context):
    strong = Sampling(temperature=0, presence_penalty=100)
    context.prefill(model.tokenize("bba", special=False), strong, never)
    assert pieces(context, 1) != [b"b"]


def test_a_common_prefix_is_kept_and_the_text_stays_the_same(model, context):
    first = model.tokenize("hello there, a", special=False)
    context.prefill(first, GREEDY, never)
    alone = pieces(context, 5)
    second = model.tokenize("hello there, dear d", special=False)
    assert context.prefill(second, GREEDY, never) == len("hello there, ")
    assert b"".join(pieces(context, 3)) == b"efg"
    # what was generated is kept as well, where the next prompt holds it
    third = [*second, *(byte_token(value) for value in b"efgx a")]
    assert context.prefill(third, GREEDY, never) >= len(second) + 2
    assert pieces(context, 5) == alone


def test_the_last_token_is_always_evaluated(model, context):
    tokens = model.tokenize("abc", special=False)
    context.prefill(tokens, GREEDY, never)
    assert context.prefill(tokens, GREEDY, never) == 2
    assert pieces(context, 1) == [b"d"]


def test_a_prompt_as_large_as_the_context(model, context):
    tokens = [byte_token(0x61)] * 64
    context.prefill(tokens, GREEDY, never)
    assert pieces(context, 1) == [b"b"]
    with pytest.raises(BackendError, match="65"):
        context.prefill([*tokens, END], GREEDY, never)


def test_a_prompt_of_several_batches_is_stopped_and_the_context_stays_usable(model):
    context = model.open_context(8192)
    tokens = [byte_token(0x61)] * 8000
    with pytest.raises(CancelledError):
        context.prefill(tokens, GREEDY, lambda: True)
    stop_at = time.monotonic() + 0.01
    with pytest.raises(CancelledError):
        context.prefill(tokens, GREEDY, lambda: time.monotonic() > stop_at)
    context.prefill(tokens[:10], GREEDY, never)
    assert pieces(context, 2) == [b"b", b"c"]
    context.close()


def test_python_ctrl_c_in_a_prompt_raises_keyboard_interrupt(model):
    """The default handler is Python's own: the signal must not be lost inside native code."""
    context = model.open_context(8192)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()

    def evaluate_until_the_signal_comes():
        for _ in range(1000):
            context.prefill([byte_token(0x61)] * 8000, GREEDY, never)
            context.prefill([byte_token(0x62)], GREEDY, never)

    with pytest.raises(KeyboardInterrupt):
        evaluate_until_the_signal_comes()
    timer.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    context.prefill([byte_token(0x61)], GREEDY, never)
    assert pieces(context, 1) == [b"b"]
    context.close()


def test_loading_is_stopped(subject, path):
    with pytest.raises(CancelledError):
        subject.load(path, lambda: True)


def test_what_cannot_be_loaded_is_one_sentence_and_no_log(subject, tmp_path, capfd):
    path = subject.tiny(tmp_path)
    file, name = (path / "model.safetensors", b"1.self_attn.q") if subject.folders else (path, Q)
    file.write_bytes(file.read_bytes().replace(name, name[:-1] + b"x", 1))
    capfd.readouterr()
    reason = rf"{path.name}: \S+ cannot load it: .*1\.\w*attn"
    with pytest.raises(BackendError, match=reason) as caught:
        subject.load(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_unknown_architecture(subject, tmp_path):
    if subject.folders:
        path = subject.tiny(tmp_path)
        config = path / "config.json"
        config.write_text(config.read_text().replace('"llama"', '"nosuch"'))
    else:
        path = subject.tiny(tmp_path, architecture="nosuch")
    with pytest.raises(BackendError, match=r"cannot load it: .*[Mm]odel .*\bnosuch\b"):
        subject.load(path)


def test_a_model_without_a_tokenizer(subject, tmp_path):
    if subject.folders:
        path = subject.tiny(tmp_path)
        (path / "tokenizer.json").unlink()
        (path / "tokenizer_config.json").unlink()
    else:
        path = write_tiny(tmp_path / "tiny.gguf", vocabulary=False)
    with pytest.raises(BackendError, match=rf"{path.name}: .*tokenizer"):
        subject.backend.load(path, subject.options, never)


def test_ctrl_c_while_loading_is_not_lost(subject, path):
    """Raised inside a callback of native code, KeyboardInterrupt would be printed and forgotten."""
    asked = []

    def interrupt_once() -> bool:
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGINT))
        return False

    with pytest.raises(KeyboardInterrupt):
        subject.load(path, interrupt_once)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_closed_says_so_and_does_not_crash(subject, path):
    model = subject.load(path)
    context = model.open_context(64)
    context.prefill(model.tokenize("a", special=False), GREEDY, never)
    context.close()
    with pytest.raises(UsageError, match="closed"):
        context.next_piece()
    with pytest.raises(UsageError, match="closed"):
        context.prefill([byte_token(0x61)], GREEDY, never)
    model.close()
    for use in (
        lambda: model.tokenize("a", special=False),
        lambda: model.open_context(64),
        lambda: model.description,
        lambda: model.chat_template,
    ):
        with pytest.raises(UsageError, match="closed"):
            use()


def test_a_sliding_window_and_a_kept_prefix(subject, tmp_path):
    """Gemma 3 looks at the last tokens only in most layers: cut back, these must still be there."""
    folder = tiny.gemma3(tmp_path / "gemma", max_position_embeddings=2048)
    model = subject.load(subject.convert(folder, tmp_path / "gemma"))
    vocabulary = 40
    tokens = [3 + (number * 7) % vocabulary for number in range(1500)]
    reused, fresh = model.open_context(2048), model.open_context(2048)
    reused.prefill(tokens, GREEDY, never)
    pieces(reused, 20)
    for kept in (1200, 700, 30, 5):
        prompt = [*tokens[:kept], 3 + (kept * 7 + 1) % vocabulary, 9, 11]
        assert reused.prefill(prompt, GREEDY, never) == kept
        fresh.prefill([2], GREEDY, never)  # forgets all
        assert fresh.prefill(prompt, GREEDY, never) <= 1
        assert pieces(reused, 12) == pieces(fresh, 12), kept
    reused.close()
    fresh.close()
    model.close()


def test_the_width_of_the_tiny_model_is_what_its_heads_need():
    assert WIDTH % 5 == 0


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_a_state_goes_through_a_file(subject, model, tmp_path, cache_type):
    tokens = model.tokenize("hello there, dear a", special=False)
    first = model.open_context(64, cache_type)
    first.prefill(tokens, GREEDY, never)
    wanted = pieces(first, 5)
    held = list(first.held)
    assert held == [*tokens, *(byte_token(value) for value in b"bcde")]
    file = tmp_path / "state"
    first.save_state(file)
    first.close()
    second = model.open_context(64, cache_type)
    second.load_state(file, held)
    assert list(second.held) == held
    assert second.prefill(tokens, GREEDY, never) == len(tokens) - 1
    assert pieces(second, 5) == wanted
    second.close()


def test_a_state_of_other_tokens_or_another_type_is_refused(model, context, tmp_path):
    tokens = model.tokenize("hello", special=False)
    context.prefill(tokens, GREEDY, never)
    file = tmp_path / "state"
    context.save_state(file)
    other = model.open_context(64, "q8_0")
    for to, held in ((context, tokens[:-1]), (other, tokens)):
        with pytest.raises(BackendError, match=r"state: \S+ cannot read its state"):
            to.load_state(file, held)
        assert list(to.held) == []
        to.prefill(tokens, GREEDY, never)  # it stays usable
    other.close()


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_the_size_of_a_state_is_known_before_it_is_written(model, tmp_path, cache_type):
    context = model.open_context(1024, cache_type)
    context.prefill(model.tokenize("a" * 500, special=False), GREEDY, never)
    context.save_state(tmp_path / "state")
    assert context.state_size == pytest.approx((tmp_path / "state").stat().st_size, rel=0.1)
    context.close()


@pytest.mark.parametrize("cache_type", ["q8_0", "q4_0"])
def test_heads_that_no_block_divides_are_refused_in_a_sentence(subject, tmp_path, cache_type):
    model = subject.load(subject.convert(tiny.llama(tmp_path / "hf", head_dim=16), tmp_path / "x"))
    with pytest.raises(BackendError, match=f"cannot be kept as {cache_type}: .*16") as caught:
        model.open_context(64, cache_type)
    assert "--cache-type f16" in (caught.value.hint or "")
    model.open_context(64, "f16").close()
    model.close()


def test_a_backend_names_its_build(subject):
    assert re.search(r"\d\.\d", subject.backend.build)


def test_a_state_of_a_sliding_window_goes_another_way(subject, tmp_path):
    """What the window has left behind is in the file too: cut back, the model sees it again."""
    folder = tiny.gemma3(tmp_path / "gemma", max_position_embeddings=2048)
    model = subject.load(subject.convert(folder, tmp_path / "gemma"))
    tokens = [3 + (number * 7) % 40 for number in range(600)]
    first, second, fresh = (model.open_context(2048) for _ in range(3))
    first.prefill(tokens, GREEDY, never)
    first.save_state(tmp_path / "state")
    for kept in (599, 590, 300, 5):
        prompt = [*tokens[:kept], 3 + (kept * 7 + 1) % 40, 9, 11]
        second.load_state(tmp_path / "state", tokens)
        assert second.prefill(prompt, GREEDY, never) == kept
        fresh.prefill([2], GREEDY, never)  # forgets all
        fresh.prefill(prompt, GREEDY, never)
        assert pieces(second, 12) == pieces(fresh, 12), kept
    for context in (first, second, fresh):
        context.close()
    model.close()


def test_an_answer_goes_on_when_older_turns_leave_the_context(subject, tmp_path):
    path = subject.tiny(tmp_path, answer=None)
    with load(path, context=128, backend=subject.name) as loaded:
        conversation = loaded.conversation(options=GenerateOptions(GREEDY, 30), on_overflow="shift")
        conversation.ask("x").read()
        conversation.options = GenerateOptions(GREEDY)
        result = conversation.ask("y").read()
    (change,) = result.context_changes
    # Full but for the token that was sampled last, which is not lost and not said twice.
    assert (change.where, change.used_tokens) == ("within", 127)
    assert result.text == ("abcdefg" * 20)[: result.completion_tokens]
    assert result.completion_tokens == 128 - len("s<user\ny>\n<assistant\n")
