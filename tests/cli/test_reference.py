"""docs/cli-reference.md is what the commands say of themselves, and none of them says nothing."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest

from edgellm.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "cli_reference", ROOT / "tools" / "cli_reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_of_the_table_is_a_command() -> None:
    for name, module in COMMANDS.items():
        command = importlib.import_module(module).command
        assert isinstance(command, click.Command)
        assert command.name == name


def test_the_page_is_fresh(generator: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert generator.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_page_is_noticed(
    generator: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(generator, "TARGET", page)
    assert generator.main(["--check"]) == 1
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    page.write_text(page.read_text() + "x")
    assert generator.main(["--check"]) == 1
    assert "run `make docs`" in capsys.readouterr().err


def example(help_text: str | None, option_help: str | None = "An option.") -> click.Context:
    command = click.Command("do", help=help_text, params=[click.Option(["--it"], help=option_help)])
    return click.Context(command, info_name="do")


@pytest.mark.parametrize(
    ("ctx", "sentence"),
    [
        (example(None), "do has no help"),
        (example("Does it."), "the help of do has no example"),
        (example("Does it.\n\n\b\ndo --it", None), "the option it of do has no help"),
    ],
)
def test_what_says_nothing_is_an_error(
    generator: ModuleType, ctx: click.Context, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        generator.describe(ctx.command, ctx)


def test_a_section_has_usage_text_example_and_options(generator: ModuleType) -> None:
    ctx = example("Does it | well.\n\n\b\ndo --it x", "This | or\nthat.")
    assert generator.describe(ctx.command, ctx) == (
        "## do\n\n```\ndo [OPTIONS]\n```\n\nDoes it | well.\n\n```sh\ndo --it x\n```\n\n"
        "| option | meaning |\n|---|---|\n| `--it TEXT` | This \\| or that. |\n"
    )
