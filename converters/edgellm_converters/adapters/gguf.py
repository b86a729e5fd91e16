"""Adapters as llama.cpp loads them: one GGUF file of pairs of matrices.

The format is that of llama.cpp's src/llama-adapter.cpp: `general.type` is "adapter", `adapter.type`
is "lora", and each weight NAME that is changed has a NAME.lora_a (rank, inputs) and a NAME.lora_b
(outputs, rank), which count `adapter.lora.alpha` / rank times, or once where alpha is 0. Of the
token embedding, lora_a is (tokens, rank). Stacked experts have their number before that.

llama.cpp looks at less than is looked at here: ranks of embeddings that differ, the number of
experts, or types that cannot be multiplied by end its process when the first token is evaluated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgellm_converters.adapters.files import FLOATS, SHOWN, Adapter, Pair, check_rank, pair_up
from edgellm_converters.adapters.lowrank import Floats
from edgellm_converters.architectures.base import Side
from edgellm_converters.checkpoints.gguf_adapter import ADAPTER, TYPE
from edgellm_converters.checkpoints.gguf_header import (
    GGUFHeader,
    TensorInfo,
    open_regular,
    read_header,
)
from edgellm_converters.checkpoints.gguf_split import SPLIT_COUNT
from edgellm_converters.checkpoints.gguf_values import ValueType
from edgellm_converters.checkpoints.slabs import read_into
from edgellm_converters.errors import (
    ConfigError,
    CorruptFileError,
    IncompletePlanError,
    UnsupportedError,
)
from edgellm_quant.ggml import dequantize_rows

__all__ = ["check_base", "open_gguf", "passed_over"]

ALPHA, KIND, ARCHITECTURE = "adapter.lora.alpha", "adapter.type", "general.architecture"
ALORA = "adapter.alora.invocation_tokens"
CONTROL_VECTOR = "controlvector"
# The types that llama.cpp's own converter writes; others may end in a call of nothing.
TYPES = (*FLOATS[1:], "Q8_0")
MOST_RANK = 8192
ALIGNMENT = 32  # ggml asserts it
WEIGHT = ".weight"
TOKENS = "token_embd.weight"
# What llama.cpp calls the tensors in which rows are looked up.
EMBEDDINGS = (TOKENS, "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight")
STACKED = 3  # dimensions of stacks of matrices
EXPERTS = "_exps."
# Weights that the graphs of llama.cpp (src/models) multiply without looking for adapters.
PASSED_OVER = {
    "deepseek2": (
        "attn_q.",
        "attn_q_a.",
        "attn_q_b.",
        "attn_kv_a_mqa.",
        "attn_k_b.",
        "attn_v_b.",
        "attn_kv_b.",
        "output.",
    ),
}


def open_gguf(path: Path) -> Adapter:
    """Open a GGUF file that holds an adapter.

    Raises:
        SourceNotFoundError: there is no such file.
        CorruptFileError: a rule of the format does not hold.
        ConfigError: a value of its metadata is of a wrong kind.
        IncompletePlanError: tensors whose partner is missing, or of a wrong shape.
        UnsupportedError: another kind of adapter, or none.
    """
    header = read_header(path)
    architecture = _check_kind(header)
    alpha = header.metadata.get(ALPHA, 0.0)
    if ALPHA in header.metadata and header.value_types[ALPHA].kind is not ValueType.FLOAT32:
        raise ConfigError(f"{path}: {ALPHA} is no number of 32 bits")
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise ConfigError(f"{path}: {ALPHA} is {alpha!r:.80}, and must be a finite number")
    pairs = tuple(_pairs(header, alpha))
    if not pairs:
        raise IncompletePlanError(f"{path}: the adapter holds no tensors")
    base = header.metadata.get("general.base_model.0.name")
    return Adapter(
        path,
        Side.GGUF,
        pairs,
        _Tensors(header),
        base if isinstance(base, str) else None,
        architecture,
    )


class _Tensors:
    """Reads tensors of a file, which is opened for each."""

    def __init__(self, header: GGUFHeader) -> None:
        self._tensors = {tensor.name: tensor for tensor in header.tensors}

    def load(self, name: str) -> Floats:
        """Read a tensor as float32."""
        tensor = self._tensors[name]
        blocks = np.empty((tensor.rows, tensor.row_bytes), np.uint8)
        descriptor = open_regular(tensor.path)
        try:
            read_into(descriptor, blocks, tensor.offset, tensor.path)
        finally:
            os.close(descriptor)
        return dequantize_rows(blocks, tensor.format, tensor.columns, 1).reshape(tensor.shape)


def check_base(adapter: Adapter, base: GGUFHeader) -> None:
    """Check that llama.cpp can run a GGUF adapter beside a model, and passes nothing of it over.

    Args:
        adapter: what `open_gguf` gave.
        base: the header of the model, with the tensors of all its parts.

    Raises:
        UnsupportedError: the model is of another architecture, or a tensor is of a kind that
            llama.cpp multiplies without adapters.
        IncompletePlanError: the model has no such tensor, or one of another shape.
    """
    architecture = str(base.metadata.get(ARCHITECTURE))
    said = str(adapter.architecture)
    if said != architecture:
        raise UnsupportedError(
            f"{adapter.path}: the adapter is for models of the architecture {said!r:.80}, and "
            f"{base.path} is {architecture!r:.80}",
            hint=_belongs(adapter),
        )
    tensors = {tensor.name: tensor for tensor in base.tensors}
    tied = "output.weight" not in tensors
    for pair in adapter.pairs:
        name = pair.module + WEIGHT
        tensor = tensors.get(name)
        if tensor is None:
            lost = [p.module + WEIGHT for p in adapter.pairs if p.module + WEIGHT not in tensors]
            more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
            raise IncompletePlanError(
                f"{adapter.path}: the adapter changes {', '.join(lost[:SHOWN])}{more}, which "
                f"{base.path} ({architecture}) does not have",
                hint=_belongs(adapter),
            )
        _check_tensor(adapter, pair, tensor, base, tied=tied)


def passed_over(name: str, shape: tuple[int, ...], architecture: str, *, tied: bool) -> str:
    """Say what a weight is that llama.cpp does not change by an adapter; empty if it does.

    Args:
        name: of the tensor.
        shape: its shape.
        architecture: of the model.
        tied: its output matrix is the token embedding.
    """
    part = name.split(".", 2)[-1] if name.startswith("blk.") else name
    if "_norm." in name:
        return "a norm"
    if len(shape) not in (2, STACKED) or "conv1d." in name or "shortconv.conv." in name:
        return "no matrix that vectors are multiplied with"
    if len(shape) == STACKED and EXPERTS not in name:
        return "a stack of matrices that are no experts"
    if name in EMBEDDINGS and name != TOKENS:
        return "an embedding of other things than tokens"
    if name == TOKENS and tied:
        return "an embedding that is the output matrix too"
    if part.startswith(PASSED_OVER.get(architecture, ())):
        return f"a weight of {architecture} that is used without adapters"
    return ""


def _check_tensor(
    adapter: Adapter, pair: Pair, tensor: TensorInfo, base: GGUFHeader, *, tied: bool
) -> None:
    """Compare a pair with the weight that it changes."""
    name, architecture = tensor.name, str(base.metadata.get(ARCHITECTURE))
    what = passed_over(name, tensor.shape, architecture, tied=tied)
    if not what and tensor.format.name == "NVFP4":
        what = "stored as NVFP4"
    if what:
        raise UnsupportedError(
            f"{adapter.path}: the adapter changes {name}, {what}, which llama.cpp cannot do",
            hint="merge it: edgellm convert BASE --lora ADAPTER -o OUT",
        )
    outputs, inputs = pair.b_shape[-2], pair.a_shape[-1]
    shape = (*pair.a_shape[:-2], *((inputs, outputs) if pair.embedding else (outputs, inputs)))
    if shape != tensor.shape:
        raise IncompletePlanError(
            f"{adapter.path}: {pair.a} and {pair.b} change a weight of the shape {list(shape)}, "
            f"but {name} of {base.path} has {list(tensor.shape)}",
            hint=_belongs(adapter) or "was the adapter trained on another base?",
        )


def _belongs(adapter: Adapter) -> str | None:
    return f"it says it belongs to {adapter.base!r:.100}" if adapter.base else None


def _check_kind(header: GGUFHeader) -> str:
    """Refuse what is no LoRA adapter, by its name; gives the architecture.

    llama.cpp asks for texts and numbers of some keys, and ends the process where they are others.
    """
    path, metadata = header.path, header.metadata
    for key in (TYPE, KIND, ARCHITECTURE):
        if key in metadata and not isinstance(metadata[key], str):
            raise ConfigError(f"{path}: {key} is no text")
    architecture = str(metadata.get(ARCHITECTURE, ""))
    if architecture == CONTROL_VECTOR:
        raise UnsupportedError(f"{path}: this is a control vector, not a LoRA adapter")
    kind = metadata.get(TYPE, "model")
    if kind != ADAPTER:
        raise UnsupportedError(
            f"{path}: this is no LoRA adapter ({TYPE} is {kind!r:.80})",
            hint="a LoRA adapter is a GGUF file of that type, or a folder of PEFT or mlx-lm",
        )
    if metadata.get(KIND) != "lora":
        raise UnsupportedError(
            f"{path}: {KIND} is {metadata.get(KIND)!r:.80}; only lora adapters can be used"
        )
    if ALORA in metadata:
        raise UnsupportedError(
            f"{path}: the adapter is activated by tokens of the prompt (aLoRA, {ALORA}), which "
            "is not supported: only adapters that count for every token are"
        )
    if SPLIT_COUNT in metadata:
        raise UnsupportedError(f"{path}: an adapter in parts; llama.cpp reads one file")
    for tensor in header.tensors:
        if tensor.offset % ALIGNMENT:
            raise CorruptFileError(
                path,
                f"the tensor {tensor.name!r} begins at byte {tensor.offset}, no multiple of the "
                f"{ALIGNMENT} that native code needs",
            )
    return architecture


def _pairs(header: GGUFHeader, alpha: float) -> Iterator[Pair]:
    """Sort tensors by the weights that they change, and check the shapes of each pair."""
    path, ends = header.path, {".lora_a": "a", ".lora_b": "b"}
    tensors = {tensor.name: tensor for tensor in header.tensors}
    for module, roles in pair_up(path, header.tensors, ends, TYPES).items():
        if not module.endswith(WEIGHT) or ".lora_" in module:
            raise UnsupportedError(f"{path}: {roles['a']} changes {module}, which is no weight")
        a, b = tensors[roles["a"]], tensors[roles["b"]]
        embedding = module == TOKENS
        a_shape = (*a.shape[:-2], *a.shape[:-3:-1]) if embedding else a.shape
        rank = b.shape[-1]
        if not 0 < rank <= MOST_RANK:
            raise UnsupportedError(
                f"{path}: {b.name} is of rank {rank}, and {MOST_RANK} is the most"
            )
        kinds = {a.format.name, b.format.name}
        pair = Pair(
            module.removesuffix(WEIGHT),
            a.name,
            b.name,
            a_shape,
            b.shape,
            alpha / rank if alpha else 1.0,
            kinds.pop() if len(kinds) == 1 and kinds <= {"F16", "BF16"} else "F32",
            turned="a" if embedding else "",
            embedding=embedding,
        )
        check_rank(path, pair, rank)
        yield pair
