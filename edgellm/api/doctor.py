"""What this device is and can do: `doctor`, with what would fit and how fast it would be."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.api.advice import advise
from edgellm.api.fit import needs_of_header
from edgellm.backends.base import BACKENDS, Accelerator, get_backend
from edgellm.backends.llama_cpp.kernel import measure_kernel
from edgellm.device.bandwidth import Bandwidth, read_bandwidth
from edgellm.device.condition import Condition, probe_condition
from edgellm.device.cpu import Cpu, probe_cpu
from edgellm.device.fit import DEFAULT_CONTEXT, SMALLEST_CONTEXT, Needs
from edgellm.device.memory import Runtime
from edgellm.device.profiles import THIS, get_profile
from edgellm.device.ram import Ram, probe_ram
from edgellm.device.speed import expected_speed
from edgellm.device.typical import TYPICAL
from edgellm.errors import BackendError, EdgellmError
from edgellm.settings import home_dir

if TYPE_CHECKING:
    from edgellm.backends.llama_cpp.build import Build

__all__ = ["BackendStatus", "Doctor", "ModelFit", "doctor", "fit_of"]

# Packages that run models, or that a backend's work depends on.
_PACKAGES = ("llama-cpp-python", "mlx", "mlx-lm", "mlx-metal", "mlx-cuda", "mlx-cuda-12",
             "mlx-cuda-13", "mlx-cpu")  # fmt: skip
_NVIDIA = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"))


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """Whether a backend can be used, and if not, why."""

    name: str
    available: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class ModelFit:
    """An estimate for one model.

    Attributes:
        name: the model's.
        bytes: of its weights.
        context: the largest context that fits, up to what it was trained on; 0 if it does not fit.
        memory: bytes that it takes with the usual context, or the largest one if that is less.
        tokens_per_s: tokens written a second, from an empty context.
    """

    name: str
    bytes: int
    context: int
    memory: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Doctor:
    """What was found."""

    cpu: Cpu
    ram: Ram
    condition: Condition
    bandwidth: Bandwidth
    accelerators: tuple[tuple[str, Accelerator], ...]
    backends: tuple[BackendStatus, ...]
    packages: Mapping[str, str]
    build: Build | None
    store: Path
    disk_free: int | None
    models: tuple[ModelFit, ...]
    advice: tuple[str, ...]


def doctor(*, measure: bool = False) -> Doctor:
    """Look at this device.

    Args:
        measure: measure the memory bandwidth even if that was done in the last 30 days.

    Raises:
        BackendError: the system does not say how much memory it has.
    """
    cpu, ram, condition = probe_cpu(), probe_ram(), probe_condition()
    bandwidth = read_bandwidth(cpu, ram.available, measure_kernel, measure=measure)
    statuses, devices = [], []
    for name in BACKENDS:
        reason = None
        try:
            backend = get_backend(name)
            reason = backend.missing()
            if reason is None:
                devices += [(name, each) for each in backend.accelerators()]
        except EdgellmError as error:
            reason = str(error)
        statuses.append(BackendStatus(name, reason is None, reason))
    packages = _packages()
    build, free = _build(), _disk_free(home_dir())
    available = get_profile(THIS).available
    return Doctor(
        cpu=cpu,
        ram=ram,
        condition=condition,
        bandwidth=bandwidth,
        accelerators=tuple(devices),
        backends=tuple(statuses),
        packages=packages,
        build=build,
        store=home_dir(),
        disk_free=free,
        models=tuple(
            fit_of(name, needs, available, bandwidth)
            for name, needs in (_stored() | TYPICAL).items()
        ),
        advice=tuple(
            advise(
                cpu,
                ram,
                condition,
                build,
                packages,
                free,
                nvidia=any(path.exists() for path in _NVIDIA),
            )
        ),
    )


def fit_of(name: str, needs: Needs, available: int, bandwidth: Bandwidth) -> ModelFit:
    """Estimate what context fits a model in so many bytes, and how fast it writes.

    Args:
        name: the model's.
        needs: what it takes.
        available: bytes that are free for it.
        bandwidth: of this device.
    """
    trained = needs.trained_context or DEFAULT_CONTEXT
    largest = needs.largest_context(available, trained) or 0
    usual = min(largest or SMALLEST_CONTEXT, DEFAULT_CONTEXT)
    demand = needs.demand(Runtime(usual))
    speed = expected_speed(needs, 1, bandwidth)
    return ModelFit(name, needs.weights, largest, demand.total if demand else 0, speed)


def _stored() -> dict[str, Needs]:
    """Read the headers of the models in the store; one that cannot be read is left out."""
    from edgellm.models.check import inspect_model_file
    from edgellm.models.store import stored_models
    from edgellm_converters.errors import ConvertersError

    found = {}
    for model in stored_models():
        try:
            header = inspect_model_file(model.path)
        except (ConvertersError, EdgellmError, OSError):
            continue
        found[model.name] = needs_of_header(header)
    return found


def _build() -> Build | None:
    from edgellm.backends.llama_cpp.build import describe_build

    try:
        return describe_build()
    except BackendError:
        return None


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _disk_free(folder: Path) -> int | None:
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:  # it is not there yet
            continue
    return None
