"""`edgellm run` and `edgellm chat` on a tiny model whose greedy text is known."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from edgellm.api.show import show
from edgellm.cli.main import run as edgellm
from edgellm.device.memory import Runtime
from edgellm.device.profiles import Profile
from edgellm.generate.saved import SavedSession, load_session, save_session, session_names
from tinygguf import PERSIAN, write_tiny

ANSWER = "Hi " + PERSIAN


class Console(io.TextIOWrapper):
    """stdin with given bytes, a terminal or a pipe."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    return str(write_tiny(path, template=None, answer="xyz"))


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*args: str, stdin: str | bytes | None = None, terminal: bool = False):
        raw = stdin if isinstance(stdin, bytes) else (stdin or "").encode()
        console = Console(io.BytesIO(raw), encoding="utf-8")
        console.terminal = terminal or stdin is None
        monkeypatch.setattr(sys, "stdin", console)
        status = edgellm([*args])
        out, err = capsys.readouterr()
        return status, out, err

    return call


GREEDY = ("--temp", "0", "-t", "1")


def test_an_answer_alone_on_stdout(call, tiny):
    assert call("run", tiny, "hello", *GREEDY) == (0, ANSWER + "\n", "")


def test_json_has_the_documented_keys(call, tiny):
    status, out, err = call("run", tiny, "hello", "--json", "--seed", "7", "--temp", "0")
    body = json.loads(out)
    assert (status, err) == (0, "")
    assert list(body) == [
        "text", "thinking", "finish_reason", "complete", "prompt_tokens", "reused_tokens",
        "restored_tokens", "completion_tokens", "thinking_tokens", "drafted_tokens",
        "accepted_tokens", "time_to_first_token_s", "prompt_tokens_per_s",
        "completion_tokens_per_s", "seed", "context", "model", "backend",
        "adapters", "context_changes",
    ]  # fmt: skip
    assert body["text"] == ANSWER
    assert (body["finish_reason"], body["completion_tokens"]) == ("stop", len(ANSWER.encode()))
    assert body["prompt_tokens"] == len("<s>") - 2 + len("<user\nhello>\n<assistant\n")
    assert (body["seed"], body["model"], body["backend"]) == (7, tiny, "llama_cpp")
    assert body["time_to_first_token_s"] > 0
    assert body["completion_tokens_per_s"] > 0


