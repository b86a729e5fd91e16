"""What slows a machine down at the moment: heat, a weak power supply, a governor that saves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgellm.device.files import ROOT, number, text

__all__ = ["Condition", "probe_condition"]

PROCESSORS = 256
ZONES = 64
# Bits of what a Raspberry Pi's firmware says (get_throttled): at the moment, and 16 bits above,
# since the last start. https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_SINCE_START = 16
_FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"


@dataclass(frozen=True, slots=True)
class Condition:
    """How the machine is doing.

    Attributes:
        governors: how the frequency is chosen, each name once; empty where nothing tells.
        drivers: what sets it; those of recent processors choose by themselves under any governor.
        frequency: of the fastest core at the moment, in Hz; None where nothing tells.
        temperature: of the hottest sensor, in degrees Celsius; None where nothing tells.
        throttled: what slows it down now, in the words of a Raspberry Pi's firmware.
        throttled_before: what did since it was started.
    """

    governors: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    frequency: float | None = None
    temperature: float | None = None
    throttled: tuple[str, ...] = ()
    throttled_before: tuple[str, ...] = ()


def probe_condition(root: Path = ROOT) -> Condition:
    """Read sensors and the firmware's marks; all of them may be missing."""
    frequencies = [root / f"sys/devices/system/cpu/cpu{each}/cpufreq" for each in range(PROCESSORS)]
    degrees = [
        value / 1000
        for zone in range(ZONES)
        if (value := number(root / f"sys/class/thermal/thermal_zone{zone}/temp")) is not None
        and 0 < value < 200_000
    ]
    now, before = _throttled(root)
    return Condition(
        _each(frequencies, "scaling_governor"),
        _each(frequencies, "scaling_driver"),
        max(
            (1e3 * f for each in frequencies if (f := number(each / "scaling_cur_freq"))),
            default=None,
        ),
        max(degrees, default=None),
        now,
        before,
    )


def _each(folders: list[Path], name: str) -> tuple[str, ...]:
    return tuple(sorted({word for folder in folders if (word := text(folder / name))}))


def _throttled(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ask the firmware by its file, or else by its program."""
    word = text(root / _FIRMWARE) or _vcgencmd(root)
    try:
        bits = int(word.removeprefix("throttled="), 16)
    except ValueError:
        return (), ()
    return (
        tuple(name for bit, name in _BITS.items() if bits >> bit & 1),
        tuple(name for bit, name in _BITS.items() if bits >> (bit + _SINCE_START) & 1),
    )


def _vcgencmd(root: Path) -> str:
    import subprocess

    program = root / "usr/bin/vcgencmd"
    if not program.exists():
        return ""
    try:
        return subprocess.run(
            [program, "get_throttled"], capture_output=True, text=True, check=False, timeout=2
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
