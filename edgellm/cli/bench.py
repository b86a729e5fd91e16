"""`edgellm bench`: how fast a model reads and writes here."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.generation import cancel_on_interrupt
from edgellm.cli.main import printable
from edgellm.cli.model_options import loading_options
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.sizes import human_bytes

if TYPE_CHECKING:
    from edgellm.api.bench import BenchResult, Speed
    from edgellm.api.sustained import Sample

__all__ = ["command"]


@click.command("bench")
@click.argument("model", required=False, envvar="EDGELLM_MODEL")
@option("-p", "--n-prompt", type=int, default=512, show_default=True, metavar="N",
        help="Tokens of the prompt; 0 for none.")  # fmt: skip
@option("-n", "--n-gen", type=int, default=64, show_default=True, metavar="N",
        help="Tokens that are written; 0 for none.")  # fmt: skip
@option("-d", "--depth", type=int, default=0, show_default=True, metavar="N",
        help="Tokens that are in the context before.")  # fmt: skip
@option("-r", "--repetitions", type=int, default=3, show_default=True, metavar="N",
        help="How often each is measured.")  # fmt: skip
@option("--sustained", type=float, metavar="MINUTES",
        help="Write for so long, and show the speed of every ten seconds with temperature and "
        "throttling.")  # fmt: skip
@loading_options
@json_option
def command(
    model: str | None,
    n_prompt: int,
    n_gen: int,
    depth: int,
    repetitions: int,
    sustained: float | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Measure how fast a model reads a prompt and writes a text on this device.

    Both are measured by themselves, from an empty context, as llama-bench does; and writing in
    relation to what the memory's bandwidth allows (see docs/devices.md).

    \b
    edgellm bench
    edgellm bench mine.gguf -p 1024 -n 128 -r 5
    edgellm bench mine.gguf --depth 2000 --cache-type q8_0 --json
    edgellm bench --sustained 10                 ten minutes: does it get hot?
    """
    if sustained is not None:
        over_minutes(model, sustained, values, as_json=as_json)
        return
    from edgellm.api.bench import bench
    from edgellm.backends.base import CancelledError

    with cancel_on_interrupt() as cancel:
        try:
            result = bench(
                model,
                prompt_tokens=n_prompt,
                completion_tokens=n_gen,
                repetitions=repetitions,
                depth=depth,
                threads=values["threads"],
                gpu_layers=values["gpu_layers"],
                cache_type=values["cache_type"],
                backend=values["backend"],
                fit=not values["no_fit"],
                lora=values["lora"],
                cancelled=cancel.is_set,
            )
        except CancelledError:
            raise KeyboardInterrupt from None
    if as_json:
        echo_json(_as_json(result))
        return
    for line in _lines(result):
        click.echo(printable(line))


def over_minutes(
    model: str | None, minutes: float, values: dict[str, Any], *, as_json: bool
) -> None:
    """Show the speed of each interval as it is measured, and how much of it lasted."""
    from edgellm.api.sustained import sustain
    from edgellm.backends.base import CancelledError

    def tell(sample: Sample) -> None:
        if not as_json:
            click.echo(printable(_line(sample)))

    with cancel_on_interrupt() as cancel:
        try:
            result = sustain(
                model,
                minutes,
                threads=values["threads"],
                gpu_layers=values["gpu_layers"],
                cache_type=values["cache_type"],
                backend=values["backend"],
                fit=not values["no_fit"],
                lora=values["lora"],
                cancelled=cancel.is_set,
                on_sample=tell,
            )
        except CancelledError:
            raise KeyboardInterrupt from None
    kept = result.kept
    if as_json:
        echo_json(
            {
                "model": result.model,
                "backend": result.backend,
                "threads": result.threads,
                "samples": [
                    asdict(sample)
                    | {
                        "seconds": round(sample.seconds, 3),
                        "tokens_per_s": round(sample.tokens_per_s, 3),
                    }
                    for sample in result.samples
                ],
                "complete": result.complete,
                "kept": None if kept is None else round(kept, 4),
            }
        )
        return
    if kept is not None:
        click.echo(f"the last quarter is at {100 * kept:.0f} % of the speed of the first")


def _line(sample: Sample) -> str:
    parts = [f"{sample.tokens_per_s:8.2f} tokens/s"]
    if sample.frequency is not None:
        parts.append(f"{sample.frequency / 1e6:5.0f} MHz")
    if sample.temperature is not None:
        parts.append(f"{sample.temperature:4.0f} \u00b0C")
    parts += sample.throttled
    minutes, seconds = divmod(round(sample.seconds), 60)
    return f"{minutes:3}:{seconds:02}  {'  '.join(parts)}"


def _as_json(result: BenchResult) -> dict[str, Any]:
    share, bandwidth, expected = result.roofline_share, result.bandwidth, result.expected
    return {
        "model": result.model,
        "backend": result.backend,
        "threads": result.threads,
        "model_bytes": result.model_bytes,
        "cache_type": result.cache_type,
        "depth": result.depth,
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        **_speed("prompt", result.prompt),
        **_speed("completion", result.completion),
        "token_bytes": result.token_bytes,
        "bandwidth_gb_s": None if bandwidth is None else round(bandwidth.bytes_per_s / 1e9, 3),
        "roofline_share": None if share is None else round(share, 4),
        "expected_tokens_per_s": None if expected is None else round(expected, 3),
    }


def _speed(name: str, speed: Speed | None) -> dict[str, float | None]:
    return {
        f"{name}_tokens_per_s": None if speed is None else round(speed.mean, 3),
        f"{name}_stddev": None if speed is None else round(speed.stddev, 3),
    }


def _lines(result: BenchResult) -> list[str]:
    threads = "" if result.threads is None else f", {result.threads} threads"
    behind = f" behind {result.depth}" if result.depth else ""
    lines = [
        f"{result.model}: {human_bytes(result.model_bytes)} of weights, {result.backend}{threads}, "
        f"cache {result.cache_type}"
    ]
    for name, count, speed in (
        ("prompt", result.prompt_tokens, result.prompt),
        ("writing", result.completion_tokens, result.completion),
    ):
        if speed is not None:
            lines.append(
                f"  {name:<8} {count:>6} tokens{behind}  {speed.mean:10.2f} ± {speed.stddev:.2f} "
                "tokens/s"
            )
    if (share := result.roofline_share) is not None and result.bandwidth is not None:
        lines.append(
            f"  writing reads {human_bytes(result.token_bytes)} a token: {100 * share:.0f} % of "
            f"the memory bandwidth of {result.bandwidth.bytes_per_s / 1e9:.1f} GB/s"
        )
    return lines
