"""A program in a pseudo-terminal, as a person meets it."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import time

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
