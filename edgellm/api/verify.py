"""Check what a receipt says of a model: its tensors, its source, and the quality measured again."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.api.convert import source_path
from edgellm.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from edgellm.evaluate.texts import Text
    from edgellm.quantization.job import Watcher
    from edgellm.quantization.receipt import Quality, Receipt

__all__ = ["Check", "Verification", "verify_receipt"]

# What another processor's kernels may change: they round activations and sums otherwise.
PERPLEXITY_TOLERANCE = 0.02
KLD_TOLERANCE, KLD_FLOOR = 0.15, 0.002


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked: what it is, what the receipt says and what was found."""

    name: str
    said: str
    found: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """All checks. `skipped` are sentences on what could not be checked."""

    model: Path
    receipt: Receipt
    checks: tuple[Check, ...]
    skipped: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)


def verify_receipt(
    model: str | Path,
    *,
    against: str | Path | None = None,
    text: Sequence[str | Path] = (),
    threads: int | None = None,
    watcher: Watcher | None = None,
) -> Verification:
    """Check a model by its receipt.

    The tensors' hash needs the file alone. Perplexity is measured again on those texts of the
    receipt that are at hand: the package's own, and those in `text`. With the source in `against`,
    its hash is checked and the KL divergence measured as well.

    Args:
        model: a GGUF file, an MLX folder or a name in the store.
        against: what it was quantized from.
        text: files of text that the receipt measured on.
        threads: cores to use; None for all.
        watcher: who is told how it goes.

    Raises:
        NotFoundError: the model has no receipt, or is not there.
        UsageError: a text that the receipt does not know.
        EdgellmError, ConvertersError: see their subclasses.
    """
    from edgellm.api.show import show
    from edgellm.evaluate.texts import read_texts
    from edgellm.quantization.calibration import evaluation_texts
    from edgellm.quantization.job import Watcher
    from edgellm.quantization.measure import data_sha256, source_facts

    path = source_path(model)
    receipt = show(str(path)).receipt
    if receipt is None:
        raise NotFoundError(
            f"{path}: there is no receipt in it",
            hint="edgellm quantize writes one; edgellm eval measures any model",
        )
    watcher = watcher or Watcher()
    checks = []
    skipped = []
    if receipt.data_sha256:
        found = data_sha256(path)
        checks.append(
            Check("tensors (sha256)", receipt.data_sha256, found, found == receipt.data_sha256)
        )
    else:
        skipped.append("the receipt has no hash of the tensors: nothing was measured then")
    if against is not None:
        source = source_facts(source_path(against))
        same = source.sha256 == receipt.source.sha256
        checks.append(Check("source (sha256)", receipt.source.sha256, source.sha256, same))
    given = read_texts(Path(each) for each in text)
    known = {each.sha256: each for each in (*evaluation_texts(), *given)}
    measured = [each for each in receipt.quality if each.sha256]
    hashes = {each.sha256 for each in measured}
    strange = [each.name for each in given if each.sha256 not in hashes]
    if strange:
        raise UsageError(f"{strange[0]}: the receipt did not measure on this text")
    skipped += [
        f"{each.name}: its text is not at hand (--text FILE)"
        for each in measured
        if each.sha256 not in known
    ]
    again = [(each, known[each.sha256]) for each in measured if each.sha256 in known]
    if not all(check.holds for check in checks):
        skipped.append("quality was not measured: tensors or source are others")
    elif again:
        checks += _measure(path, receipt, again, against, threads, watcher)
    return Verification(path, receipt, tuple(checks), tuple(skipped))


def _measure(
    model: Path,
    receipt: Receipt,
    again: Sequence[tuple[Quality, Text]],
    against: str | Path | None,
    threads: int | None,
    watcher: Watcher,
) -> list[Check]:
    """Measure texts again, as many tokens of each as the receipt tells of."""
    from edgellm.backends.base import LoadOptions
    from edgellm.evaluate.compare import compare
    from edgellm.quantization.running import runnable

    checks = []
    with tempfile.TemporaryDirectory() as folder:
        reference = None
        if against is not None:
            reference = runnable(source_path(against), Path(folder) / "reference.gguf")
        for number, (said, text) in enumerate(again):
            result = compare(
                reference,
                [model],
                [text],
                context=receipt.context,
                max_tokens=_tokens(said.tokens, receipt.context),
                options=LoadOptions(threads=threads),
                progress=lambda done, total, at=number: watcher.stage(  # type: ignore[misc]
                    "measuring", at + done / total, len(again)
                ),
                cancelled=watcher.cancelled,
            )
            quality = result.evaluations[0].quality
            near = abs(quality.perplexity / said.perplexity - 1) <= PERPLEXITY_TOLERANCE
            name = f"perplexity, {said.name}"
            checks.append(Check(name, f"{said.perplexity:.4f}", f"{quality.perplexity:.4f}", near))
            if quality.kld is not None:
                mean, was = quality.kld.mean, said.kld["mean"]
                near = abs(mean - was) <= max(KLD_TOLERANCE * was, KLD_FLOOR)
                checks.append(Check(f"mean KLD, {said.name}", f"{was:.5f}", f"{mean:.5f}", near))
    return checks


def _tokens(scored: int, context: int) -> int:
    """Give the tokens of the chunks that so many were scored of: the second half, but the first."""
    per_chunk = context - 1 - context // 2
    return max(1, -(-scored // per_chunk)) * context
