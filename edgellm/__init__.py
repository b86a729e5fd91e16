"""edgellm: from trained weights to the best assistant that fits the device, offline.

The names below are imported when they are first used (PEP 562), so that `edgellm --help` and
`import edgellm` stay fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellm.api.ask import ask
    from edgellm.api.chat import LoadedModel, chat, load
    from edgellm.api.convert import convert
    from edgellm.api.embed import LoadedEmbedder, load_embedder
    from edgellm.api.evaluate import measure
    from edgellm.api.quantize import quantize
    from edgellm.api.rag import OpenLibrary, open_library
    from edgellm.api.tokenize import LoadedTokenizer, load_tokenizer
    from edgellm.backends.base import Sampling
    from edgellm.errors import EdgellmError
    from edgellm.generate.constraint import Grammar, JsonSchema, Regex
    from edgellm.generate.options import GenerateOptions
    from edgellm.generate.template import Message, ToolCall
    from edgellm.generate.toolfile import ToolFile

__all__ = [
    "EdgellmError",
    "GenerateOptions",
    "Grammar",
    "JsonSchema",
    "LoadedEmbedder",
    "LoadedModel",
    "LoadedTokenizer",
    "Message",
    "OpenLibrary",
    "Regex",
    "Sampling",
    "ToolCall",
    "ToolFile",
    "ask",
    "chat",
    "convert",
    "load",
    "load_embedder",
    "load_tokenizer",
    "measure",
    "open_library",
    "quantize",
]

# public name -> the module that holds it
_EXPORTS = {
    "EdgellmError": "edgellm.errors",
    "GenerateOptions": "edgellm.generate.options",
    "Grammar": "edgellm.generate.constraint",
    "JsonSchema": "edgellm.generate.constraint",
    "LoadedEmbedder": "edgellm.api.embed",
    "LoadedModel": "edgellm.api.chat",
    "LoadedTokenizer": "edgellm.api.tokenize",
    "Message": "edgellm.generate.template",
    "OpenLibrary": "edgellm.api.rag",
    "Regex": "edgellm.generate.constraint",
    "Sampling": "edgellm.backends.base",
    "ToolCall": "edgellm.generate.template",
    "ToolFile": "edgellm.generate.toolfile",
    "ask": "edgellm.api.ask",
    "chat": "edgellm.api.chat",
    "convert": "edgellm.api.convert",
    "load": "edgellm.api.chat",
    "load_embedder": "edgellm.api.embed",
    "load_tokenizer": "edgellm.api.tokenize",
    "measure": "edgellm.api.evaluate",
    "open_library": "edgellm.api.rag",
    "quantize": "edgellm.api.quantize",
}


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'edgellm' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