def test_a_long_prompt_comes_from_the_disk_the_second_time(call, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    monkeypatch.setenv("EDGELLM_PROMPT_CACHE_SIZE", "20MB")

    def ask(*args):
        status, out, err = call("run", tiny, "سلام " * 40, "--json", *GREEDY, *args)
        assert (status, err) == (0, "")
        body = json.loads(out)
        assert body["text"] == ANSWER
        return body["prompt_tokens"], body["reused_tokens"], body["restored_tokens"]

    prompt = ask()[0]
    assert prompt > 256
    assert ask() == (prompt, prompt - 1, prompt - 1)
    assert ask("--prompt-cache-size", "0") == (prompt, 0, 0)
    assert call("run", tiny, "x", "--prompt-cache-size", "much")[0] == 2


def test_chat_writes_an_object_for_each_answer(call, tiny):
    once = call("chat", tiny, "hello", "--json", *GREEDY)
    status, out, err = call("chat", tiny, "--json", *GREEDY, stdin="hello\nhello\n")
    bodies = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert [body["text"] for body in bodies] == [ANSWER, ANSWER]
    assert bodies[1]["prompt_tokens"] > bodies[0]["prompt_tokens"]
    assert json.loads(once[1]).keys() == bodies[0].keys()


def test_a_chat_template_of_a_file_stands_in_place_of_the_models_own(call, tiny, base, tmp_path):
    path = tmp_path / "template.jinja"
    path.write_text("{{ messages[0].content }} سؤال{{ '\\n' }}", encoding="utf-8")
    for model, answer in ((tiny, ANSWER), (base, "xyz")):
        args = ("run", model, "hello", "--json", "--chat-template", str(path), *GREEDY)
        status, out, err = call(*args)
        assert (status, err) == (0, "")
        body = json.loads(out)
        assert body["text"] == answer
        assert body["prompt_tokens"] == 1 + len("hello سؤال\n".encode())
    path.write_bytes(b"\xff")
    assert call(*args)[0] == 2
    assert call(*args[:4], "--chat-template", str(tmp_path / "missing"))[0] in (1, 2)


def test_stdin_is_appended_to_the_prompt(call, tiny):
    alone = call("run", tiny, "ab", "--json", *GREEDY)
    both = call("run", tiny, "ab", "--json", *GREEDY, stdin="cd\n")
    piped = call("run", tiny, "--json", *GREEDY, stdin="cd\n")
    counts = [json.loads(out)["prompt_tokens"] for _, out, _ in (alone, both, piped)]
    assert counts[1] == counts[0] + len("\n\ncd\n")
    assert counts[2] == counts[0] + 1


def test_without_a_prompt_or_a_pipe_it_says_so(call, tiny):
    status, out, err = call("run", tiny)
    assert (status, out) == (2, "")
    assert "there is no prompt" in err


def test_a_single_word_is_a_prompt_unless_it_names_a_model(call):
    status, _, err = call("run", "./missing.gguf", "hello")
    assert (status, "missing.gguf" in err) == (3, True)
    status, _, err = call("run", "missing.gguf")  # looks like a model: never a prompt
    assert status in (2, 3)
    status, _, err = call("run", "hello")  # the default model, which is not in this test's store
    assert (status, "smollm2-135m-instruct" in err) == (3, True)


def test_model_and_prompt_by_their_flags(call, tiny):
    assert call("run", "-m", tiny, "x", *GREEDY)[1] == ANSWER + "\n"
    assert call("run", "-m", tiny, "-p", "x", *GREEDY)[1] == ANSWER + "\n"
    assert call("run", tiny, "-p", "x", *GREEDY)[1] == ANSWER + "\n"
    status, _, err = call("run", "-m", tiny, "several", "words")
    assert (status, "stands in quotes" in err) == (2, True)


def test_a_model_in_the_environment_gives_way_to_a_word(call, tiny, base, monkeypatch):
    monkeypatch.setenv("EDGELLM_MODEL", base)
    assert call("run", tiny, "x", *GREEDY)[1] == ANSWER + "\n"
    assert call("run", "ends in a", "-n", "3", *GREEDY)[1] == "bcd\n"


def test_limits_and_stop_strings(call, tiny):
    def finish(*args):
        body = json.loads(call("run", tiny, "--raw", "a", "--json", *GREEDY, *args)[1])
        return body["text"], body["finish_reason"], body["completion_tokens"]

    assert finish("-n", "9") == ("bcdefgabc", "length", 9)
    assert finish("-n", "0") == ("", "length", 0)
    assert finish("--stop", "ga", "--stop", "zz") == ("bcdef", "stop", 7)
    assert finish("-n", "4", "--stop", "ef") == ("bcde", "length", 4)


def test_a_limit_inside_a_character_drops_its_beginning(call, tiny):
    assert call("run", tiny, "x", "-n", "4", *GREEDY)[1] == "Hi \n"
    assert call("run", tiny, "x", "-n", "5", *GREEDY)[1] == "Hi م\n"
    assert call("run", tiny, "x", "-n", "7", *GREEDY)[1] == "Hi م\n"


def test_a_full_context_is_said(call, tiny):
    status, out, err = call("run", tiny, "--raw", "a", "--ctx", "20", *GREEDY)
    assert (status, out) == (0, "bcdefgabcdefgabcde\n")  # the start token and "a" have places too
    assert "the context of 20 tokens is full" in err


def test_a_prompt_beyond_the_context_is_exit_code_6(call, tiny):
    status, out, err = call("run", tiny, "--raw", "a" * 600, *GREEDY)
    assert (status, out) == (6, "")
    assert "601 tokens and the context holds 512" in err
    status, out, _ = call("run", tiny, "--raw", "a" * 600, "--json")
    assert json.loads(out)["error"]["code"] == "context_overflow"


def test_a_context_beyond_the_training_is_refused(call, tiny):
    status, _, err = call("run", tiny, "x", "--ctx", "513")
    assert (status, "was trained on 512" in err) == (2, True)


def free(monkeypatch, size: int) -> None:
    monkeypatch.setattr("edgellm.api.fit.get_profile", lambda _: Profile("this", size, 0))


def test_a_context_that_does_not_fit_is_reduced_and_said(call, tmp_path, monkeypatch):
    path = str(write_tiny(tmp_path / "long.gguf", context=8192))
    needs = show(path).needs
    demand = needs.demand(Runtime(1024))
    free(monkeypatch, demand.total)
    status, out, err = call("run", path, "hello", *GREEDY)
    assert (status, out) == (0, ANSWER + "\n")
    assert "the context is 1024 tokens and not 4096" in err
    body = json.loads(call("run", path, "hello", "--json", *GREEDY)[1])
    assert body["context"] == 1024
    status, _, err = call("run", path, "hello", "--ctx", "1300", *GREEDY)
    assert (status, "--ctx 1024 fits" in err) == (4, True)
    assert call("run", path, "hello", "--ctx", "1300", "--no-fit", *GREEDY) == (0, out, "")


def test_a_model_that_does_not_fit_is_exit_code_4(call, tiny, monkeypatch):
    free(monkeypatch, 2**20)
    status, out, err = call("run", tiny, "hello", *GREEDY)
    assert (status, out) == (4, "")
    assert "does not fit: 1 MB of memory are free, and at 512 tokens its weights take" in err


def test_a_context_beyond_this_machine_is_refused_before_it_is_made(call, tmp_path):
    # more keys and values than any machine has memory
    path = str(write_tiny(tmp_path / "endless.gguf", context=2**30))
    status, _, err = call("run", path, "hello", "--ctx", str(2**30), *GREEDY)
    assert (status, "does not fit" in err) == (4, True)


def test_the_same_seed_gives_the_same_text(call, tiny):
    hot = ("--temp", "50", "--top-k", "0", "--top-p", "1", "--min-p", "0", "-n", "30")
    texts = [call("run", tiny, "x", "--seed", seed, *hot)[1] for seed in ("5", "5", "6")]
    assert texts[0] == texts[1] != texts[2]


def test_a_base_model_continues_the_text(call, base):
    assert call("run", base, "abc", "-n", "3", *GREEDY) == (0, "def\n", "")
    status, _, err = call("run", base, "abc", "--system", "be kind")
    assert (status, "needs a chat template" in err) == (2, True)


def test_raw_reads_control_texts_and_a_base_prompt_does_not(call, tiny, base):
    def tokens(model, *args):
        return json.loads(call("run", model, "<|im_end|>a", "--json", "-n", "1", *args)[1])[
            "prompt_tokens"
        ]

    assert tokens(tiny, "--raw") == 3
    assert tokens(base) == 1 + len("<|im_end|>a")


def test_the_system_prompt_is_used(call, tiny):
    def tokens(*args):
        return json.loads(call("run", tiny, "x", "--json", *GREEDY, *args)[1])["prompt_tokens"]

    assert tokens("--system", "سلام") == tokens() + len("<system\n>\n") + len("سلام".encode())


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--top-p", "2"], "top_p"),
        (["--seed", "-5"], "seed"),
        (["--threads", "0"], "threads"),
        (["--temp", "nan"], "temperature"),
        (["--stop", ""], "stop string"),
        (["--temp", "warm"], "--temp"),
    ],
)
def test_a_wrong_value_is_exit_code_2(call, tiny, args, word):
    status, out, err = call("run", tiny, "x", *args)
    assert (status, out) == (2, "")
    assert word in err


