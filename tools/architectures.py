"""Write docs/architectures.md from the tables of the converters.

python tools/architectures.py
"""

from __future__ import annotations

from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "architectures.md"

HEAD = """# Families of models

What `edgellm convert` knows, written by `make docs` from the tables in
`converters/edgellm_converters/architectures/`. Every family converts from Hugging Face to GGUF and
back; those with a model in mlx-lm convert to MLX and back as well. A checkpoint's class stands
under `architectures` in its config.json, a GGUF file's name under `general.architecture`. A model
that uses what its family has no place for is refused with a sentence that names the setting.

| class in config.json | in GGUF | MLX |
|---|---|---|
"""


def document() -> str:
    """Give the text of the page."""
    from edgellm_converters.architectures import ARCHITECTURES

    rows = [
        f"| {', '.join(f'`{name}`' for name in each.hf_names)} | `{each.name}` "
        f"| {'yes' if each.in_mlx else 'mlx-lm has none'} |"
        for each in sorted(ARCHITECTURES, key=lambda each: (each.name, each.hf_names))
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
