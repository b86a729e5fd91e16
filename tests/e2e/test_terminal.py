"""The REPL as a person meets it: in a terminal, with Ctrl-C and Ctrl-D."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

import pytest

from tinygguf import PERSIAN, write_tiny

pty = pytest.importorskip("pty", reason="needs a system with pseudo-terminals")

PROGRAM = (sys.executable, "-c", "from edgellm.cli import main; main()")
SECONDS = 30
INTERRUPT, END = b"\x03", b"\x04"


class Terminal:
    """A program in a pseudo-terminal of its own."""

    def __init__(self, *args: str, **environment: str) -> None:
        import fcntl
        import termios

        self.screen, slave = pty.openpty()
        self.seen = b""
        self.process = subprocess.Popen(
            [*PROGRAM, *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # makes it the controlling terminal, so that Ctrl-C becomes a signal
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "dumb", "LC_ALL": "C.UTF-8", **environment},
        )
        os.close(slave)

    def interrupt(self, text: str) -> None:
        """Press Ctrl-C at a prompt until the text comes.

        Python misses a signal that comes between writing its prompt and waiting for keys.
        """
        for _ in range(20):
            self.send(INTERRUPT)
            with contextlib.suppress(AssertionError):
                self.expect(text, seconds=1)
                return
        raise AssertionError(f"{text!r} never came")

    def expect(self, text: str, seconds: float = SECONDS) -> None:
        """Wait until the text is on the screen, and forget everything up to its end."""
        wanted = text.encode()
        until = time.monotonic() + seconds
        while wanted not in self.seen:
            ready, _, _ = select.select([self.screen], [], [], max(0, until - time.monotonic()))
            try:
                chunk = os.read(self.screen, 65536) if ready else b""
            except OSError:  # Linux says so when the program has ended
                chunk = b""
            assert chunk, f"{text!r} never came; last on the screen: {self.seen[-500:]!r}"
            self.seen += chunk
        self.seen = self.seen.partition(wanted)[2]

    def send(self, keys: str | bytes) -> None:
        os.write(self.screen, keys.encode() if isinstance(keys, str) else keys)

    def wait(self) -> int:
        return self.process.wait(SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.screen)


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
