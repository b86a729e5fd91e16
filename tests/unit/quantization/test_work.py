"""The folder that an interrupted quantization leaves behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edgellm.errors import EdgellmError
from edgellm.quantization.work import STALE_SECONDS, Work, job_key


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))


def test_results_are_there_for_the_next_run_until_they_are_removed() -> None:
    with Work.open("k") as work:
        path = work.path("x", "blk.0/attn_q", "Q4_0")
        assert work.read(path) is None
        work.write(path, {"a": "ü"})
    with Work.open("k") as work:
        assert work.read(path) == {"a": "ü"}
        assert work.read(work.path("x", "blk.0/attn_q", "Q4_1")) is None
        work.remove()
    with Work.open("k") as work:
        assert work.read(path) is None


def test_what_is_half_written_has_no_name() -> None:
    with Work.open("k") as work:
        path = work.path("x")
        with pytest.raises(FileNotFoundError), work.writing(path) as temporary:  # noqa: PT012
            temporary.write_bytes(b"half")
            (work.folder / "missing").unlink()
        assert [file.name for file in work.folder.iterdir()] == ["lock"]


def test_one_process_at_a_time() -> None:
    with Work.open("k"), pytest.raises(EdgellmError, match="another process"), Work.open("k"):
        pass
    with Work.open("k"), Work.open("other"):
        pass


def test_folders_of_old_jobs_are_removed(tmp_path: Path) -> None:
    with Work.open("old") as work:
        old = work.folder
    then = time.time() - STALE_SECONDS - 60
    os.utime(old, (then, then))
    with Work.open("new"):
        assert not old.exists()


def test_a_job_is_named_by_all_its_facts() -> None:
    facts = {"type": "Q4_0", "seed": 0}
    assert job_key(facts) == job_key(dict(reversed(facts.items())))
    assert job_key(facts) != job_key(facts | {"seed": 1})
