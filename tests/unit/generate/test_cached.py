"""Prompts that another process evaluated, on a model whose text depends on all of its prompt."""

from __future__ import annotations

import contextlib
import shutil
import threading

import pytest

import tiny
from edgellm.api.chat import load
from edgellm.api.convert import convert
from edgellm.backends.base import Sampling
from edgellm.backends.llama_cpp.context import LlamaCppContext
from edgellm.backends.mlx.library import missing
from edgellm.generate.engine import GenerateOptions
from edgellm.generate.promptcache import prompts_dir

GREEDY = Sampling(temperature=0)
LIMIT = 10**8
LONG = "the cat sat on the mat and saw it; " * 40


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    source = tiny.llama(folder / "hf", head_dim=32, max_position_embeddings=4096)
    convert(source, folder / "x.gguf", dtype="f32")
    return folder / "x.gguf"


@pytest.fixture
def path(original, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    return shutil.copy2(original, tmp_path / "x.gguf")


def say(path, prompt: str = LONG, *, cache: int = LIMIT, count: int = 12, **options):
    """Answer as a new process would: gives the text, and the tokens reused and from the disk."""
    with load(path, threads=1, prompt_cache=cache, **options) as model:
        result = model.complete(prompt, max_tokens=count, sampling=GREEDY).read()
        return result.text, result.reused_tokens, model.restored_tokens


def states() -> list[str]:
    folder = prompts_dir()
    return sorted(each.name for each in folder.glob("*.state")) if folder.exists() else []


@pytest.mark.parametrize("cache_type", ["f16", "q8_0", "q4_0"])
def test_the_second_time_the_prompt_comes_from_the_disk_and_says_the_same(path, cache_type):
    text, *first = say(path, cache=0, cache_type=cache_type)
    assert (first, states()) == ([0, 0], [])
    assert say(path, cache_type=cache_type) == (text, 0, 0)
    assert len(states()) == 1
    again, reused, restored = say(path, cache_type=cache_type)
    assert (again, reused) == (text, restored)
    assert restored > 256
    assert say(path, cache=0, cache_type=cache_type) == (text, 0, 0)


def test_a_prompt_that_goes_another_way_uses_what_is_common(path):
    other = LONG + "the dog saw the cat"
    wanted, *_ = say(path, other, cache=0)
    say(path, LONG + "and the mat")
    text, reused, restored = say(path, other)
    assert text == wanted
    assert 256 < restored == reused
    assert len(states()) == 1  # the few new tokens are not worth a file


def test_what_was_added_to_a_long_prompt_takes_its_place(path):
    say(path)
    assert say(path, LONG + LONG)[1:] != (0, 0)
    assert len(states()) == 1
    before = states()
    assert say(path, LONG + LONG, count=1)[2] > 600
    assert states() == before


def test_a_short_prompt_is_neither_kept_nor_looked_for(path):
    assert say(path, "the cat")[1:] == (0, 0)
    assert states() == []


@pytest.mark.parametrize("options", [{"cache_type": "q8_0"}, {"context": 2048}])
def test_another_type_or_size_of_context_is_a_miss(path, options):
    say(path)
    assert say(path, **options)[1:] == (0, 0)
    assert len(states()) == 2


def test_a_model_that_was_written_anew_is_a_miss(path):
    say(path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1  # the same size, and a part of the last matrix
    path.write_bytes(raw)
    assert say(path)[1:] == (0, 0)


def test_a_copy_of_the_model_is_the_same(path, tmp_path):
    text, *_ = say(path)
    copy = shutil.copy2(path, tmp_path / "elsewhere.gguf")
    assert say(copy) == (text, *[say(path)[1]] * 2)


def test_a_damaged_state_is_evaluated_again(path):
    text, *_ = say(path)
    state = prompts_dir() / states()[0]
    raw = bytearray(state.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    state.write_bytes(raw)
    assert say(path) == (text, 0, 0)
    assert say(path)[2] > 256  # and kept again


def test_a_state_that_the_backend_refuses_is_evaluated_again(path, monkeypatch):
    """Heads and digests are right, but llama.cpp finds another format in it."""
    save = LlamaCppContext.save_state

    def other(self, file):
        save(self, file)
        file.write_bytes(b"XXXX" + file.read_bytes()[4:])

    monkeypatch.setattr(LlamaCppContext, "save_state", other)
    text, *_ = say(path)
    assert len(states()) == 1
    assert say(path) == (text, 0, 0)


def test_what_memory_holds_is_not_read_from_the_disk(path):
    with load(path, threads=1, prompt_cache=LIMIT) as model:
        for _ in range(2):
            result = model.complete(LONG, max_tokens=2, sampling=GREEDY).read()
        assert result.reused_tokens == result.prompt_tokens - 1
        assert model.restored_tokens == 0
        assert states() == []
        model.keep_prompt()
        model.keep_prompt()
        assert len(states()) == 1


def test_a_stopped_prompt_and_an_error_keep_nothing(path):
    stopped = threading.Event()
    stopped.set()
    with load(path, threads=1, prompt_cache=LIMIT) as model:
        assert model.complete(LONG, cancel=stopped).read().finish_reason == "cancelled"
    assert states() == []
    with contextlib.suppress(ZeroDivisionError), load(path, prompt_cache=LIMIT) as model:
        model.complete(LONG, max_tokens=2).read()
        raise ZeroDivisionError
    assert states() == []


def test_a_folder_that_cannot_be_written_changes_no_answer(path):
    text, *_ = say(path, cache=0)
    prompts_dir().parent.mkdir()
    prompts_dir().write_bytes(b"")
    assert say(path) == (text, 0, 0)


def test_a_conversation_goes_on_from_the_disk(path):
    with load(path, threads=1, prompt_cache=LIMIT) as model:
        conversation = model.conversation(options=GenerateOptions(GREEDY, 8))
        conversation.ask(LONG).read()
        messages = conversation.messages
    with load(path, threads=1, prompt_cache=LIMIT) as model:
        conversation = model.conversation(options=GenerateOptions(GREEDY, 8))
        conversation.messages = messages
        result = conversation.ask("the dog").read()
        assert 256 < model.restored_tokens == result.reused_tokens


def test_tokens_from_the_disk_are_counted_over_contexts(path):
    say(path)
    with load(path, threads=1, prompt_cache=LIMIT) as model:
        model.complete("the cat", max_tokens=1).read()  # in a small context, which makes way
        model.complete(LONG, max_tokens=1).read()
        assert model.restored_tokens > 256
        before = model.restored_tokens
        model._contexts.drop()
        assert model.restored_tokens == before


def test_a_model_whose_files_cannot_be_read_any_more_is_answered_with(path):
    text, *_ = say(path, cache=0)
    with load(path, threads=1, prompt_cache=LIMIT) as model:
        path.unlink()
        assert model.complete(LONG, max_tokens=12, sampling=GREEDY).read().text == text
    assert states() == []


@pytest.mark.oracle
@pytest.mark.filterwarnings("default")  # what mlx-lm and transformers warn of is theirs
@pytest.mark.parametrize("cache_type", ["f16", "q4_0"])
def test_mlx_takes_its_states_from_the_disk_too(original, tmp_path, monkeypatch, cache_type):
    if reason := missing():
        pytest.skip(reason)
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    convert(original, tmp_path / "mlx", dtype="f32")
    texts = []
    for limit in (0, LIMIT, LIMIT):
        with load(tmp_path / "mlx", cache_type=cache_type, prompt_cache=limit) as model:
            result = model.complete(LONG, max_tokens=12, sampling=GREEDY).read()
            texts.append(result.text)
    assert 256 < model.restored_tokens == result.reused_tokens
    assert len(set(texts)) == 1
