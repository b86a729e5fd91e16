"""Processes that are killed (SIGKILL) while they write conversations and states of prompts.

TEST_KILLS=50 kills more often than the tests of every day do.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgellm.api.chat import load
from edgellm.generate.promptcache import prompts_dir
from edgellm.generate.saved import load_session, save_session, sessions_dir
from tinygguf import PERSIAN, write_tiny

KILLS = int(os.environ.get("TEST_KILLS", "6"))
LIMIT = 15_000_000  # bytes: a dozen states of this model, so that older ones make room all the time
FILLER = "گفتگویی دراز و بی‌پایان " * 8  # more than 256 bytes, each of which is a token
EVENTS = 24  # so often two turns open, rename or remove a temporary file
# Every answer is kept twice, and its number is written when both files should be there. After the
# first one the process kills itself at an event, if it is given one's number.
WRITER = """
import os, signal, sys
from edgellm.api.chat import load
from edgellm.errors import NotFoundError
from edgellm.generate.saved import SavedSession, load_session, save_session

path, limit, filler, left = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
counts = False

def count(event, args):
    global left
    if counts and event in ("open", "os.rename", "os.remove") and ".tmp" in str(args[0]):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
with load(path, threads=1, prompt_cache=limit) as model:
    talk = model.conversation()
    try:
        before = load_session("work").messages
    except NotFoundError:
        before = ()
    number = len(before) // 2
    while True:
        talk.clear()
        talk.ask(f"{number} {filler}").read()
        before = (*before, *talk.messages)
        save_session("work", SavedSession(path, None, before))
        model.keep_prompt()
        print(number, flush=True)
        number += 1
        counts = True
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context=1024))


def killed(tiny: str, event: int, seconds: float) -> int:
    """Kill a process that writes, at an event or after a while; gives the last number it wrote."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, tiny, str(LIMIT), FILLER, str(event)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout as out:
        first = out.readline()
        if not event:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
        numbers = [first, *out.read().splitlines(keepends=True)]
    assert process.returncode == -signal.SIGKILL
    return int([number for number in numbers if number.endswith("\n")][-1])


def check_states(folder: Path) -> None:
    """Every head that is there has its state, and the state is what the head says it is."""
    for head in folder.glob("*.head"):
        facts = json.loads(head.read_bytes().partition(b"\n")[0])
        assert (
            hashlib.sha256(head.with_suffix(".state").read_bytes()).hexdigest() == facts["sha256"]
        )


def test_killed_writers_lose_nothing_and_leave_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    chance = random.Random(5)
    for turn in range(KILLS):
        event = 0 if turn % 5 == 4 else chance.randint(1, EVENTS)
        last = killed(tiny, event, chance.uniform(0, 0.1))
        messages = load_session("work").messages
        questions = [message.content for message in messages[::2]]
        assert questions == [f"{number} {FILLER}" for number in range(len(questions))]
        assert {message.content for message in messages[1::2]} == {"Hi " + PERSIAN}
        assert len(questions) in (last + 1, last + 2)  # the next one may be there as well
        check_states(prompts_dir())
        with load(tiny, threads=1, prompt_cache=LIMIT) as model:
            model.conversation().ask(f"{last} {FILLER}").read()
            assert model.restored_tokens > 256
    # Whoever writes next removes what they left.
    killed(tiny, 0, 0)
    with load(tiny, threads=1, prompt_cache=LIMIT) as model:
        model.conversation().ask(FILLER + FILLER).read()
    files = {file.name for file in prompts_dir().iterdir()}
    heads = {name.removesuffix(".head") for name in files if name.endswith(".head")}
    assert files == {f"{stem}.{ending}" for stem in heads for ending in ("head", "state")}
    assert sum(file.stat().st_size for file in prompts_dir().iterdir()) <= LIMIT
    save_session("work", load_session("work"))
    assert [file.name for file in sessions_dir().iterdir()] == ["work.json"]
