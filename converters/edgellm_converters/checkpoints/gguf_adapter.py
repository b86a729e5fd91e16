"""A GGUF file that holds a LoRA adapter: llama.cpp loads it beside its model, and nothing runs it.

Such a file has `general.type` "adapter" (src/llama-adapter.cpp in llama.cpp asks for it).
"""

from __future__ import annotations

from edgellm_converters.checkpoints.gguf_header import GGUFHeader
from edgellm_converters.errors import UnsupportedError

__all__ = ["ADAPTER", "TYPE", "refuse_adapter"]

TYPE, ADAPTER = "general.type", "adapter"


def refuse_adapter(header: GGUFHeader) -> None:
    """Refuse a file that holds an adapter where a model is needed.

    Raises:
        UnsupportedError: `general.type` says that it is one.
    """
    if header.metadata.get(TYPE) == ADAPTER:
        raise UnsupportedError(
            f"{header.path}: this is a LoRA adapter, not a model",
            hint=f"beside its model: edgellm run MODEL --lora {header.path.name}; merged into it: "
            f"edgellm convert MODEL --lora {header.path.name} -o OUT",
        )