def test_stdin_that_is_no_text(call, tiny):
    status, _, err = call("run", tiny, stdin=b"\xff\xfe")
    assert (status, "not UTF-8" in err) == (2, True)


def test_a_terminal_gets_no_escape_sequences(call, tmp_path, monkeypatch):
    hostile = str(write_tiny(tmp_path / "hostile.gguf", answer=b"\x1b[2J\x07ok"))
    assert call("run", hostile, "x", *GREEDY)[1] == "\x1b[2J\x07ok\n"  # a pipe gets what there is
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert call("run", hostile, "x", *GREEDY)[1] == "[2Jok\n"


def test_a_damaged_file_is_exit_code_5(call, tiny, tmp_path):
    damaged = tmp_path / "cut.gguf"
    damaged.write_bytes(Path(tiny).read_bytes()[:5000])
    status, out, err = call("run", str(damaged), "x")
    assert (status, out) == (5, "")
    assert len(err.strip().splitlines()) <= 2


def test_a_prompt_that_is_missing_names_the_model(call, tiny):
    status, _, err = call("run", tiny)
    assert (status, f"no prompt for the model {tiny}" in err) == (2, True)
    status, _, err = call("run", "", "hi")
    assert (status, "name of the model is empty" in err) == (3, True)


def test_a_dash_stands_for_the_pipe_and_lines_may_end_as_on_windows(call, tiny):
    def tokens(*args, stdin):
        return json.loads(call("run", *args, "--json", *GREEDY, stdin=stdin)[1])["prompt_tokens"]

    assert tokens("-m", tiny, "-", stdin="abc") == tokens("-m", tiny, stdin="abc")
    assert tokens(tiny, stdin="a\r\nb\r\n") == tokens(tiny, stdin="a\nb\n")


