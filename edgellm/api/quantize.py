"""Quantize a model to GGUF or MLX, with values chosen by calibration and a receipt."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.api.convert import check_split, check_threads, pick_mlx, pick_recipe, source_path
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.evaluate.texts import Text
    from edgellm.quantization.goal import Goal
    from edgellm.quantization.job import Outcome, Watcher

__all__ = ["BUILTIN", "quantize"]

BUILTIN = "builtin"
"""Names the texts that are part of this package, where files of text are given."""


def quantize(
    source: str | Path,
    output: str | Path,
    type: str | None = None,
    *,
    bits: int | None = None,
    bpw: float | None = None,
    size: int | None = None,
    fit: str | None = None,
    context: int | None = None,
    max_kld: float | None = None,
    to: str | None = None,
    group_size: int | None = None,
    method: str = "auto",
    effort: str = "balanced",
    calibration: Sequence[str | Path] = (BUILTIN,),
    imatrix: str | Path | None = None,
    save_imatrix: str | Path | None = None,
    receipt: bool | None = None,
    text: Sequence[str | Path] = (BUILTIN,),
    report: str | Path | None = None,
    seed: int = 0,
    memory: int | None = None,
    requantize: bool = False,
    allow_nan: bool = False,
    split_size: int | None = None,
    force: bool = False,
    threads: int | None = None,
    watcher: Watcher | None = None,
) -> Outcome:
    """Quantize a model; nothing half-written ever stands at `output`.

    Exactly one of `type`, `bits`, `bpw`, `size`, `fit` and `max_kld` says how far. A type gives
    every tensor what llama.cpp's quantizer would; the others are budgets, under which each tensor
    gets the type that serves the whole best.

    Args:
        source: a GGUF file, a Hugging Face or MLX folder, or the name of a model in the store.
        output: the file or folder to write.
        type: what to quantize to ("Q4_K_M", for MLX "mxfp4", in any case).
        bits: 2 to 8: as many bytes as the usual type of so many bits takes.
        bpw: bits of tensor data for each weight.
        size: bytes of the whole output.
        fit: the device that it has to fit, such as "rpi5-8gb", with a context of `context` tokens.
        context: tokens, for `fit`; None takes 4096.
        max_kld: nats a token: the smallest model whose mean KL divergence stays within.
        to: "gguf" or "mlx", where the output's name does not say it.
        group_size: for MLX with `bits`: how many weights share a scale.
        method: "rtn", "importance", "gptq", or "auto" for what `effort` allows.
        effort: "fast", "balanced" or "best".
        calibration: files of text, or "builtin" for the package's own, to choose values by.
        imatrix: a file of importance (of llama-imatrix, or saved here), in place of a calibration.
        save_imatrix: where to write the importance that was gathered, as llama.cpp reads it.
        receipt: measure the result against the source and store that; None does so but for rtn.
        text: files of text, or "builtin", to measure on.
        report: a folder for pictures of size and quality.
        seed: of the order of texts and all samples.
        memory: bytes for Hessians; None takes half of what is free.
        requantize: accept a source that is quantized already.
        allow_nan: convert NaN and infinity as they are, where the type can hold them.
        split_size: write a larger GGUF file in parts of at most so many bytes.
        force: replace `output` if it exists.
        threads: cores to use; None for all.
        watcher: who is told how it goes.

    Raises:
        UsageError: options that exclude each other, or a value out of range.
        NotFoundError: there is no such source or text.
        DoesNotFitError: no model is so small.
        RequantizeError: the source is quantized already.
        ConvertersError, QuantError: see their subclasses.
    """
    from edgellm.quantization.effort import METHODS, get_effort
    from edgellm.quantization.job import Request, Watcher, run
    from edgellm.quantization.report import require_drawing, write_report
    from edgellm_converters.architectures.base import Side
    from edgellm_converters.pipeline import target_kind
    from edgellm_converters.targets import Wish

    check_threads(threads)
    check_split(split_size)
    kind = to or target_kind(Path(output), None)
    if kind not in ("gguf", "mlx"):
        raise UsageError(
            f"{output} would be a Hugging Face folder, which holds no quantized tensors",
            hint="name a GGUF file (-o NAME.gguf), or an MLX folder: --to mlx",
        )
    if method not in METHODS:
        raise UsageError(f"{method!r} is no method", hint=f"known are: {', '.join(METHODS)}")
    if report is not None:
        require_drawing()
    preset = get_effort(effort)
    wished = _Asked(type, bits, bpw, size, fit, context, max_kld, kind, group_size)
    if method == "auto":
        method = "importance" if imatrix and preset.method == "rtn" else preset.method
    if method == "rtn" and (imatrix is not None or save_imatrix is not None):
        raise UsageError(
            "rtn uses no importance", hint="--method importance, or leave the imatrix out"
        )
    if method == "gptq" and imatrix is not None:
        raise UsageError(
            "gptq needs more than the importance of an imatrix",
            hint="--method importance, or leave the imatrix out and calibrate",
        )
    measures = method != "rtn" if receipt is None else receipt
    budget = wished.budget(method)
    if max_kld is not None and not measures:
        raise UsageError(
            "what a limit of divergence is kept by has to be measured",
            hint="leave --no-receipt out, and with --method rtn give --receipt",
        )
    if kind == "mlx" and fit is not None:
        raise UsageError(
            "the memory that a device needs is known for llama.cpp alone",
            hint="for MLX: --size, --bpw, --max-kld or --bits",
        )
    if kind == "mlx" and measures:
        from edgellm.backends.mlx.library import missing

        reason = missing()
        if reason is not None and (receipt is True or max_kld is not None):
            raise UsageError(
                f"a folder of MLX cannot be measured here: {reason}",
                hint="--no-receipt writes it without measuring",
            )
        measures = reason is None
    request = Request(
        source=source_path(source),
        output=Path(output),
        side=Side(kind),
        wish=Wish(
            recipe=wished.recipe if budget is None and kind == "gguf" else None,
            mlx=wished.mlx if budget is None and kind == "mlx" else None,
            requantize=requantize,
        ),
        asked=wished.said,
        method=method,
        effort=preset,
        budget=budget,
        calibration=() if method == "rtn" or imatrix else _texts(calibration, shipped_first),
        measured=_texts(text, shipped_last) if measures else (),
        imatrix=None if imatrix is None else Path(imatrix),
        save_imatrix=None if save_imatrix is None else Path(save_imatrix),
        seed=seed,
        memory=memory,
        threads=threads,
        allow_nan=allow_nan,
        split_size=split_size,
        force=force,
    )
    outcome = run(request, watcher or Watcher())
    if report is not None and outcome.receipt is not None:
        write_report(Path(report), outcome.receipt, outcome.points, Path(output).name)
    return outcome


@dataclass(frozen=True, slots=True)
class _Asked:
    """How far to quantize: exactly one of the first ones.

    Raises:
        UsageError: none or several, or one out of its range.
    """

    type: str | None
    bits: int | None
    bpw: float | None
    size: int | None
    fit: str | None
    context: int | None
    max_kld: float | None
    kind: str
    group_size: int | None

    def __post_init__(self) -> None:
        given = [name for name in WAYS if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                "give exactly one of "
                + ", ".join(f"--{name.replace('_', '-')}" for name in WAYS)
                + (f", not {' and '.join(given)}" if given else ""),
                hint="for example: --bits 4",
            )
        for name in ("bpw", "max_kld"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value}, and must be above 0")
        if self.context is not None and self.fit is None:
            raise UsageError("a context goes with a device to fit", hint="--fit rpi5-8gb --ctx N")
        if self.group_size is not None and (self.kind != "mlx" or self.bits is None):
            raise UsageError(
                "a group size goes with bits for MLX", hint="for example: --to mlx --bits 4"
            )
        if self.kind == "gguf" and (self.type is not None or self.bits is not None):
            pick_recipe(self.bits, self.type)
        elif self.type is not None or self.bits is not None:
            pick_mlx(self.bits, self.type, self.group_size)

    @property
    def said(self) -> dict[str, Any]:
        """What was asked for, for the receipt."""
        names = (*WAYS, "context", "group_size")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def recipe(self) -> str:
        """The recipe of GGUF that a type or bits name."""
        return pick_recipe(self.bits, self.type)

    @property
    def mlx(self) -> Any:
        """The recipe of MLX that a type or bits name."""
        return pick_mlx(self.bits, self.type, self.group_size)

    def budget(self, method: str) -> Goal | None:
        """Give the budget; None where a type decides, or bits without a calibration."""
        if self.type is not None or (self.kind == "mlx" and self.bits is not None):
            return None
        if self.bits is not None and method == "rtn":
            return None
        from edgellm.quantization.goal import Goal

        return Goal(
            bits=self.bits,
            bpw=self.bpw,
            size=self.size,
            device=self.fit,
            context=self.context,
            max_kld=self.max_kld,
        )


WAYS = ("type", "bits", "bpw", "size", "fit", "max_kld")


def _texts(given: Sequence[str | Path], shipped: Callable[[], Sequence[Text]]) -> list[Text]:
    """Read files of text; "builtin" stands for the package's own."""
    from edgellm.evaluate.texts import read_texts

    own = list(shipped()) if BUILTIN in given else []
    return own + list(read_texts(Path(each) for each in given if each != BUILTIN))


def shipped_first() -> Sequence[Text]:
    """Give the package's texts to calibrate on."""
    from edgellm.quantization.calibration import calibration_texts

    return calibration_texts()


def shipped_last() -> Sequence[Text]:
    """Give the package's texts to measure on."""
    from edgellm.quantization.calibration import evaluation_texts

    return evaluation_texts()
