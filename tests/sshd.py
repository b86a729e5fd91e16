"""A real sshd on loopback, with a key, a port and a home of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Server", "sshd"]


@dataclass(frozen=True)
class Server:
    """Where it listens, and the home of whoever comes in."""

    host: str
    port: int
    key: Path
    home: Path


@contextmanager
def sshd(place: Path) -> Iterator[Server]:
    """Run one; the person of this process comes in with `key`, into a home under `place`."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH's server: sudo apt install openssh-server")
    place.chmod(0o700)
    for name in ("host", "key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True
        )
    home = place / "home"
    home.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": place / "host",
        "AuthorizedKeysFile": place / "key.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "yes",
        "MaxSessions": "20",
        "SetEnv": f"HOME={home}",
    }
    config = place / "config"
    config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    log = place / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(config)], stderr=output)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            pytest.skip(f"sshd does not start here: {log.read_text().strip()}")
        # The client asks nobody whether it knows the server.
        known = subprocess.run(
            ["ssh-keyscan", "-p", str(port), "127.0.0.1"],
            capture_output=True,
            text=True,
            check=True,
        )
        (place / "known_hosts").write_text(known.stdout)
        yield Server(f"{getpass.getuser()}@127.0.0.1", port, place / "key", home)
    finally:
        process.terminate()
        process.wait()
