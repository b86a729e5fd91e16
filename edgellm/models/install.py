"""Bringing a model of the hub into the store: what would be done, and doing it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from edgellm.errors import FetchError
from edgellm.models import hub, store
from edgellm.models.choice import Candidate, choose
from edgellm.models.download import Progress
from edgellm.models.hub import Repository
from edgellm.models.hub_cache import cached_repository
from edgellm.models.needs import MemoryNeeds, require_space
from edgellm.models.place import Place
from edgellm.models.reference import HubReference

__all__ = ["Plan", "give_up", "make_plan", "pull"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What `pull` would do.

    Attributes:
        name: what the model will be called in the store.
        repository: where it comes from.
        candidate: the files.
        to_fetch: bytes that are neither in the store nor in the cache of huggingface_hub.
        needs: the memory that it takes; None where its header does not tell.
        already: the store has it, whole and the same.
        begun: an earlier pull has left a part of it.
    """

    name: str
    repository: Repository
    candidate: Candidate
    to_fetch: int
    needs: MemoryNeeds | None
    already: bool
    begun: bool

    @property
    def bytes(self) -> int:
        """The size of the model."""
        return self.candidate.bytes


def make_plan(reference: HubReference, report: Progress) -> Plan:
    """Find out what a reference means, what it takes, and whether that is there.

    The beginning of a GGUF file is read for it, and kept for the download; a header that breaks a
    rule is refused here.

    Raises:
        NotFoundError: the hub has no such repository or file.
        UsageError: the reference means several models.
        DoesNotFitError: the disk has no room.
        FetchError: the hub cannot be reached, or gives nonsense.
        ConvertersError: the header breaks a rule, or is of no model that can be run.
    """
    store.clean()
    report(f"asking the hub for {reference.repo}", 0, 0)
    repository = (cached_repository(reference) if hub.is_offline() else None) or hub.describe(
        reference
    )
    place = Place(repository, choose(repository, reference.wanted))
    begun = place.staging.exists()
    with place.locked():
        if place.gather(report):
            return Plan(place.name, repository, place.candidate, 0, None, True, False)
        to_fetch = place.missing()
        require_space(place.name, to_fetch, place.staging)
        needs = place.needs(report)
    return Plan(place.name, repository, place.candidate, to_fetch, needs, False, begun)


def pull(plan: Plan, report: Progress) -> store.StoredModel:
    """Do what a plan says, and give the model in the store.

    Raises:
        FetchError: it did not come whole; what came is kept, and the store is as it was.
        ConvertersError: the finished file breaks a rule; it is thrown away.
        OSError: the disk is full, or may not be written.
    """
    place = Place(plan.repository, plan.candidate)
    with place.locked():
        if plan.already:
            place.renew()
        else:
            hashes = {file.name: place.bring(file, report) for file in place.candidate.files}
            place.check()
            place.commit(hashes)
    model = store.find(plan.name)
    if model is None:
        raise FetchError(f"{plan.name} vanished from the store while it was put there")
    return model


def give_up(plan: Plan) -> None:
    """Remove the beginning that a plan has brought, where it will not be followed."""
    if not plan.begun:
        shutil.rmtree(Place(plan.repository, plan.candidate).staging, ignore_errors=True)
