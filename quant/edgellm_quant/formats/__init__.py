"""Every block format that ggml stores, as one table, and those of MLX; a file for each family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellm_quant.errors import UnknownTypeError
from edgellm_quant.formats.base import BlockFormat, Format
from edgellm_quant.formats.iq import IQ
from edgellm_quant.formats.k import K
from edgellm_quant.formats.legacy import LEGACY
from edgellm_quant.formats.mlx import MLXFormat
from edgellm_quant.formats.plain import PLAIN
from edgellm_quant.formats.small import SMALL

__all__ = ["BY_TYPE", "FORMATS", "BlockFormat", "Format", "MLXFormat", "get_format"]

_ALL = (*PLAIN, *LEGACY, *K, *IQ, *SMALL)

FORMATS: Mapping[str, BlockFormat] = MappingProxyType({fmt.name: fmt for fmt in _ALL})
"""ggml's formats by their upper-case name."""

BY_TYPE: Mapping[int, BlockFormat] = MappingProxyType({fmt.ggml_type: fmt for fmt in _ALL})
"""Formats by ggml's number; numbers of formats that were removed from ggml are absent."""


def get_format(name: str) -> BlockFormat:
    """Give the format of that name, in any case.

    Raises:
        UnknownTypeError: there is none; the hint names the nearest one.
    """
    try:
        return FORMATS[name.upper()]
    except KeyError:
        pass
    import difflib

    near = difflib.get_close_matches(name.upper(), FORMATS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known formats: {', '.join(FORMATS)}"
    raise UnknownTypeError(f"no block format is named {name!r}", hint=hint)
