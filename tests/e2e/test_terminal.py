"""The REPL as a person meets it: in a terminal, with Ctrl-C and Ctrl-D."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tinygguf import PERSIAN, TEMPLATE, write_tiny

pytest.importorskip("pty", reason="needs a system with pseudo-terminals")
from pseudo_terminal import END, INTERRUPT, PROGRAM, SECONDS, Terminal


@pytest.fixture
def terminal():
    opened = []

    def start(*args: str, **environment: str) -> Terminal:
        opened.append(Terminal(*args, **environment))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "endless.gguf"
    return str(write_tiny(path, answer=None, context=100_000))


def test_persian_conversation_and_ctrl_d_leaves(terminal, tiny):
    screen = terminal("chat", tiny, "--temp", "0", "-t", "1")
    screen.expect("/help lists commands")
    screen.expect(">>> ")
    screen.send("سلام، می‌خواهم\n")
    screen.expect("Hi " + PERSIAN + "\r\n")
    screen.expect(">>> ")
    screen.send("/show history\n")
    screen.expect("user: سلام، می‌خواهم")
    screen.expect(">>> ")
    screen.send(END)
    assert screen.wait() == 0


def test_ctrl_c_stops_a_thought_and_not_the_program(terminal, tmp_path):
    opening = TEMPLATE.replace("assistant\n'", "assistant\n<think>\n'")
    path = write_tiny(tmp_path / "t.gguf", answer=None, context=100_000, template=opening)
    screen = terminal("chat", str(path), "--temp", "0", "-t", "1", "--ctx", "100000")
    screen.expect(">>> ")
    screen.send("go\n")
    screen.expect("\x1b[2mabcdefg")
    screen.send(INTERRUPT)
    screen.expect("\x1b[0m")
    screen.expect("(stopped)")
    screen.expect(">>> ")
    screen.send("/show history\n")
    screen.expect("(nothing has been said)")
    screen.expect(">>> ")
    screen.send(END)
    assert screen.wait() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal, endless):
    screen = terminal("chat", endless, "--temp", "0", "-t", "1", "--ctx", "100000")
    screen.expect(">>> ")
    screen.send("go\n")
    screen.expect("abcdefgabcdefg")
    screen.send(INTERRUPT)
    screen.expect("(stopped)")
    screen.expect(">>> ")
    screen.send("/stats\n")
    screen.expect("(cancelled)")
    screen.expect(">>> ")
    screen.interrupt("(Ctrl-D or /bye leaves)")
    screen.expect(">>> ")
    screen.send('"""\n')
    screen.expect("... ")
    screen.send("half a message")
    screen.expect("half a message")
    screen.interrupt("(Ctrl-D or /bye leaves)")
    screen.expect(">>> ")
    screen.send("/bye\n")
    assert screen.wait() == 0


def test_ctrl_d_in_a_block_drops_it_and_stays(terminal, tiny):
    screen = terminal("chat", tiny, "--temp", "0", "-t", "1")
    screen.expect(">>> ")
    screen.send('"""\n')
    screen.expect("... ")
    screen.send("half\n")
    screen.expect("... ")
    screen.send(END)
    screen.expect(">>> ")
    screen.send("/show history\n")
    screen.expect("(nothing has been said)")
    screen.expect(">>> ")
    screen.send(END)
    assert screen.wait() == 0


def test_a_pasted_text_is_one_message(terminal, tiny):
    import readline

    if "libedit" in (readline.__doc__ or "") or readline._READLINE_RUNTIME_VERSION < 0x801:
        pytest.skip("this readline knows no pasted text")
    screen = terminal("chat", tiny, "--temp", "0", "-t", "1", TERM="xterm")
    screen.expect("\x1b[?2004h")  # asks the terminal to mark what is pasted
    screen.expect(">>> ")
    screen.send("\x1b[200~first\nsecond\x1b[201~\n")
    screen.expect(">>> ")
    screen.send("/show history\n")
    screen.expect(f"user: first\r\nsecond\r\nassistant: Hi {PERSIAN}")
    screen.send("/bye\n")
    assert screen.wait() == 0


def test_persian_is_typed_in_the_c_locale(terminal, tiny):
    screen = terminal("chat", tiny, "--temp", "0", "-t", "1", LC_ALL="C")
    screen.expect(">>> ")
    screen.send("می\u200cخواهم\n")
    screen.expect(f"Hi {PERSIAN}")
    screen.expect(">>> ")
    screen.send("/show history\n")
    screen.expect("user: می\u200cخواهم\r\nassistant")
    screen.send("/bye\n")
    assert screen.wait() == 0


def test_ctrl_c_in_a_long_prompt(endless):
    """Evaluating this prompt would take minutes, and it is one native call."""
    process = subprocess.Popen(
        [*PROGRAM, "run", endless, "--temp", "0", "-t", "1", "--ctx", "100000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(b"x" * 90_000)
    process.stdin.close()
    time.sleep(3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stdout.read() == b""
    process.stdout.close()
    process.stderr.close()


@pytest.fixture
def writing(endless):
    """A `run` that has begun to write a text without an end."""
    process = subprocess.Popen(
        [*PROGRAM, "run", endless, "go", "--temp", "0", "-t", "1", "--ctx", "100000"],
        stdin=subprocess.DEVNULL,
        bufsize=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout.read(1) == b"a"
        yield process
        process.kill()


def test_ctrl_c_ends_run_with_130_and_a_newline(writing):
    writing.send_signal(signal.SIGINT)
    out, err = writing.communicate(timeout=SECONDS)
    assert writing.returncode == 130
    assert out.endswith(b"\n")
    assert out[:-1] in b"abcdefg" * (len(out) // 7 + 2)
    assert err == b""


def test_a_reader_that_goes_away_is_no_error(writing):
    writing.stdout.close()
    assert writing.wait(SECONDS) == 1
    assert writing.stderr.read() == b""
