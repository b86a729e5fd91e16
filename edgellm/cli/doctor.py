"""`edgellm doctor`: this device, what runs on it, what would fit, what is wrong."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.sizes import human_bytes

if TYPE_CHECKING:
    from edgellm.api.doctor import Doctor, ModelFit
    from edgellm.device.cpu import Cpu

__all__ = ["command"]


@click.command("doctor")
@option("--measure", is_flag=True, help="Measure the memory bandwidth anew.")
@json_option
def command(measure: bool, as_json: bool) -> None:
    """Show what this device is, what would fit, and what could be better.

    The memory bandwidth is measured once (a second) and remembered for 30 days. What fits and
    how fast it would be are estimates: see docs/devices.md.

    \b
    edgellm doctor
    edgellm doctor --json | jq .advice
    """
    from edgellm.api.doctor import doctor

    found = doctor(measure=measure)
    if as_json:
        echo_json(_as_json(found))
        return
    for line in _lines(found):
        click.echo(printable(line))


def _as_json(found: Doctor) -> dict[str, Any]:
    ram, bandwidth = asdict(found.ram), found.bandwidth
    return {
        "cpu": asdict(found.cpu),
        "memory_bytes": ram.pop("total"),
        "memory": ram,
        "bandwidth_gb_s": round(bandwidth.bytes_per_s / 1e9, 3),
        "bandwidth": {
            "threads": bandwidth.threads,
            "buffer": bandwidth.buffer,
            "measured": _date(bandwidth.measured),
            "busy": bandwidth.busy,
            "kernel": [
                {"bytes": size, "gb_s": round(rate / 1e9, 3)} for size, rate in bandwidth.kernel
            ],
        },
        "accelerators": [
            {"backend": name, **asdict(device)} for name, device in found.accelerators
        ],
        "backends": [asdict(status) for status in found.backends],
        "packages": dict(found.packages),
        "llama_cpp": None if found.build is None else asdict(found.build),
        "condition": asdict(found.condition),
        "store": {"path": str(found.store), "free_bytes": found.disk_free},
        "models": [
            {**asdict(model), "tokens_per_s": round(model.tokens_per_s, 2)}
            for model in found.models
        ],
        "advice": list(found.advice),
    }


def _lines(found: Doctor) -> list[str]:
    ram, bandwidth, condition, build = found.ram, found.bandwidth, found.condition, found.build
    swap = f"{human_bytes(ram.swap_total)} of swap" if ram.swap_total else "no swap"
    where = f" ({ram.swap_on})" if ram.swap_on else ""
    limit = " (a container's limit)" if ram.limited else ""
    kernels = [f"{rate / 1e9:.1f}" for _, rate in bandwidth.kernel]
    kernel = (
        f", {' to '.join(kernels[:: len(kernels) - 1 or 1])} by llama.cpp's kernels"
        if kernels
        else ""
    )
    busy = " while other programs ran" if bandwidth.busy else ""
    facts = {
        "processor": found.cpu.name,
        "cores": _cores(found.cpu),
        "instructions": " ".join(found.cpu.features) or "not known",
        "memory": f"{human_bytes(ram.total)}{limit}, {human_bytes(ram.available)} free, "
        f"{swap}{where}",
        "bandwidth": f"{bandwidth.bytes_per_s / 1e9:.1f} GB/s read by {bandwidth.threads} "
        f"threads{kernel}, measured on {_date(bandwidth.measured)[:10]}{busy}",
    }
    if condition.governors:
        facts["governor"] = ", ".join(condition.governors)
    if condition.temperature is not None:
        facts["temperature"] = f"{condition.temperature:.0f} degrees"
    if condition.throttled or condition.throttled_before:
        facts["slowed down"] = ", ".join(condition.throttled) or "not now, but since it was started"
    if found.disk_free is not None:
        facts["store"] = f"{found.store}, {human_bytes(found.disk_free)} free"
    if build is not None:
        facts["llama.cpp"] = (
            f"llama-cpp-python {build.package}, {'with' if build.gpu_offload else 'without'} GPU, "
            f"{build.compiler or 'compiler not known'}: {' '.join(build.features)}"
        )
    others = {name: text for name, text in found.packages.items() if name.startswith("mlx")}
    if others:
        facts["MLX"] = ", ".join(f"{name} {version}" for name, version in others.items())
    lines = [f"{name:<13} {text}" for name, text in facts.items()]
    for name, device in found.accelerators:
        lines.append(
            f"{'accelerator':<13} {device.name}, {device.description} ({name}), "
            f"{human_bytes(device.memory_free)} of {human_bytes(device.memory_total)} free"
        )
    lines += [
        f"{'backend':<13} {status.name}: {status.reason or 'can be used'}"
        for status in found.backends
    ]
    lines += ["", "what would fit (estimates)", _row("", "weights", "memory", "context", "speed")]
    lines += [_fit(model) for model in found.models]
    lines += ["", "advice" if found.advice else "advice: none, all is well"]
    return [*lines, *(f"  {sentence}" for sentence in found.advice)]


def _fit(model: ModelFit) -> str:
    size, memory = human_bytes(model.bytes), human_bytes(model.memory)
    if not model.context:
        return _row(model.name, size, memory, "does not fit", "")
    return _row(model.name, size, memory, str(model.context), f"{model.tokens_per_s:.0f} tokens/s")


def _row(name: str, *columns: str) -> str:
    return f"  {name:<24}" + "".join(f"{column:>14}" for column in columns)


def _cores(cpu: Cpu) -> str:
    text = f"{cpu.physical} cores, {cpu.logical} threads"
    if cpu.kinds:
        text += f" ({' + '.join(map(str, cpu.kinds))} of different speed)"
    if cpu.quota is not None:
        text += f", of which a limit allows {cpu.quota:g}"
    return f"{text}; edgellm uses {cpu.threads}"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
