"""The safety check that a GGUF file passes before native code opens it.

Three layers: the container (`edgellm_converters.checkpoints.gguf_header`), the values that are
there (`check_parameters`, `check_vocabulary`), and here what must be there for llama.cpp to run
the model without a failed assertion, which would end the process.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from edgellm.models.check_parameters import architecture_of, check_parameters
from edgellm.models.check_vocabulary import TOKENIZERS, check_vocabulary
from edgellm_converters.checkpoints.gguf_adapter import refuse_adapter
from edgellm_converters.checkpoints.gguf_header import GGUFHeader, TensorInfo, read_header
from edgellm_converters.checkpoints.gguf_split import SPLIT_COUNT, read_parts
from edgellm_converters.errors import ConvertersError, CorruptFileError, UnsupportedError

__all__ = ["check_model_file", "inspect_model_file"]

# llama.cpp hands tensors to ggml where they lie in the file, and ggml asserts this alignment.
TENSOR_ALIGNMENT = 32
# Types that ggml stores but cannot multiply by: a matrix of them ends in a call of nothing.
NO_WEIGHTS = frozenset({"F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K"})
REQUIRED = ("block_count", "context_length", "embedding_length")


def inspect_model_file(path: Path) -> GGUFHeader:
    """Check a GGUF file for reading about it: everything that is there must be in order.

    Well-formed files that are no runnable model pass: vocabularies without weights, parts of a
    split model, files without an architecture. The first part of a split model has the tensors of
    all, if all are there.

    Raises:
        SourceNotFoundError: there is no such file.
        CorruptFileError: the file is malformed or hostile; one sentence says where.
    """
    header = read_header(path)
    with suppress(ConvertersError):
        header = _with_parts(header)
    return _checked(header, strict=False)


def check_model_file(path: Path) -> GGUFHeader:
    """Check that native code can open and run a GGUF file without harm.

    Of a split model `path` is the first part, and all of them are checked, since native code opens
    the others by their names; the header that is given has the tensors of all. A file that passes
    may still be refused by llama.cpp with an error, for a missing tensor say. The file must not
    change between this check and its use.

    Raises:
        SourceNotFoundError: there is no such file, or a part is missing.
        CorruptFileError: the file is malformed or hostile; one sentence says where.
        UnsupportedError: it is in order, but an adapter, a later part of a split model, or of a
            tokenizer or tensor type that llama.cpp cannot be trusted with.
    """
    header = _checked(_with_parts(read_header(path)), strict=True)
    architecture = architecture_of(header)
    if architecture is None:
        _fail(header, "there is no general.architecture")
    refuse_adapter(header)
    for suffix in REQUIRED:
        if f"{architecture}.{suffix}" not in header.metadata:
            _fail(header, f"there is no {architecture}.{suffix}")
    _require_tokenizer(header)
    if not header.tensors:
        _fail(header, "there are no tensors")
    for tensor in header.tensors:
        _check_tensor(header, tensor)
    return header


def _with_parts(header: GGUFHeader) -> GGUFHeader:
    """Give the header of a split model with the tensors and the size of all parts."""
    if SPLIT_COUNT not in header.metadata:
        return header
    parts = read_parts(header.path)
    if parts[0].path != header.path:
        raise UnsupportedError(
            f"{header.path}: this is a later part of a split model",
            hint=f"give the first one: {parts[0].path}",
        )
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    return replace(header, tensors=tensors, file_size=sum(part.file_size for part in parts))


def _checked(header: GGUFHeader, *, strict: bool) -> GGUFHeader:
    check_parameters(header, strict=strict)
    check_vocabulary(header)
    return header


def _require_tokenizer(header: GGUFHeader) -> None:
    model = header.metadata.get("tokenizer.ggml.model")
    if model is None:
        _fail(header, "there is no tokenizer.ggml.model")
    if model not in TOKENIZERS:
        raise UnsupportedError(
            f"{header.path}: the tokenizer {str(model)[:40]!r} is not known here",
            hint=f"known tokenizers: {', '.join(TOKENIZERS)}",
        )
    if "tokenizer.ggml.tokens" not in header.metadata:
        _fail(header, "there is no tokenizer.ggml.tokens")
    if model in ("gpt2", "gemma4") and "tokenizer.ggml.merges" not in header.metadata:
        _fail(header, "there is no tokenizer.ggml.merges")
    if model == "t5" and "tokenizer.ggml.scores" not in header.metadata:
        _fail(header, "there is no tokenizer.ggml.scores")


def _check_tensor(header: GGUFHeader, tensor: TensorInfo) -> None:
    if tensor.offset % TENSOR_ALIGNMENT:
        _fail(
            header,
            f"the tensor {tensor.name!r} begins at byte {tensor.offset}, "
            f"no multiple of the {TENSOR_ALIGNMENT} that native code needs",
        )
    name = tensor.name
    kind = tensor.format.name
    if name.endswith(".ffn_gate_tid2eid.weight") and kind == "I32":
        return  # the experts of each token, looked up and never multiplied by
    if kind in NO_WEIGHTS:
        raise UnsupportedError(
            f"{header.path}: the tensor {name!r} is of type {kind}, which no model can be run with"
        )
    # Norms, biases and factors are added and multiplied number by number, in float32 alone.
    vector = tensor.rows == 1 and "ffn_gate_inp" not in name and not name.startswith("cls")
    if kind != "F32" and (
        vector
        or "norm" in name
        or name.endswith(".bias")
        or name.startswith("rope_")
        or name == "token_types.weight"
        or name.endswith(".shortconv.conv.weight")
    ):
        _fail(header, f"the tensor {name!r} is of type {kind}, not F32")


def _fail(header: GGUFHeader, reason: str) -> NoReturn:
    raise CorruptFileError(header.path, reason)
