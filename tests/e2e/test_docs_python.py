"""The examples of docs/python.md run, on tiny models and on the default one, and are typed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
import tiny
from edgellm.cli.errors import EXIT_CODES
from edgellm.models import DEFAULT_MODEL, store
from edgellm_converters.pipeline import convert
from tinygguf import PERSIAN, write_tiny

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the examples are run in, with the files that they name."""
    convert(tiny.ENCODERS["bert"](tmp_path / "hf"), tmp_path / "minilm.gguf", dtype="f32")
    tiny.MODELS["llama-bpe"](tmp_path / "my-finetune")
    (tmp_path / "notes.txt").write_text("the cat sat on the mat, سلام. " * 40, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    store.models_dir().mkdir(parents=True)
    return tmp_path


def run() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/python.md, block {number + 1}", "exec"), names)
    return names


def test_the_examples_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(store.models_dir() / f"{DEFAULT_MODEL}.gguf", context=4096)
    names = run()
    printed = capsys.readouterr().out.splitlines()
    answer = "Hi " + PERSIAN
    assert printed[0] == names["answer"].text == names["first"].text == answer
    assert names["generation"].result.finish_reason == "cancelled"
    assert [message.role for message in names["talk"].messages] == ["user", "assistant"] * 2
    assert names["ids"] == [byte + 5 for byte in b"hello"] + [byte + 5 for byte in b","] + [
        261,
        *(byte + 5 for byte in b"world"),
    ]
    assert names["vectors"].shape == (3, names["embedder"].dimension)
    assert np.allclose(np.linalg.norm(names["vectors"], axis=1), 1, atol=1e-6)
    assert names["hit"].path == str(folder / "notes.txt")
    assert names["asked"].refused == (not names["asked"].citations)
    assert 0 < names["quality"].kld.mean < 0.1
    assert (folder / "mine-q8.gguf").stat().st_size < (folder / "mine.gguf").stat().st_size
    assert printed[-2] == "no model or file no-such-model"


@pytest.mark.model
def test_the_examples_run_on_the_default_model(folder: Path, smollm2: Path) -> None:
    (store.models_dir() / f"{DEFAULT_MODEL}.gguf").symlink_to(smollm2)
    names = run()
    assert names["generation"].result.finish_reason == "cancelled"
    assert names["answer"].completion_tokens == 40
    assert names["story"].completion_tokens > 0
    assert all(message.content for message in names["talk"].messages)


def test_the_examples_are_typed(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("needs mypy: pip install 'edgellm[dev]'")
    example = tmp_path / "example.py"
    example.write_text("\n".join(BLOCKS), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(example)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_function_is_explained_and_named_on_the_page() -> None:
    for name in edgellm.__all__:
        value = getattr(edgellm, name)
        assert value.__doc__, name
        assert name in PAGE or name.startswith("Loaded"), name
        methods = [each for each in vars(value) if not each.startswith("_")]
        for method in methods if isinstance(value, type) else []:
            found = getattr(value, method)
            assert not callable(found) or found.__doc__, f"{name}.{method}"


def test_the_table_of_errors_is_that_of_exit_codes() -> None:
    statuses = {kind.__name__: status for kind, _, status in EXIT_CODES}
    rows = re.findall(r"^\| `(\w+Error)`.*\| (\d) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 7
    for name, status in rows:
        assert statuses[name] == int(status), name