def test_a_prompt_in_the_place_of_chats_model(call):
    status, _, err = call("chat", "hello there")
    assert (status, "-p 'hello there'" in err) == (2, True)


def test_ctrl_c_while_a_model_is_loaded_is_said(call, tiny, monkeypatch):
    from edgellm.api import chat
    from edgellm.backends.base import CancelledError

    def cancelled(*_args, **_options):
        raise CancelledError

    monkeypatch.setattr(chat, "load", cancelled)
    status, out, err = call("run", tiny, "x", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (130, "interrupted")
    assert "interrupted" in err
    assert call("chat", tiny, stdin="x\n")[::2] == (130, "edgellm: interrupted\n")


def test_an_error_in_the_middle_of_an_answer_begins_a_line(call, tiny, monkeypatch):
    from edgellm.backends.llama_cpp.context import LlamaCppContext
    from edgellm.errors import BackendError

    sample = LlamaCppContext.next_piece

    def fail(context):
        if len(context.held) > 30:
            raise BackendError("it broke")
        return sample(context)

    monkeypatch.setattr(LlamaCppContext, "next_piece", fail)
    status, out, err = call("run", tiny, "--raw", "a", *GREEDY)
    assert status == 1
    assert out.startswith("bcdefg")
    assert out.endswith("\n")
    assert "it broke" in err


# The REPL, with a pipe in place of the person.


def chat(call, model, *lines: str, args=()):
    return call("chat", model, *GREEDY, *args, stdin="\n".join([*lines, ""]))


def test_every_line_of_a_pipe_is_a_message(call, tiny):
    assert chat(call, tiny, "one", "", "two") == (0, f"{ANSWER}\n{ANSWER}\n", "")


def test_a_prompt_is_answered_once(call, tiny):
    assert call("chat", tiny, "hello", *GREEDY, stdin="piped") == (0, ANSWER + "\n", "")
    assert call("chat", tiny, "-p", "hello", *GREEDY) == (0, ANSWER + "\n", "")


def test_turns_reuse_the_context(call, tiny):
    status, _, err = chat(call, tiny, "one", "/stats", "two", "/stats")
    assert status == 0
    first, second = [line for line in err.splitlines() if "kept from before" in line]
    turn = len("<s>") - 2 + len("<user\none>\n<assistant\n")
    assert f"{turn} tokens, 0 kept from before, {turn} evaluated" in first
    # all of the first turn is kept, and the answer that was generated too
    total = turn + len(ANSWER.encode()) + len(">\n<user\ntwo>\n<assistant\n")
    new = len(">\n<user\ntwo>\n<assistant\n")
    assert f"{total} tokens, {total - new} kept from before, {new} evaluated" in second


def test_several_lines_are_one_message(call, tiny):
    _, out, err = chat(call, tiny, '"""', "می‌روم", "", "خانه", '"""', "/show history")
    assert out == ANSWER + "\n"
    assert "user: می‌روم\n\nخانه\nassistant: " + ANSWER in err


def test_commands(call, tiny):
    status, out, err = chat(
        call, tiny,
        "/help", "/set", "/set temp 0.5", "/set top-k 3", "/set predict 2", "/set stop \\n\\n",
        "/show params", "/show model", "/show template", "/system Be brief.", "/system",
        "/set temp", "/set temp ۰٫۲۵", "/set predict", "/set stop", "/set",
        "/set temp 0", "hello", "/regen", "/clear", "/show history", "/stats", "/sessions", "/bye",
        "never reached",
    )  # fmt: skip
    assert (status, out) == (0, "Hi\nHi\n")
    for text in (
        "/regen", "Ctrl-D leaves", "temp                0.5", "top_k               3",
        "predict             2", "'\\n\\n'", "backend         llama_cpp",
        "context         512 of 512", "<|im_start|>", "The system prompt is set.", "Be brief.",
        "The conversation is cleared.", "temp                0.25", "There is no stop string now.",
        "(nothing has been said)", "There is no answer yet.", "Nothing is saved yet.",
    ):  # fmt: skip
        assert text in err, text


@pytest.mark.parametrize(
    ("line", "sentence", "hint"),
    [
        ("/stat", "no command /stat", "did you mean /stats?"),
        ("/set tmp 1", "no parameter tmp", "did you mean temp?"),
        ("/set temp warm", "temp takes a number, not 'warm'", ""),
        ("/set seed 1.5", "seed takes a whole number", ""),
        ("/set top_p 7", "top_p is 7", ""),
        ("/show temple", "nothing is called temple", "did you mean template?"),
        ("/save ../x", "no name for a conversation", "letters"),
        ("/load nothing", "no conversation is saved as 'nothing'", "nothing is saved yet"),
        ("/regen", "nothing to answer again", ""),
        ("/clear all", "/clear takes nothing behind it", ""),
    ],
)
def test_a_wrong_command_in_a_pipe_ends_with_its_sentence(call, tiny, line, sentence, hint):
    status, out, err = chat(call, tiny, line, "never reached")
    assert status in (2, 3)
    assert out == ""
    assert sentence in err
    assert hint in err


def test_a_person_goes_on_after_an_error(call, tiny):
    status, out, err = call(
        "chat", tiny, *GREEDY, "--on-overflow", "error",
        stdin="/stat\n" + "a" * 600 + "\nhello\n", terminal=True,
    )  # fmt: skip
    assert (status, out) == (0, ANSWER + "\n")
    assert "did you mean /stats?" in err
    assert "the context holds 512" in err
    assert "/clear starts a new conversation" in err


def test_a_conversation_that_fills_the_context_says_so_and_clear_helps(call, tiny):
    lines = ["x" * 200, "y" * 200, "z" * 200]
    error = ("--on-overflow", "error")
    status, out, err = chat(call, tiny, *lines, args=error)
    assert (status, out) == (6, f"{ANSWER}\n{ANSWER}\n")
    assert "/clear" in err
    cleared = chat(call, tiny, *lines[:2], "/clear", lines[2], args=error)
    assert cleared == (0, f"{ANSWER}\n" * 3, "The conversation is cleared.\n")


def test_saved_conversations_come_back(call, tiny):
    chat(call, tiny, "سلام", "/system کوتاه", "/save یک")
    assert session_names() == ["یک"]
    _, _, err = chat(call, tiny, "/load یک", "/show history", "/sessions")
    assert "Loaded 1 questions" in err
    assert f"system: کوتاه\nuser: سلام\nassistant: {ANSWER}" in err
    assert re.search(r"^  یک  \d{4}-\d\d-\d\d \d\d:\d\d    1  سلام$", err, re.M)
    assert chat(call, tiny, "/load")[0] == 2


def turns(name: str) -> list[str]:
    return [message.content for message in load_session(name).messages[::2]]


def test_a_conversation_is_kept_under_the_name_that_it_has(call, tiny):
    chat(call, tiny, "a", "/save one", "b", "/clear", "c", "/save two", "/load one", "d")
    assert (turns("one"), turns("two")) == (["a", "b", "d"], ["c"])
    call("chat", tiny, *GREEDY, stdin="/load two\ne\n/clear\nf\n", terminal=True)
    assert (turns("two"), turns("last")) == (["c", "e"], ["f"])


def test_a_named_conversation_begins_and_goes_on_in_a_pipe_too(call, tiny):
    for word in ("یک", "دو"):
        status, out, err = call("chat", tiny, "--session", "کار", *GREEDY, stdin=word + "\n")
        assert (status, out, err) == (0, ANSWER + "\n", "")
    assert turns("کار") == ["یک", "دو"]
    _, _, err = call("chat", "-c", *GREEDY, stdin="سه\n", terminal=True)
    assert "Going on with کار: 2 questions" in err
    assert "It was with" not in err
    assert turns("کار") == ["یک", "دو", "سه"]
    assert session_names() == ["کار"]


def test_a_conversation_goes_on_with_another_model_and_says_so(call, tiny, base):
    chat(call, tiny, "a", "/save work")
    _, _, err = call("chat", base, "-c", *GREEDY, "-n", "1", stdin="x\n", terminal=True)
    assert f"It was with {tiny}" in err
    assert (turns("work"), load_session("work").model) == (["a", "x"], base)


def test_a_conversation_whose_model_is_gone_says_so(call, tmp_path):
    path = write_tiny(tmp_path / "gone.gguf")
    chat(call, str(path), "a", "/save work")
    path.unlink()
    status, out, err = call("chat", "-c", stdin="")
    assert (status, out) == (3, "")
    assert f"the conversation work was with {path}, which is not there any more" in err
    assert "-m MODEL goes on with another model" in err


@pytest.mark.parametrize(
    "args", [("-c", "--session", "x"), ("--session", "x", "-p", "y"), ("--session", "../x")]
)
def test_a_session_option_that_makes_no_sense(call, tiny, args):
    assert call("chat", tiny, *args, stdin="")[:2] == (2, "")


def test_a_file_that_is_no_conversation_stands_in_the_list(call, tiny):
    path = save_session("bad", SavedSession(None, None, ()))
    path.write_text("{")
    assert re.search(r"^  bad  .*\(not a conversation\)$", chat(call, tiny, "/sessions")[2], re.M)
    assert call("chat", tiny, "--session", "bad", stdin="")[0] == 1


def test_continue_goes_on_with_the_last_conversation_and_its_model(call, tiny):
    call("chat", tiny, *GREEDY, stdin="سلام\n", terminal=True)
    status, _, err = call("chat", "--continue", *GREEDY, stdin="/show history\n")
    assert (status, "user: سلام" in err) == (0, True)


def test_a_pipe_keeps_nothing(call, tiny):
    chat(call, tiny, "secret")
    assert session_names() == []
    status, _, err = call("chat", "-c", stdin="")
    assert (status, "no conversation is saved as 'last'" in err) == (3, True)


def test_chat_with_a_base_model_continues_each_text(call, base):
    status, out, err = call("chat", base, *GREEDY, "-n", "2", stdin="a\nabc\n", terminal=True)
    assert (status, out) == (0, "bc\nde\n")
    assert "no chat template" in err


def test_a_template_that_refuses_is_a_sentence(call, tmp_path):
    path = write_tiny(tmp_path / "no.gguf", template="{{ raise_exception('only tools speak') }}")
    status, out, err = call("run", str(path), "x")
    assert (status, out) == (1, "")
    assert "refuses the messages: only tools speak" in err


# A context that is full.


def test_a_long_text_from_a_pipe_is_shortened_and_the_prompt_is_not(call, tiny):
    args = ("run", tiny, "what is it?", "--ctx", "200", "-n", "20", *GREEDY)
    text = "واژه‌ای " * 60
    assert call(*args, stdin=text)[0] == 6
    status, out, err = call(*args, "--on-overflow", "shift", "--json", stdin=text)
    body = json.loads(out)
    (change,) = body["context_changes"]
    assert status == 0
    assert list(change) == [
        "policy", "where", "what", "window", "used_tokens", "dropped_tokens", "summary_tokens",
        "left_tokens", "turns", "summary", "failure",
    ]  # fmt: skip
    assert (change["what"], change["left_tokens"]) == ("text", body["prompt_tokens"])
    assert (
        f"context: {change['used_tokens']:,} tokens for a window of 200: dropped the first" in err
    )
    assert f"{change['dropped_tokens']:,} tokens of the text" in err


def test_the_policy_in_the_environment_and_in_a_chat(call, tiny, monkeypatch):
    monkeypatch.setenv("EDGELLM_ON_OVERFLOW", "shift")
    lines = ["x" * 200, "/set on_overflow", "y" * 200, "/set on_overflow error", "z" * 300]
    status, out, err = chat(call, tiny, *lines)
    assert (status, out) == (6, f"{ANSWER}\n" * 2)
    assert "on_overflow         shift" in err
    assert "dropped turn 1 (" in err
    status, _, err = chat(call, tiny, "/set on_overflow squeeze")
    assert (status, "no policy is called 'squeeze'" in err) == (2, True)
    assert call("run", tiny, "x", "--on-overflow", "none")[0] == 2


def test_ctx_shows_what_fills_the_window(call, tiny, monkeypatch):
    monkeypatch.setenv("COLUMNS", "48")
    status, _, err = chat(call, tiny, "سلام دنیای بزرگِ قشنگ", "hello " * 20, "/ctx")
    rows = err.splitlines()
    turn = len("<user\n>\n<assistant\n>\n") + len(ANSWER.encode())
    first = turn + len("سلام دنیای بزرگِ قشنگ".encode())
    second = turn + len("hello " * 20)
    system = len("s<assistant\n")
    assert status == 0
    assert rows == [
        "  window               512",
        f"  system, template  {system:6}",
        f"  turn 1            {first:6}  \u2068سلام دنیای بزرگِ قش…\u2069",
        f"  turn 2            {second:6}  \u2068hello hello hello…\u2069",
        f"  left              {512 - system - first - second:6}",
        "  When it is full: summarize.",
    ]


def test_a_summary_comes_back_with_its_conversation(call, tmp_path):
    model = str(write_tiny(tmp_path / "t.gguf", answer="ok", endless="tuvwxyz", context=1024))
    _, _, before = chat(call, model, *["word " * 50] * 5, "/ctx", "/save گفتگو")
    _, _, after = chat(call, model, "/load گفتگو", "/ctx", "/show history")
    assert "into a summary of" in before
    rows = [[line for line in err.splitlines() if line.startswith("  turn ")]
            for err in (before, after)]  # fmt: skip
    assert rows[0] == rows[1] != []
    assert "  summary" in after
    assert "no longer seen by the model" in after
    assert after.count("user: word") == 5


def test_a_base_model_drops_or_says_that_it_cannot_summarise(call, base):
    status, _, err = call("run", base, "abc", "--on-overflow", "summarize")
    assert (status, "cannot be summarised" in err) == (2, True)
    status, _, err = call("chat", base, "--on-overflow", "summarize", stdin="abc\n")
    assert (status, "cannot be summarised" in err) == (2, True)
    args = ("--on-overflow", "shift", "-n", "40", "--ctx", "32", *GREEDY)
    status, out, err = call("run", base, "a", *args)
    assert (status, out) == (0, ("bcdefga" * 6)[:40] + "\n")
    assert "dropped the first" in err
    assert call("chat", base, *GREEDY, "-n", "1", stdin="a\n/ctx\n")[0] == 0


def test_ways_to_choose_tokens_come_from_the_command_line(call, tmp_path):
    path = write_tiny(tmp_path / "tiny.gguf", answer=None)
    run = ["run", str(path), "x", "--temp", "0", "-n", "30"]
    assert call(*run)[1] == ("abcdefg" * 5)[:30] + "\n"
    for option in ("--dry-multiplier", "--frequency-penalty", "--presence-penalty"):
        assert "abcdefgabcd" not in call(*run, option, "90")[1]
    broken = ["--dry-multiplier", "90", "--dry-sequence-breaker", "a"]
    broken += ["--dry-sequence-breaker", "c", "--dry-sequence-breaker", "e"]
    # no repetition is longer than two tokens between breakers
    assert call(*run, *broken, "--dry-allowed-length", "3")[1] == ("abcdefg" * 5)[:30] + "\n"
    status, _, err = call(*run, "--typical", "0.5", "--top-nsigma", "1")
    assert (status, "typical_p and top_n_sigma exclude each other" in err) == (2, True)
