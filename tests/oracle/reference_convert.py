"""Run the reference converter of llama.cpp without its tokenizers, which know no tiny vocabulary.

    python tests/oracle/reference_convert.py LLAMA_CPP_SOURCE FOLDER OUT.gguf

A program of its own: it needs torch and transformers, and imports from the source given.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    source, folder, target = (Path(argument) for argument in sys.argv[1:])
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    import gguf
    import torch

    import conversion

    with torch.inference_mode():
        config = conversion.ModelBase.load_hparams(folder, False)
        name = conversion.get_model_architecture(config, conversion.ModelType.TEXT)
        kind = conversion.get_model_class(name)
        kind.set_vocab = lambda self: None
        kind(folder, gguf.LlamaFileType.ALL_F32, target, eager=True).write()


if __name__ == "__main__":
    main()
