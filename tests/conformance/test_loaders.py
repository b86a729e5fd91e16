"""What every loader of documents gives, and what hostile files do to it: nothing but a reason."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import document_files
from edgellm.errors import UsageError
from edgellm.rag.chunk import chunks
from edgellm.rag.clean import clean
from edgellm.rag.document import Page
from edgellm.rag.loaders import LOADERS, LoaderError, load, process
from edgellm.rag.normalise import query_terms

FORMATS = (
    ".txt", ".md", ".html", ".csv", ".json", ".jsonl", ".py", ".pdf", ".docx", ".epub",
)  # fmt: skip
HEADED = (".md", ".html", ".py", ".pdf", ".docx", ".epub")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return document_files.write_all(tmp_path_factory.mktemp("documents"))


def test_every_loader_has_a_file_here(files: dict[str, Path]) -> None:
    for loader in LOADERS:
        assert set(loader.suffixes) & set(files), loader.name


@pytest.mark.parametrize("suffix", FORMATS)
def test_words_of_two_scripts_come_out(files: dict[str, Path], suffix: str) -> None:
    document = load(files[suffix])
    shown = "\n".join(page.text for page in document.pages)
    found = set(query_terms(shown))
    assert set(query_terms(document_files.ENGLISH)) <= found
    # PDF has no ZWNJ: its two sides are there, or the joined form.
    wanted = document_files.PERSIAN.replace("‌", " " if suffix == ".pdf" else "‌")
    missing = set(query_terms(wanted)) - found
    assert not missing or (suffix == ".pdf" and "کتابهای" in found), missing


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_shape_of_a_document(files: dict[str, Path], suffix: str) -> None:
    document = load(files[suffix])
    assert document.title
    assert document.pages
    assert document.loader in {loader.name for loader in LOADERS}
    for page in document.pages:
        assert clean(page.text) == page.text
        starts = [heading.start for heading in page.headings]
        assert starts == sorted(starts)
        assert all(0 <= start <= len(page.text) for start in starts)
        assert page.number is None or page.number >= 1
    texts = {page.number: page.text for page in document.pages}
    for chunk in chunks(document, lambda text: len(text.split()), size=20):
        assert texts[chunk.page][chunk.char_start : chunk.char_end] == chunk.text


@pytest.mark.parametrize("suffix", HEADED)
def test_headings_are_found(files: dict[str, Path], suffix: str) -> None:
    titles = [h.title for page in load(files[suffix]).pages for h in page.headings]
    assert titles[0].lower() == "birds"


@pytest.mark.parametrize("suffix", [".pdf", ".epub"])
def test_pages_are_numbered(files: dict[str, Path], suffix: str) -> None:
    assert [page.number for page in load(files[suffix]).pages] == [1, 2]


def outcome(path: Path) -> tuple[str, tuple[Page, ...]]:
    """The reason why a file was not read, or its pages."""
    try:
        return "", load(path).pages
    except LoaderError as error:
        return error.reason, ()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("damage", ["empty", "cut", "zeros", "noise"])
def test_damaged_files_have_a_reason(
    files: dict[str, Path], tmp_path: Path, suffix: str, damage: str
) -> None:
    whole = files[suffix].read_bytes()
    noise = bytes((37 * n * n + n) % 256 for n in range(4000))
    data = {"empty": b"", "cut": whole[: len(whole) // 2], "zeros": b"\0" * 5000, "noise": noise}
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(data[damage])
    reason, pages = outcome(path)
    assert "Error" not in reason
    assert reason or (damage in ("cut", "noise") and any(page.text.strip() for page in pages))


@pytest.mark.parametrize("loader", [one for one in LOADERS if one.risky], ids=lambda one: one.name)
def test_a_missing_package_names_its_command(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, loader
) -> None:
    for module in ("selectolax.lexbor", "lxml.etree"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for module in ("pypdfium2", "docx", "selectolax", "lxml"):
        monkeypatch.setitem(sys.modules, module, None)
    module = importlib.import_module(f"edgellm.rag.loaders.{loader.name}")
    with pytest.raises(UsageError) as caught:
        module.load(files[loader.suffixes[0]])
    assert caught.value.hint == "pip install 'edgellm[rag]'"


def test_the_process_ends_and_comes_back(files: dict[str, Path]) -> None:
    load(files[".html"])
    assert process._running is not None
    process._running.kill()
    process._running.wait()
    assert load(files[".html"]).title == "Birds"
    process.stop()
