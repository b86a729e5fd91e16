"""Adapters as mlx-lm writes and loads them: adapter_config.json and adapters.safetensors.

Layout as in mlx-lm's `tuner`: a linear layer adds `scale * x @ lora_a @ lora_b` with lora_a
(inputs, rank) and lora_b (rank, outputs); stacked experts have lora_a (experts, rank, inputs) and
lora_b (experts, outputs, rank); an embedding has lora_a (tokens, rank) and lora_b (rank, hidden).
One rank and one scale hold for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgellm_converters.adapters.files import CONFIG, Adapter, Pair, check_rank, pair_up, widest
from edgellm_converters.architectures.base import Side
from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint, inside
from edgellm_converters.errors import SourceNotFoundError, UnsupportedError

__all__ = ["WEIGHTS", "mlx_config", "open_mlx"]

WEIGHTS = "adapters.safetensors"
ENDS = {".lora_a": "a", ".lora_b": "b"}
EXPERTS = 3  # dimensions of the matrices of stacked experts


def open_mlx(path: Path) -> Adapter:
    """Open a folder that mlx-lm wrote.

    Raises:
        SourceNotFoundError: there are no weights.
        CorruptFileError: the file of weights breaks its format's rules.
        ConfigError: adapter_config.json has a wrong value.
        IncompletePlanError: tensors whose partner is missing, or of a wrong shape.
        UnsupportedError: a fine-tune that is not LoRA.
    """
    from edgellm_converters.jsonfile import read_object

    config = Values(path / CONFIG, read_object(inside(path, CONFIG)))
    kind = config.raw("fine_tune_type")
    if kind not in (None, "lora"):
        raise UnsupportedError(
            f"{config.path}: fine_tune_type is {kind!r:.80}; only lora can be converted",
            hint="fuse it with mlx_lm.fuse and convert the fused model",
        )
    settings = config.section("lora_parameters")
    if settings is None:
        raise config.wrong("lora_parameters", "an object with rank and scale")
    rank, scale = settings.integer("rank"), settings.number("scale")
    if not (path / WEIGHTS).exists():
        raise SourceNotFoundError(f"{path}: there is no {WEIGHTS} in this folder")
    file = inside(path, WEIGHTS)
    checkpoint = SafetensorsCheckpoint.open(file)
    pairs = []
    for module, roles in pair_up(file, checkpoint.tensors.values(), ENDS).items():
        first, second = (checkpoint.tensors[roles[role]] for role in "ab")
        stacked = len(first.shape) == EXPERTS
        a_shape, b_shape = (info.shape if stacked else info.shape[::-1] for info in (first, second))
        pair = Pair(
            module,
            first.name,
            second.name,
            a_shape,
            b_shape,
            scale,
            widest((first, second)),
            turned="" if stacked else "ab",
        )
        check_rank(file, pair, rank)
        pairs.append(pair)
    base = config.raw("model")
    return Adapter(
        path, Side.MLX, tuple(pairs), checkpoint, base if isinstance(base, str) else None
    )


def mlx_config(modules: Sequence[str], layers: int, rank: int, scale: float) -> dict[str, object]:
    """Give adapter_config.json.

    Modules are named by their whole paths, so that mlx-lm changes these and no others; `layers` is
    the number of the model's.
    """
    return {
        "fine_tune_type": "lora",
        "num_layers": layers,
        "lora_parameters": {
            "rank": rank,
            "scale": scale,
            "dropout": 0.0,
            "keys": list(modules),
        },
    }
