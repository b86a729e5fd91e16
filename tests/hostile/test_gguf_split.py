"""Models in several GGUF files, written byte by byte: whole ones, and parts that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellm.models.check import check_model_file
from edgellm_converters.checkpoints import gguf_split
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.errors import (
    ConvertersError,
    CorruptFileError,
    SourceNotFoundError,
    UnsupportedError,
)
from hostile import ggufbytes as g

WHOLE = g.small()
QUICK = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def numbers(part: int, count: int, tensors: int) -> list[g.Pair]:
    """The keys of gguf-split, in the types that it writes."""
    return [
        g.pair("split.no", g.U16, part),
        g.pair("split.count", g.U16, count),
        g.pair("split.tensors.count", g.I32, tensors),
    ]


def name(part: int, count: int) -> str:
    return f"model-{part + 1:05d}-of-{count:05d}.gguf"


def cut(whole: g.File, shares: list[int]) -> dict[str, g.File]:
    """Cut a file into parts of so many tensors each, as gguf-split does."""
    assert sum(shares) == len(whole.tensors)
    files, at = {}, 0
    for part, share in enumerate(shares):
        pairs = [*(whole.pairs if part == 0 else []), *numbers(part, len(shares), sum(shares))]
        tensors = whole.tensors[at : at + share]
        files[name(part, len(shares))] = g.File(pairs, tensors, alignment=whole.alignment)
        at += share
    return files


def write(folder: Path, files: dict[str, g.File]) -> None:
    for file, content in files.items():
        (folder / file).write_bytes(content.build())


@pytest.mark.parametrize("shares", [[1, 1, 1], [0, 3], [0, 1, 2], [3, 0], [2, 1]])
def test_any_part_opens_all(shares: list[int], tmp_path: Path) -> None:
    write(tmp_path, cut(WHOLE, shares))
    (tmp_path / "whole.gguf").write_bytes(WHOLE.build())
    files = tuple(tmp_path / name(part, len(shares)) for part in range(len(shares)))
    with GGUFCheckpoint(tmp_path / "whole.gguf") as whole:
        for part in files:
            with GGUFCheckpoint(part) as checkpoint:
                assert checkpoint.path == files[0]
                assert checkpoint.files == files
                assert checkpoint.names == whole.names
                assert checkpoint.header.metadata["x.words"] == whole.header.metadata["x.words"]
                for tensor in (*whole.names, *reversed(whole.names)):
                    assert checkpoint.raw(tensor).tobytes() == whole.raw(tensor).tobytes()
                    assert checkpoint.info(tensor).path in files


@given(st.lists(st.integers(0, 6), min_size=2, max_size=5), st.data())
@QUICK
def test_tensors_may_be_spread_in_any_way(
    tmp_path: Path, shares: list[int], data: st.DataObject
) -> None:
    tensors = [
        g.Tensor(f"t{at}", (at + 1,), g.GGML_F32, bytes([at]) * 4 * (at + 1))
        for at in range(sum(shares))
    ]
    files = cut(g.File([g.pair("general.architecture", g.STRING, "llama")], tensors), shares)
    write(tmp_path, files)
    opened = data.draw(st.sampled_from(sorted(files)))
    with GGUFCheckpoint(tmp_path / opened) as checkpoint:
        assert list(checkpoint.names) == [tensor.name for tensor in tensors]
        for tensor in tensors:
            assert checkpoint.raw(str(tensor.name)).tobytes() == tensor.data


Files = dict[str, g.File]


def changed(part: int, pair: g.Pair) -> Callable[[Files], object]:
    def change(files: Files) -> None:
        files[name(part, 3)] = files[name(part, 3)].with_pair(pair)

    return change


def without(part: int, key: str) -> Callable[[Files], object]:
    def change(files: Files) -> None:
        files[name(part, 3)] = files[name(part, 3)].without(key)

    return change


def renamed(files: Files) -> None:
    files["other.gguf"] = files.pop(name(0, 3))


def swapped(files: Files) -> None:
    one, two = name(1, 3), name(2, 3)
    files[one], files[two] = files[two], files[one]


def twice(files: Files) -> None:
    part = files[name(2, 3)]
    files[name(2, 3)] = replace(part, tensors=[replace(part.tensors[0], name="a")])


def one_more(files: Files) -> None:
    part = files[name(2, 3)]
    files[name(2, 3)] = replace(part, tensors=[*part.tensors, g.Tensor("d", (2,))])


BROKEN: dict[str, tuple[Callable[[Files], object], type[ConvertersError], str, str]] = {
    # what is done, the error, the file that it names, words of it
    "a part is missing": (
        lambda files: files.pop(name(1, 3)),
        SourceNotFoundError,
        name(1, 3),
        "part 2 of 3 of the model is not there",
    ),
    "a part is renamed": (renamed, CorruptFileError, "other.gguf", "the name does not say"),
    "parts in each other's place": (
        swapped,
        CorruptFileError,
        name(1, 3),
        "split.no is 2, but the name says 1",
    ),
    "another count": (
        changed(2, g.pair("split.count", g.U16, 4)),
        CorruptFileError,
        name(2, 3),
        "split.count is 4",
    ),
    "no split keys in a part": (
        without(1, "split.count"),
        CorruptFileError,
        name(1, 3),
        "split.count is 1",
    ),
    "no number": (without(1, "split.no"), CorruptFileError, name(1, 3), "no split.no"),
    "a count that is text": (
        changed(0, g.pair("split.count", g.STRING, "3")),
        CorruptFileError,
        name(0, 3),
        "split.count is of type string, not uint16",
    ),
    "a number of another size": (
        changed(1, g.pair("split.no", g.U32, 1)),
        CorruptFileError,
        name(1, 3),
        "split.no is of type uint32, not uint16",
    ),
    "more parts than any model": (
        changed(0, g.pair("split.count", g.U16, 65535)),
        UnsupportedError,
        name(0, 3),
        "65535 parts",
    ),
    "another number of tensors": (
        changed(1, g.pair("split.tensors.count", g.I32, 4)),
        CorruptFileError,
        name(1, 3),
        "different models",
    ),
    "another architecture": (
        changed(2, g.pair("general.architecture", g.STRING, "gemma3")),
        CorruptFileError,
        name(2, 3),
        "different models",
    ),
    "a tensor twice": (twice, CorruptFileError, name(2, 3), "'a' stands in"),
    "a tensor too many": (one_more, CorruptFileError, name(0, 3), "parts hold 4 tensors"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_parts_that_do_not_fit(case: str, tmp_path: Path) -> None:
    change, kind, file, words = BROKEN[case]
    files = cut(WHOLE, [1, 1, 1])
    change(files)
    write(tmp_path, files)
    opened = tmp_path / ("other.gguf" if "other.gguf" in files else name(0, 3))
    with pytest.raises(kind) as caught:
        GGUFCheckpoint(opened)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / file}: ")
    assert words in message
    assert "\n" not in message


def test_a_part_that_is_cut_short(tmp_path: Path) -> None:
    files = cut(WHOLE, [1, 1, 1])
    write(tmp_path, files)
    last = tmp_path / name(2, 3)
    last.write_bytes(last.read_bytes()[: files[last.name].last_data_byte() - 1])
    with pytest.raises(CorruptFileError, match=name(2, 3)) as caught:
        GGUFCheckpoint(tmp_path / name(0, 3))
    assert "beyond" in str(caught.value)


def test_a_part_that_goes_away_while_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, cut(WHOLE, [1, 1, 1]))
    with GGUFCheckpoint(tmp_path / name(0, 3)) as checkpoint:
        (tmp_path / name(2, 3)).unlink()
        with pytest.raises(SourceNotFoundError, match=name(2, 3)):
            checkpoint.raw("c")
        assert checkpoint.raw("a").size


def test_a_file_that_says_it_is_the_only_part(tmp_path: Path) -> None:
    for count in (0, 1):
        path = tmp_path / "any name.gguf"
        path.write_bytes(WHOLE.with_pair(g.pair("split.count", g.U16, count)).build())
        with GGUFCheckpoint(path) as checkpoint:
            assert checkpoint.files == (path,)


def test_more_tensors_than_any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_split, "MAX_TENSORS", 2)
    write(tmp_path, cut(WHOLE, [1, 1, 1]))
    with pytest.raises(CorruptFileError, match="more than 2 tensors"):
        GGUFCheckpoint(tmp_path / name(0, 3))


def test_a_split_model_is_checked_whole_before_it_is_run(tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(g.model().build())
    tensors = [(each.name, each.nbytes) for each in check_model_file(whole).tensors]
    write(tmp_path, cut(g.model(), [5, 6]))
    header = check_model_file(tmp_path / name(0, 2))
    assert [(each.name, each.nbytes) for each in header.tensors] == tensors
    assert header.file_size == sum((tmp_path / name(n, 2)).stat().st_size for n in (0, 1))
    with pytest.raises(UnsupportedError, match="a later part") as caught:
        check_model_file(tmp_path / name(1, 2))
    assert name(0, 2) in str(caught.value.hint)
    (tmp_path / name(1, 2)).unlink()
    with pytest.raises(SourceNotFoundError, match="part 2 of 2"):
        check_model_file(tmp_path / name(0, 2))


def test_a_tensor_of_a_later_part_is_checked_too(tmp_path: Path) -> None:
    model = g.model()
    norm = next(each for each in model.tensors if each.name == "output_norm.weight")
    wide = g.Tensor(norm.name, norm.dims, 1)  # F16
    others = [each for each in model.tensors if each is not norm]
    write(tmp_path, cut(replace(model, tensors=[*others, wide]), [len(others), 1]))
    with pytest.raises(CorruptFileError, match=r"'output_norm.weight' is of type F16, not F32"):
        check_model_file(tmp_path / name(0, 2))


PARTS = {file: content.build() for file, content in cut(WHOLE, [1, 0, 2]).items()}


@given(
    st.sampled_from(sorted(PARTS)),
    st.lists(st.tuples(st.integers(0, 1200), st.binary(min_size=1, max_size=8)), min_size=1),
    st.sampled_from(sorted(PARTS)),
)
@QUICK
def test_mutated_parts(
    tmp_path: Path, mutated: str, changes: list[tuple[int, bytes]], opened: str
) -> None:
    for file, whole in PARTS.items():
        data = bytearray(whole)
        for position, value in changes if file == mutated else ():
            data[position % len(data) : position % len(data) + len(value)] = value
        (tmp_path / file).write_bytes(data)
    try:
        checkpoint = GGUFCheckpoint(tmp_path / opened)
    except ConvertersError:
        return
    with checkpoint:
        assert all(checkpoint.raw(tensor).size for tensor in checkpoint.names)
