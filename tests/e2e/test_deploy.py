"""A bundle brought to a machine by a real sshd on loopback: interrupted, again, and back."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgellm.api.bundle import bundle
from edgellm.deploy.archive import Entry, compression, read_manifest, write_archive
from edgellm.deploy.remote import Remote
from edgellm.deploy.ship import PREFIX, deploy, plan, rollback
from edgellm.errors import DoesNotFitError, FetchError, UsageError
from sshd import Server, sshd
from tinygguf import write_tiny

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bundles are for Linux")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def remote(server: Server) -> Iterator[Remote]:
    options = [f"UserKnownHostsFile={server.key.parent}/known_hosts", "IdentitiesOnly=yes"]
    with Remote(server.host, port=server.port, identity=server.key, options=options) as connected:
        yield connected


def silent(_what: str, _done: int, _total: int) -> None:
    pass


def test_deployed_deployed_again_and_rolled_back(
    remote: Remote, server: Server, tmp_path: Path
) -> None:
    model = write_tiny(tmp_path / "tiny.gguf")
    first = tmp_path / "first.tar"
    bundle(str(model), first)
    todo = plan(remote, first, read_manifest(first))
    assert todo.current is None
    assert todo.bytes > todo.present == 0
    done = deploy(remote, first, silent)
    assert done.text.startswith("Hi ")
    assert done.tokens_per_s > 0
    prefix = server.home / PREFIX
    assert (prefix / "current").resolve().name == todo.version
    said = remote.run('"$HOME"/.local/bin/edgellm run --temp 0 -p "?"')
    assert said.startswith("Hi ")

    # Only the model is another one: it alone is copied, and the scripts that name its memory.
    write_tiny(model, answer="Yo ")
    second = tmp_path / "second.tar"
    bundle(str(model), second)
    todo = plan(remote, second, read_manifest(second))
    assert {name for name, _, _ in todo.missing} <= {"models/tiny.gguf", "install.sh"}
    assert deploy(remote, second, silent).text.startswith("Yo ")
    assert (prefix / "current").resolve().name == todo.version
    assert rollback(remote) == (prefix / "current").resolve().name != todo.version
    assert remote.run('"$HOME"/.local/bin/edgellm run --temp 0 -p "?"').startswith("Hi ")
    # What belongs to no version is gone.
    kept = {
        line[:64]
        for sums in prefix.glob("versions/*/SHA256SUMS")
        for line in sums.read_text().splitlines()
    }
    assert {path.name for path in (prefix / "blobs").iterdir()} == kept
    assert not (prefix / "incoming").exists()


SEND = """
import sys
from pathlib import Path
from edgellm.deploy.remote import Remote
host, port, key, known, source, target, digest = sys.argv[1:]
options = [f"UserKnownHostsFile={known}", "IdentitiesOnly=yes"]
with Remote(host, port=int(port), identity=Path(key), options=options) as remote:
    remote.send(Path(source), target, digest, lambda _count: None)
"""


def test_a_copy_that_was_killed_goes_on_where_it_was(
    remote: Remote, server: Server, tmp_path: Path
) -> None:
    source, target = tmp_path / "large", server.home / "large"
    with source.open("wb") as file:
        for number in range(256):
            file.write(bytes([number]) * (1 << 20))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    known = server.key.parent / "known_hosts"
    words = [server.host, server.port, server.key, known, source, target, digest]
    process = subprocess.Popen(
        [sys.executable, "-c", SEND, *map(str, words)], start_new_session=True
    )
    partial = Path(f"{target}.part")
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 1 << 20):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not target.exists()
    size, before = partial.stat().st_size, -1
    while size != before:  # what was under way arrives yet
        time.sleep(0.3)
        before, size = size, partial.stat().st_size
    assert 0 < size < 256 << 20
    reported: list[int] = []
    remote.send(source, str(target), digest, reported.append)
    assert reported[0] == size
    assert sum(reported) == 256 << 20
    assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
    assert not partial.exists()


def test_other_bytes_are_not_taken_for_the_file(
    remote: Remote, server: Server, tmp_path: Path
) -> None:
    source, target = tmp_path / "file", server.home / "file"
    source.write_bytes(b"12345678")
    Path(f"{target}.part").write_bytes(b"wrong")
    digest = hashlib.sha256(b"12345678").hexdigest()
    with pytest.raises(FetchError, match="file: other bytes arrived"):
        remote.send(source, str(target), digest, lambda _count: None)
    assert not target.exists()
    remote.send(source, str(target), digest, lambda _count: None)
    assert target.read_bytes() == b"12345678"


def written(path: Path, files: dict[str, bytes], fields: dict[str, object]) -> Path:
    entries = [Entry(name, data, name.endswith(".sh")) for name, data in files.items()]
    with path.open("wb") as stream:
        write_archive(stream, compression(path), entries, fields, lambda _done, _total: None)
    return path


def test_a_full_disk_is_told_before_anything_is_copied(remote: Remote, tmp_path: Path) -> None:
    archive = written(tmp_path / "a.tar", {"m": b"x"}, {"unpacked_bytes": 10**18})
    with pytest.raises(DoesNotFitError, match=r"MB free on its disk, and a\.tar needs"):
        plan(remote, archive, read_manifest(archive))


def test_a_machine_that_does_not_suit_gets_nothing(
    remote: Remote, server: Server, tmp_path: Path
) -> None:
    from importlib.resources import files

    script = (files("edgellm.deploy") / "files" / "install.sh").read_text()
    values = {"MACHINE": "riscv64", "PYTHONS": "3.11", "GLIBC": "2.0", "MEMORY": "0"}
    for name, value in {**values, "COPIED": "0", "UNPACKED": "0"}.items():
        script = script.replace(f"@{name}@", value)
    archive = written(
        tmp_path / "a.tar", {"install.sh": script.encode(), "m": os.urandom(1000)}, {}
    )
    with pytest.raises(FetchError, match="the bundle is for riscv64"):
        deploy(remote, archive, silent)
    digest = read_manifest(archive).files["m"][0]
    assert not (server.home / PREFIX / "blobs" / digest).exists()


@pytest.mark.parametrize("host", ["-oProxyCommand=id", "a b", "a@-b", "", "a;b", "$(id)"])
def test_a_host_is_not_an_option_of_ssh(host: str) -> None:
    with pytest.raises(UsageError, match="is no host"):
        Remote(host)


def test_a_host_that_is_not_there_is_a_sentence(server: Server) -> None:
    quick: Callable[..., Remote] = Remote
    with quick("127.0.0.1", port=1) as remote, pytest.raises(FetchError, match="cannot be reached"):
        remote.run("true")
