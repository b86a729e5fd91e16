"""Where models come from: references, the built-in catalogue, the store and the safety check."""

from __future__ import annotations

from edgellm.models.catalogue import DEFAULT_MODEL
from edgellm.models.resolve import is_model_reference, resolve

__all__ = ["DEFAULT_MODEL", "is_model_reference", "resolve"]
