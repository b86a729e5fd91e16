"""What importing costs, what is public, and that the built wheel stands alone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import edgellm

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "numpy",
    "llama_cpp",
    "gguf",
    "jinja2",
    "torch",
    "transformers",
    "mlx",
    "huggingface_hub",
    "llguidance",
}


def python(code: str, *, cwd: Path, path: Path | None = None) -> str:
    insert = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path else ""
    done = subprocess.run(
        [sys.executable, "-c", insert + code], cwd=cwd, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_public_names_are_pinned() -> None:
    assert edgellm.__all__ == [
        *("EdgellmError", "GenerateOptions", "Grammar", "JsonSchema"),
        *("LoadedEmbedder", "LoadedModel", "LoadedTokenizer", "Message"),
        *("OpenLibrary", "Regex", "Sampling"),
        *("ToolCall", "ToolFile"),
        *("ask", "chat", "convert", "load", "load_embedder", "load_tokenizer", "measure"),
        *("open_library", "quantize"),
    ]
    for name in edgellm.__all__:
        assert callable(getattr(edgellm, name))


def test_importing_and_help_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, edgellm\n"
        "from edgellm.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        f"print('heavy:', sorted({HEAVY!r} & sys.modules.keys()))\n"
    )
    assert python(code, cwd=tmp_path).splitlines()[-1] == "heavy: []"


def test_the_built_wheel_carries_all_three_packages(tmp_path: Path) -> None:
    code = (
        "import hatchling.build, os\n"
        f"os.chdir({str(ROOT)!r})\n"
        f"print(hatchling.build.build_wheel({str(tmp_path)!r}))\n"
    )
    wheel = tmp_path / python(code, cwd=tmp_path).splitlines()[-1]
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    tops = {p.name for p in site.iterdir() if not p.name.endswith(".dist-info")}
    assert tops == {"edgellm", "edgellm_converters", "edgellm_quant"}
    # Imported from the wheel and not from the checkout, the command line answers.
    code = (
        "import edgellm, edgellm_converters, edgellm_quant\n"
        "from edgellm.cli.main import COMMANDS, cli, run\n"
        "assert run(['--help']) == 0\n"
        "import importlib\n"
        "for module in COMMANDS.values(): importlib.import_module(module)\n"
        "print(edgellm.__file__, edgellm_converters.__file__, edgellm_quant.__file__)\n"
    )
    files = python(code, cwd=tmp_path, path=site).splitlines()[-1].split()
    assert all(Path(file).is_relative_to(site) for file in files)
