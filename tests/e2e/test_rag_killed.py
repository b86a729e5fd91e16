"""Processes that are killed (SIGKILL) while they index: nothing is half there.

TEST_KILLS=100 kills more often than the tests of every day do.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from edgellm.rag.index import compare, open_index
from edgellm.rag.store import Library
from edgellm.rag.verify import verify_library

KILLS = int(os.environ.get("TEST_KILLS", "6"))
FILES = 40
CHANGED = 12
# Vectors come from the texts' digests. The process writes a line for each document that is there.
WRITER = """
import hashlib, sys
import numpy as np
from pathlib import Path
from edgellm.rag import indexing
from edgellm.rag.index import open_index
from edgellm.rag.store import EmbedderFacts, Library

indexing.BATCH, indexing.KEPT = 4, 8

class Digests:
    facts = EmbedderFacts("digests", "digests", "digests", 64)

    def knows(self, text):
        return True

    def count_tokens(self, text):
        return len(text.split())

    def embed_passages(self, passages):
        return [
            np.random.default_rng(list(hashlib.sha256(each.encode()).digest()))
            .normal(size=64).astype("<f2").tobytes()
            for each in passages
        ]

put = Library.put_document
with Library(Path(sys.argv[1]), write=True) as library:
    def tell(self, source, chunks, vectors):
        put(self, source, chunks, vectors)
        with self.reading():
            open_index(self)
        print(source.path, source.sha256.hex(), flush=True)

    Library.put_document = tell
    print("begin", flush=True)
    library.use_embedder(Digests.facts)
    report = indexing.index_paths(library, [Path(sys.argv[2])], Digests())
    print("end", report.added + report.updated, flush=True)
"""


def writer(library: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(library), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )


def write(path: Path, chance: random.Random) -> None:
    words = chance.choice([20, 200, 3000])  # one chunk, or as many as are kept one by one
    path.write_text(" ".join(chance.choice("abcdefgh") * 4 for _ in range(words)))


def test_killed_indexing_leaves_whole_documents_and_goes_on(tmp_path: Path) -> None:
    chance = random.Random(7)
    folder, path = tmp_path / "docs", tmp_path / "l.db"
    folder.mkdir()
    for number in range(FILES):
        write(folder / f"{number}.txt", chance)
    killed = 0
    for _ in range(KILLS):
        process = writer(path, folder)
        assert process.stdout is not None
        with process, process.stdout as out:
            # at once, or behind so many documents, and at any moment of the one after
            lines = [out.readline() for _ in range(chance.randrange(1, CHANGED))]
            time.sleep(chance.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            lines += out.read().splitlines(keepends=True)
        killed += process.returncode == -signal.SIGKILL
        whole = [line.split() for line in lines if line.endswith("\n")]
        done = dict(line for line in whole if line[0].startswith("/"))
        if not path.exists() or not path.stat().st_size:
            assert not done
            continue
        with Library(path) as library:
            checks = verify_library(library, files=False)
            assert [check for check in checks if check.problem] == []
            there = {s.path: s.sha256.hex() for s in library.sources() if s.sha256}
            assert done.items() <= there.items()  # what was told is there
            if library.embedder is not None:
                with library.reading():
                    index = open_index(library)
                    assert compare(library, index) is None
                    assert index.search(library, np.ones(64, np.float32), 3) is not None
        for _ in range(CHANGED):  # the folder changes, so that documents are replaced and removed
            write(folder / f"{chance.randrange(FILES)}.txt", chance)
        (folder / f"{chance.randrange(FILES)}.txt").unlink(missing_ok=True)
    assert killed >= 0.9 * KILLS  # the others were done before
    process = writer(path, folder)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    with Library(path) as library:
        assert [check for check in verify_library(library) if check.problem] == []
        assert {source.path for source in library.sources()} == {
            str(file) for file in folder.iterdir()
        }
        assert library.execute("SELECT count(*) FROM embed_cache") == [(0,)]
    # A killed writer's half index has a name of its own, and the library none but its own files.
    assert {file.name for file in tmp_path.glob("l.db*")} <= {"l.db", "l.db.bits", "l.db.lock"}
