"""States on disk: what is found, what is refused, what makes room."""

from __future__ import annotations

import fcntl
import os
from collections import namedtuple

import pytest

from edgellm.errors import BackendError
from edgellm.generate.promptcache import PromptCache

ONE, TWO = "1" * 64, "2" * 64
STATE = bytes(range(256)) * 4


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "prompts"


@pytest.fixture
def cache(folder):
    return PromptCache(folder, 100_000, worth=1)


def writes(content: bytes = STATE):
    return lambda path: path.write_bytes(content)


def names(folder, ending: str = "") -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(ending))


def read(cache, entry) -> bytes | None:
    """Give what native code would get; None if it would get nothing."""
    found: list[bytes] = []
    whole = cache.read(entry, lambda path: found.append(path.read_bytes()))
    assert whole == bool(found)
    return found[0] if found else None


def test_the_longest_common_beginning_is_found_and_read(cache):
    assert cache.find(ONE, [1, 2, 3]) is None
    assert cache.add(ONE, [1, 2, 3, 4], 4, writes(b"1234"))
    assert cache.add(ONE, [1, 2, -3], 3, writes(b"123"))
    assert cache.add(TWO, [1, 2, 3, 4, 5], 5, writes(b"other model"))
    entry, common = cache.find(ONE, [1, 2, 3, 4, 5])
    assert (common, entry.token_list(), read(cache, entry)) == (4, [1, 2, 3, 4], b"1234")
    entry, common = cache.find(ONE, [1, 2, -3, 7])
    assert (common, read(cache, entry)) == (3, b"123")
    assert cache.find(ONE, [9])[1] == 0
    assert cache.find(ONE, [])[1] == 0


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 100])
def test_common_beginnings_are_counted_exactly(cache, length):
    cache.add(ONE, range(100), 1, writes())
    wanted = [*range(length), *([-1] * 5)]
    assert cache.find(ONE, wanted)[1] == length


def test_what_another_cache_wrote_is_found(folder, cache):
    cache.add(ONE, [1, 2], 4, writes())
    entry, _ = PromptCache(folder, 100_000, worth=1).find(ONE, [1, 2])
    assert read(cache, entry) == STATE


def test_only_the_person_can_read_them(folder, cache):
    mask = os.umask(0)
    try:
        cache.add(ONE, [1], 4, writes())
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [entry.stat().st_mode & 0o777 for entry in folder.iterdir()] == [0o600] * 2


@pytest.mark.parametrize("at", [0, 1, 500, len(STATE) - 1])
def test_a_state_with_a_changed_byte_reaches_no_native_code_and_goes(folder, cache, at):
    cache.add(ONE, [1, 2], 4, writes())
    entry, _ = cache.find(ONE, [1, 2])
    raw = bytearray(entry.state.read_bytes())
    raw[at] ^= 1
    entry.state.write_bytes(raw)
    assert read(cache, entry) is None
    assert names(folder) == []


@pytest.mark.parametrize("content", [b"", STATE[:-1], STATE + b"x"])
def test_a_state_of_another_length_goes(folder, cache, content):
    cache.add(ONE, [1, 2], 4, writes())
    entry, _ = cache.find(ONE, [1, 2])
    entry.state.write_bytes(content)
    assert read(cache, entry) is None
    assert names(folder) == []


def test_any_changed_byte_of_a_head_makes_it_none(folder, cache):
    cache.add(ONE, [1, 2], 4, writes())
    head = folder / names(folder, ".head")[0]
    state = head.with_suffix(".state")
    whole = head.read_bytes()
    for at in range(len(whole)):
        head.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        state.write_bytes(STATE)
        assert cache.find(ONE, [1, 2]) is None
        assert names(folder) == []
    for cut in (0, 1, 31, 32, 33, len(whole) - 1):
        head.write_bytes(whole[:cut])
        assert cache.find(ONE, [1, 2]) is None
    head.write_bytes(whole)
    assert cache.find(ONE, [1, 2]) is not None


def test_another_model_whose_digest_begins_alike_is_no_hit(cache):
    cache.add("a" * 64, [1, 2], 4, writes())
    assert cache.find("a" * 63 + "b", [1, 2]) is None
    assert cache.find("a" * 64, [1, 2]) is not None


