"""Talking to a model from Python: load it once, then chat, stream or complete.

with edgellm.load("smollm2-135m-instruct") as model:
    for text in model.stream("Why is the sky blue?"):
        ...
"""

from __future__ import annotations

import os
from typing import Any

from edgellm.api.load import load
from edgellm.api.loaded import LoadedModel

__all__ = ["LoadedModel", "chat", "load"]


def chat(prompt: str, model: str | os.PathLike[str] | None = None, **options: Any) -> str:
    """Answer one prompt and give the text; `options` are those of `LoadedModel.stream`.

    Raises: what `load` and `LoadedModel.stream` raise.
    """
    with load(model) as loaded:
        return loaded.stream(prompt, **options).read().text
