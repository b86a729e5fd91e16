"""The pages on architectures show what is really there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "adding-an-architecture.md").read_text()
BLOCKS = re.findall(r"```(?:python|text)\n(.*?)```", DOCUMENT, re.DOTALL)
ARCHITECTURES = ROOT / "converters" / "edgellm_converters" / "architectures"


def test_the_whole_file_of_the_family_is_shown() -> None:
    assert BLOCKS[0] == (ARCHITECTURES / "ernie4_5.py").read_text()


@pytest.mark.parametrize(
    ("block", "file"),
    [
        (1, ARCHITECTURES / "__init__.py"),
        (2, ARCHITECTURES / "__init__.py"),
        (3, ROOT / "tests" / "tiny_families.py"),
    ],
)
def test_the_other_pieces_stand_where_the_page_says(block: int, file: Path) -> None:
    assert len(BLOCKS) == 4
    assert BLOCKS[block] in file.read_text()


def test_the_tools_that_are_named_are_there() -> None:
    sources = "".join((ARCHITECTURES / name).read_text() for name in ("tensors.py", "family.py"))
    table = DOCUMENT[DOCUMENT.index("| the model has | say |") : DOCUMENT.index("## 3.")]
    names = set(re.findall(r"`(\w+)=?`", table)) - {"n_embd"}
    assert {"parts", "mlx_as", "in_mlx", "settings", "checks", "when"} <= names | {"in_mlx"}
    for name in names - {"Decoder", "Setting", "Transform"}:
        assert re.search(rf"\n    {name}: ", sources), name
    for transform in re.findall(r"Transform\.(\w+)", table):
        assert f"    {transform} = " in (ARCHITECTURES / "base.py").read_text()


def test_the_list_of_families_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("listing", ROOT / "tools" / "architectures.py")
    assert spec is not None
    assert spec.loader is not None
    listing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(listing)
    assert listing.DOCUMENT.read_text() == listing.document(), "run: make docs"
