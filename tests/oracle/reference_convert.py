"""Run the reference converter of llama.cpp without its tokenizers, which know no tiny vocabulary.

    python tests/oracle/reference_convert.py LLAMA_CPP_SOURCE FOLDER...

A program of its own: it needs torch and transformers, and imports from the source given. What comes
of FOLDER is FOLDER.gguf, or FOLDER.error with what went wrong; one process does all of them, since
its imports take most of its time.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    source, *folders = (Path(argument) for argument in sys.argv[1:])
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    import conversion
    import gguf
    import torch

    read = conversion.ModelBase.load_hparams

    def load_hparams(folder: Path, *more: Any, **named: Any) -> Any:
        # transformers 5 renames keys of config.json that it asks for, and fills in others.
        own = json.loads((folder / "config.json").read_text())
        # It does not read the published keys of Nomic-BERT, and fills in the sizes of another.
        return own if own["model_type"] == "nomic_bert" else read(folder, *more, **named) | own

    conversion.ModelBase.load_hparams = staticmethod(load_hparams)
    for folder in folders:
        try:
            with torch.inference_mode():
                config = conversion.ModelBase.load_hparams(folder, False)
                name = conversion.get_model_architecture(config, conversion.ModelType.TEXT)
                kind = conversion.get_model_class(name)
                kind.set_vocab = lambda self: None
                if hasattr(kind, "module_paths"):
                    # They are of the class, and those of the folder before are still there.
                    kind.module_paths, kind.dense_features_dims = [], {}
                target = folder.parent / f"{folder.name}.gguf"
                kind(
                    folder,
                    gguf.LlamaFileType.ALL_F32,
                    target,
                    eager=True,
                    sentence_transformers_dense_modules=True,
                ).write()
        except Exception:
            (folder.parent / f"{folder.name}.error").write_text(traceback.format_exc())


if __name__ == "__main__":
    main()
