"""Pulling as a person meets it: questions, progress, Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgellm.models import store
from hub_server import Hub
from tinygguf import PERSIAN

pytest.importorskip("pty", reason="needs a system with pseudo-terminals")
from pseudo_terminal import INTERRUPT, Terminal


@pytest.fixture
def screen() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for each in opened:
        each.close()


def start(screen: list[Terminal], *args: str) -> Terminal:
    screen.append(Terminal(*args))
    return screen[-1]


def test_run_asks_before_it_pulls(hub: Hub, screen: list[Terminal]) -> None:
    words = ("run", "user/tiny-gguf:q8_0", "hi", "--temp", "0", "-t", "1")
    refused = start(screen, *words)
    refused.expect("user/tiny-gguf:q8_0 is not in the store. Pull it? [y/N]: ")
    refused.send("n\n")
    refused.expect("hint: if it is one of the Hugging Face hub: edgellm pull user/tiny-gguf:q8_0")
    assert refused.wait() == 3
    assert hub.requests == []
    hub.pause = 0.02
    agreed = start(screen, *words)
    agreed.expect("Pull it? [y/N]: ")
    agreed.send("y\n")
    agreed.expect("user/Tiny-GGUF:Q8_0: tiny-Q8_0.gguf, ")
    agreed.expect("fits this device")
    agreed.expect("Hi " + PERSIAN)
    assert agreed.wait() == 0


def test_ctrl_c_leaves_what_came(hub: Hub, tiny_bytes: bytes, screen: list[Terminal]) -> None:
    hub.pause = 0.05
    stopped = start(screen, "pull", "user/tiny-gguf")
    stopped.expect("\r\033[Kpulling tiny-Q4_K_M.gguf  ")
    stopped.expect("MB/s, ")
    stopped.expect(" s left")
    stopped.send(INTERRUPT)
    stopped.expect("what came is kept")
    stopped.expect("edgellm: interrupted")
    assert stopped.wait() == 130
    (partial,) = store.models_dir().rglob("*.partial")
    have = partial.stat().st_size
    assert have > 64 << 10
    hub.pause = 0.0
    hub.requests.clear()
    again = start(screen, "pull", "user/tiny-gguf")
    again.expect("of it have to be downloaded")
    again.expect("is in the store")
    assert again.wait() == 0
    assert (hub.file_requests()[0].range or "").startswith(f"bytes={have}-")
    (model,) = store.stored_models()
    assert model.path.read_bytes() == tiny_bytes


def test_rm_asks(hub: Hub, screen: list[Terminal]) -> None:
    path = store.models_dir() / "mine.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    kept = start(screen, "rm", "mine")
    kept.expect("mine  4 B  ")
    kept.expect("Remove? [y/N]: ")
    kept.send("n\n")
    kept.expect("nothing is removed")
    assert kept.wait() == 0
    assert path.exists()
    gone = start(screen, "rm", "mine")
    gone.expect("Remove? [y/N]: ")
    gone.send("y\n")
    gone.expect("mine is removed, 4 B are free")
    assert gone.wait() == 0
    assert not path.exists()
