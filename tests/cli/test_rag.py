"""`edgellm rag` as a person calls it, searched by words alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgellm import settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "cats.txt").write_text("The cat sat by the river.")
    (folder / "fa.md").write_text("# ایران\n\nتهران پایتخت ایران است.", encoding="utf-8")
    return folder


def loads(out: str) -> dict[str, object]:
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_add_search_list_rm_verify(call, folder: Path) -> None:
    status, out, _ = call("rag", "add", str(folder), "--embedder", "none", "--json")
    added = loads(out)
    assert (status, added["added"], added["failed"], added["chunks"]) == (0, 2, [], 2)
    library = settings.home_dir() / "rag" / "library.db"
    assert added["library"] == str(library)
    assert library.stat().st_size > 0

    status, out, err = call("rag", "search", "پايتخت", "ايران", "--json")
    (hit,) = loads(out)["hits"]  # type: ignore[misc]
    assert status == 0
    assert hit["path"] == str(folder / "fa.md")
    assert hit["heading"] == "ایران"
    assert (folder / "fa.md").read_text()[hit["start"] : hit["end"]] == hit["text"]
    assert hit["scores"]["dense"] is None
    assert hit["scores"]["lexical"] > 0
    assert (hit["rank"], hit["page"]) == (1, None)

    status, out, err = call("rag", "search", "river")
    assert status == 0
    assert str(folder / "cats.txt") in out
    assert "The cat sat" in out
    assert "words alone" in err

    status, out, _ = call("rag", "list", "--json")
    listed = loads(out)
    assert [Path(each["path"]).name for each in listed["sources"]] == [  # type: ignore[attr-defined]
        "cats.txt",
        "fa.md",
    ]
    assert call("rag", "list")[0] == 0

    status, out, _ = call("rag", "verify", "--json")
    assert (status, loads(out)["holds"]) == (0, True)

    status, out, _ = call("rag", "rm", str(folder / "cats.txt"), "-y", "--json")
    assert (status, loads(out)) == (0, {"removed": [str(folder / "cats.txt")]})
    assert (folder / "cats.txt").exists()
    status, out, err = call("rag", "search", "river")
    assert (status, out) == (0, "")
    assert "nothing is found" in err
    assert call("rag", "rm", str(folder / "cats.txt"), "-y")[0] == 3


def test_files_that_fail_are_told_and_the_rest_is_indexed(call, folder: Path, tmp_path: Path):
    (folder / "broken.txt").write_bytes(b"\0\1\2" * 400)
    db = str(tmp_path / "l.db")
    status, out, err = call("rag", "add", str(folder), "--db", db, "--embedder", "none")
    assert status == 1
    assert "2 added, 1 failed" in out
    assert f"not read: {folder / 'broken.txt'}: " in err
    status, out, err = call("rag", "list", "--db", db)
    assert "NOT READ" in out


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("search", "x"), 3, "there is no library"),
        (("add", "/no/such/place", "--embedder", "none"), 3, "no file or folder /no/such/place"),
        (("add", "."), 3, "the embedder nothing.gguf is not here"),
        (("search", "x", "--since", "yesterday"), 2, "--since yesterday"),
        (("verify", "--db", __file__), 5, "is not a SQLite file"),
        (("nonsense",), 2, "No such command 'nonsense'"),
    ],
)
def test_errors_are_a_sentence_and_a_status(
    call, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    if arguments == ("add", "."):
        arguments += ("--embedder", "nothing.gguf")
    got, out, err = call("rag", *arguments)
    assert (got, out) == (status, "")
    assert sentence in err
    assert "Traceback" not in err


def test_a_library_of_words_refuses_an_embedder(call, folder: Path, tiny_bytes, tmp_path) -> None:
    assert call("rag", "add", str(folder), "--embedder", "none")[0] == 0
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny_bytes)
    status, _, err = call("rag", "add", str(folder), "--embedder", str(model))
    assert status != 0
    assert "Traceback" not in err


def test_verify_says_what_is_wrong_and_repairs(call, folder: Path, tmp_path: Path) -> None:
    import sqlite3

    db = tmp_path / "l.db"
    assert call("rag", "add", str(folder), "--db", str(db), "--embedder", "none")[0] == 0
    connection = sqlite3.connect(db)
    connection.execute("INSERT INTO fts(fts) VALUES ('delete-all')")
    connection.commit()
    connection.close()
    status, out, err = call("rag", "verify", "--db", str(db))
    assert status == 7
    assert "terms: DOES NOT HOLD" in out
    assert "--repair" in err
    assert call("rag", "verify", "--db", str(db), "--repair")[0] == 0
    (folder / "cats.txt").write_text("The dog sat by the river.")
    status, out, _ = call("rag", "verify", "--db", str(db))
    assert status == 7
    assert "the file has changed" in out
    assert call("rag", "verify", "--db", str(db), "--no-files")[0] == 0
