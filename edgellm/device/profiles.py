"""Devices that people have: memory, how fast it is read, and what the system keeps for itself.

Memory is what the maker names, in powers of two. Bandwidths are computed from the published type
and width of the memory: transfers a second times bytes a transfer. Real programs do not reach that.

- Raspberry Pi 4 Model B: LPDDR4-3200, 32 bits wide (product brief and BCM2711 documentation,
  Raspberry Pi Ltd): 12.8 GB/s.
- Raspberry Pi 5: LPDDR4X-4267, 32 bits wide (product brief, Raspberry Pi Ltd): 17.1 GB/s.
- laptops: two channels of DDR4-3200, 64 bits each (JEDEC JESD79-4): 51.2 GB/s.

What the system keeps is our choice: on a Raspberry Pi a gibibyte for the firmware's share, the
desktop and a little cache; on a laptop 3 or 4, for a browser.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgellm.device.files import ROOT
from edgellm.device.ram import probe_ram
from edgellm.errors import UsageError

__all__ = ["PROFILES", "THIS", "Profile", "get_profile"]

GIB = 2**30
# Beyond what is in use on this machine at the moment.
MARGIN = GIB // 4
THIS = "this"


@dataclass(frozen=True, slots=True)
class Profile:
    """A device.

    Attributes:
        name: what `--fit` takes.
        memory: bytes in all.
        reserve: bytes that the system and other programs keep.
        bandwidth: bytes of memory that can be read in a second, by its type; None if not known.
    """

    name: str
    memory: int
    reserve: int
    bandwidth: float | None = None

    @property
    def available(self) -> int:
        """Bytes that are left for a model."""
        return max(0, self.memory - self.reserve)


def _profile(name: str, memory: float, reserve: float, bandwidth: float) -> Profile:
    return Profile(name, int(memory * GIB), int(reserve * GIB), bandwidth * 1e9)


_ALL = (
    _profile("rpi4-4gb", 4, 1, 12.8),
    _profile("rpi4-8gb", 8, 1, 12.8),
    _profile("rpi5-4gb", 4, 1, 17.1),
    _profile("rpi5-8gb", 8, 1, 17.1),
    _profile("rpi5-16gb", 16, 1, 17.1),
    _profile("laptop-8gb", 8, 3, 51.2),
    _profile("laptop-16gb", 16, 4, 51.2),
)

PROFILES: Mapping[str, Profile] = MappingProxyType({each.name: each for each in _ALL})
"""Devices by name; `this`, the machine that the program runs on, is not among them."""


def get_profile(name: str) -> Profile:
    """Give the device of that name, in any case; "this" is the machine at hand.

    Of this machine, what is in use at the moment counts as the system's.

    Raises:
        UsageError: there is none; the hint names the nearest one.
        BackendError: this machine does not say how much memory it has.
    """
    wanted = name.strip().casefold()
    if wanted == THIS:
        return this_machine()
    if wanted in PROFILES:
        return PROFILES[wanted]
    near = difflib.get_close_matches(wanted, (*PROFILES, THIS), n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join((*PROFILES, THIS))}"
    raise UsageError(f"no device is called {name!r}", hint=hint)


def this_machine(root: Path = ROOT) -> Profile:
    """Measure the machine that this runs on; `root` stands for `/` in tests.

    Raises:
        BackendError: the system does not say how much memory it has.
    """
    ram = probe_ram(root)
    return Profile(THIS, ram.total, min(ram.total, ram.total - ram.available + MARGIN))
