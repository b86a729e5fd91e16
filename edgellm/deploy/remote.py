"""Another machine over ssh: short scripts that run there, and files that go there, resumed.

Nothing is needed there but sshd and a POSIX shell. One connection serves all commands.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from edgellm.errors import FetchError, NotFoundError, UsageError

__all__ = ["Remote"]

CHUNK = 1 << 18
MAX_OUTPUT = 4 << 20  # bytes of what the other machine says
_HOST = re.compile(r"([A-Za-z0-9._-]+@)?[A-Za-z0-9._:\[\]-]+")
FAILED = 255  # ssh's own status


class Remote:
    """A connection; use it in a `with` statement.

    `options` are those of ssh, as in its configuration: "Compression=yes".

    Raises:
        UsageError: a name that ssh would take for something else.
        NotFoundError: ssh is not installed.
    """

    def __init__(
        self,
        host: str,
        *,
        port: int | None = None,
        identity: Path | None = None,
        options: Sequence[str] = (),
    ) -> None:
        if not _HOST.fullmatch(host) or host.startswith("-") or "@-" in host:
            raise UsageError(f"{host!r} is no host: [USER@]HOST")
        if shutil.which("ssh") is None:
            raise NotFoundError("ssh is not installed", hint="sudo apt install openssh-client")
        self.host = host
        # Short: a socket's path has at most 108 bytes.
        self._place = tempfile.mkdtemp(prefix="edgellm-ssh-")
        self._ssh = ["ssh", "-o", "ControlMaster=auto", "-o", f"ControlPath={self._place}/c"]
        self._ssh += ["-o", "ControlPersist=60", "-o", "ConnectTimeout=20"]
        self._ssh += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
        for each in options:
            self._ssh += ["-o", each]
        if port is not None:
            self._ssh += ["-p", str(port)]
        if identity is not None:
            self._ssh += ["-i", str(identity)]

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        subprocess.run(
            [*self._ssh, "-O", "exit", self.host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        shutil.rmtree(self._place, ignore_errors=True)

    def run(self, script: str, arguments: Sequence[str] = (), *, shown: bool = False) -> str:
        """Run a script of the shell there; gives what it writes to its stdout.

        Args:
            script: it gets `arguments` as $1, $2 ...
            arguments: any texts.
            shown: let its stderr be seen as it comes, in place of keeping it for the error.

        Raises:
            FetchError: the machine cannot be reached, or the script fails: the sentence holds the
                last of what it wrote to stderr.
        """
        words = " ".join(map(shlex.quote, ("sh", "-c", script, "sh", *arguments)))
        process = subprocess.Popen(
            [*self._ssh, self.host, words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if shown else subprocess.PIPE,
        )
        try:
            output, errors = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode:
            raise self._failure(process.returncode, errors)
        return output[:MAX_OUTPUT].decode("utf-8", "replace")

    def send(self, source: Path, target: str, digest: str, report: Callable[[int], None]) -> None:
        """Copy a file there; what an earlier attempt has copied is kept.

        Args:
            source: the file here.
            target: its path there; it appears when it is whole.
            digest: its sha256.
            report: is given how many bytes have been sent, or were there.

        Raises:
            FetchError: the connection broke, or other bytes arrived.
        """
        partial = f"{target}.part"
        text = self.run('if [ -f "$1" ]; then wc -c <"$1"; else echo 0; fi', [partial]).strip()
        there = int(text) if text.isdecimal() else 0
        size = source.stat().st_size
        if there > size:
            there = 0
        report(there)
        command = " ".join(
            map(shlex.quote, ("sh", "-c", 'head -c 0 >>"$1"; exec cat >>"$1"', "sh", partial))
        )
        if not there:
            self.run('rm -f "$1"', [partial])
        process = subprocess.Popen(
            [*self._ssh, self.host, command], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            with source.open("rb") as file:
                file.seek(there)
                while chunk := file.read(CHUNK):
                    try:
                        process.stdin.write(chunk)  # type: ignore[union-attr]
                    except BrokenPipeError:
                        break
                    report(len(chunk))
            _, errors = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode:
            raise self._failure(process.returncode, errors)
        found = self.run('sha256sum <"$1"', [partial])[:64]
        if found != digest:
            self.run('rm -f "$1"', [partial])
            raise FetchError(
                f"{source.name}: other bytes arrived at {self.host}", hint="deploy again"
            )
        self.run('mv "$1" "$2"', [partial, target])

    def _failure(self, status: int, errors: bytes | None) -> FetchError:
        lines = [line for line in (errors or b"").decode("utf-8", "replace").splitlines() if line]
        if status == FAILED:
            why = lines[-1] if lines else "the connection broke"
            return FetchError(f"{self.host} cannot be reached: {why}")
        said = "\n".join(lines[-12:]) or f"exit status {status}"
        return FetchError(f"on {self.host}: {said.removeprefix('install: ')}")
