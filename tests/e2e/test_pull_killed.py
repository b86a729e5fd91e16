"""A pull that is killed at any moment loses nothing: five times here, or KILLS times."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time

from edgellm.models import store
from hub_server import Hub, Repo

COMMAND = [sys.executable, "-c", "from edgellm.cli import main; main()"]
KILLS = int(os.environ.get("KILLS", "5"))


def start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "pull", "user/tiny-gguf", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def test_kill_9_while_a_download_is_written(hub: Hub, tiny_bytes: bytes) -> None:
    chance = random.Random(5)
    hub.pause = 0.01

    def renew(version: int) -> str:
        """Put another version of the model on the hub, so that all of it has to come."""
        data = tiny_bytes[:-4] + version.to_bytes(4, "little")
        hub.repos["user/Tiny-GGUF"] = Repo({"tiny-Q4_K_M.gguf": data}, commit=f"{version:040x}")
        return hashlib.sha256(data).hexdigest()

    def check() -> None:
        """What has a name is whole, and what its manifest says."""
        for model in store.stored_models():
            assert model.manifest is not None
            assert hashlib.sha256(model.path.read_bytes()).hexdigest() == model.manifest.sha256

    wanted = renew(0)
    assert json.loads(start().communicate(timeout=60)[0])["sha256"] == wanted
    whole = len(tiny_bytes) / (64 << 10) * hub.pause  # seconds that a download takes at least
    killed = finished = resumed = 0
    wanted = renew(1)
    while killed < KILLS:
        hub.requests.clear()
        process = start()
        while not hub.file_requests() and process.poll() is None:
            time.sleep(0.002)
        try:
            out, _ = process.communicate(timeout=chance.uniform(0, 1.5) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
        else:
            # all that the killed ones have left was taken up, and is whole
            assert process.returncode == 0, out
            assert json.loads(out)["sha256"] == wanted
            finished += 1
            wanted = renew(finished + 1)
        resumed += any((each.range or "bytes=0-") != "bytes=0-" for each in hub.file_requests())
        check()
    assert json.loads(start().communicate(timeout=60)[0])["sha256"] == wanted
    check()
    (model,) = store.stored_models()
    assert [path.name for path in model.path.parent.iterdir()] == ["tiny-Q4_K_M.gguf"]
    left = {path.name for path in store.models_dir().rglob("*") if path.is_file()}
    assert left == {"tiny-Q4_K_M.gguf", "Q4_K_M.json"}
    print(f"killed {killed}, resumed {resumed}, whole between {finished}")