def test_what_the_backend_refuses_goes(folder, cache):
    cache.add(ONE, [1, 2], 4, writes())
    entry, _ = cache.find(ONE, [1, 2])

    def refuse(path):
        raise BackendError("of another build")

    assert not cache.read(entry, refuse)
    assert names(folder) == []


def test_a_file_that_vanished_is_a_miss(folder, cache):
    cache.add(ONE, [1, 2], 4, writes())
    entry, _ = cache.find(ONE, [1, 2])
    entry.state.unlink()
    assert read(cache, entry) is None
    assert cache.find(ONE, [1, 2]) is None


def test_the_beginning_of_what_is_added_is_removed(folder, cache):
    cache.add(ONE, [1, 2], 4, writes())
    cache.add(ONE, [1, 3], 4, writes())
    cache.add(TWO, [1], 4, writes())
    cache.add(ONE, [1, 2, 3], 4, writes())
    assert len(names(folder, ".head")) == len(names(folder, ".state")) == 3
    assert cache.find(ONE, [1, 2])[0].count == 3


def test_what_lacks_few_tokens_of_an_entry_takes_its_place(folder):
    cache = PromptCache(folder, 100_000, worth=10)
    cache.add(ONE, range(100), 4, writes())
    cache.add(ONE, [*range(90), -1], 4, writes())  # ten are missing
    assert len(names(folder, ".head")) == 2
    cache.add(ONE, [*range(91), -1], 4, writes())
    assert [cache.find(ONE, range(100))[0].count, len(names(folder, ".head"))] == [92, 1]


def test_what_was_not_used_for_longest_makes_room(folder, cache):
    cache = PromptCache(folder, 5600, worth=1)  # four states of 1 kB with their heads
    for number in range(4):
        cache.add(ONE, [number], len(STATE), writes())
        os.utime(cache.find(ONE, [number])[0].head, (number, number))
    read(cache, cache.find(ONE, [0])[0])  # now the last used
    cache.add(ONE, [4], len(STATE), writes())
    assert [cache.find(ONE, [number])[1] for number in range(5)] == [1, 0, 1, 1, 1]
    for number in range(5, 30):
        cache.add(TWO, [number], len(STATE), writes())
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 5600


def test_a_state_that_is_large_for_the_cache_is_not_kept(folder, cache):
    assert not cache.add(ONE, [1], 25_001, lambda path: pytest.fail("it is not even written"))
    assert not cache.add(ONE, [1], 10, writes(bytes(25_001)))  # larger than it was said to be
    assert names(folder) == []
    assert cache.add(ONE, [1], 10, writes(bytes(25_000)))


def test_a_nearly_full_disk_is_left_alone(folder, cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**12, 0, 2**29 + 999))
    assert not cache.add(ONE, [1], 1000, writes())
    assert cache.add(ONE, [1], 999, writes())


@pytest.mark.parametrize("error", [OSError(28, "No space left"), BackendError("no")])
def test_a_failed_write_leaves_nothing(folder, cache, error):
    def fail(path):
        path.write_bytes(b"half")
        raise error

    assert not cache.add(ONE, [1], 4, fail)
    assert names(folder) == []


def test_an_interrupted_write_leaves_nothing(folder, cache):
    def interrupt(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.add(ONE, [1], 4, interrupt)
    assert names(folder) == []


def test_what_killed_processes_left_is_swept_away_and_nothing_that_is_written(folder, cache):
    folder.mkdir()
    left = ("a-1.state", ".a-2.state.tmp", ".a-2.head.tmp")
    held = ("b-1.state", ".b-2.state.tmp", ".b-2.head.tmp")
    for name in (*left, *held):
        (folder / name).write_bytes(b"half")
    opened = [(folder / name).open("rb") for name in held]
    for file in opened:
        fcntl.flock(file, fcntl.LOCK_EX)
    cache.add(ONE, [1], 4, writes())
    kept = names(folder)
    assert set(held) <= set(kept)
    assert len(kept) == len(held) + 2
    for file in opened:
        file.close()
    cache.add(TWO, [1], 4, writes())
    assert len(names(folder)) == 4


def test_a_folder_that_cannot_be_made_is_a_miss(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = PromptCache(tmp_path / "file" / "prompts", 1000, worth=1)
    assert cache.find(ONE, [1]) is None
    assert not cache.add(ONE, [1], 4, writes())
