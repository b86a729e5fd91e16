"""Sizes of experts, latent attention and convolutions that llama.cpp would fail an assertion on.

Whole tiny models of these families, each with some of its keys changed.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import tiny
from edgellm.models.check import check_model_file
from edgellm_converters.errors import ConvertersError, CorruptFileError
from edgellm_converters.pipeline import convert
from hostile.test_native import load_natively

NAMES = ("deepseek-v2", "deepseek-v3", "lfm2", "lfm2-moe", "mixtral", "qwen2-moe", "olmoe")
VALUES = (0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 20, 24, 32, 64, 512, 1 << 20)
U32, STRING = 4, 8


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The GGUF file of each family."""
    folder = tmp_path_factory.mktemp("experts")
    found = {}
    for name in NAMES:
        convert(tiny.MODELS[name](folder / name), folder / f"{name}.gguf", dtype="f32")
        found[name] = (folder / f"{name}.gguf").read_bytes()
    return found


def pair(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def changed(file: bytes, changes: dict[str, int]) -> bytes:
    """Set u32 keys: in their place, or before all others, padded so that tensors stay aligned."""
    new = []
    for key, value in changes.items():
        begin = pair(key, U32, b"")
        at = file.find(begin)
        if at < 0:
            new.append(begin + struct.pack("<I", value))
        else:
            at += len(begin)
            file = file[:at] + struct.pack("<I", value) + file[at + 4 :]
    if not new:
        return file
    bare = len(b"".join(new)) + len(pair("x.padding", STRING, bytes(8)))
    padding = -bare % 32
    new.append(pair("x.padding", STRING, struct.pack("<Q", padding) + b" " * padding))
    (count,) = struct.unpack_from("<Q", file, 16)
    return file[:16] + struct.pack("<Q", count + len(new)) + b"".join(new) + file[24:]


# A model, changes of its keys, words of the sentence.
HARMFUL: dict[str, tuple[str, dict[str, int], str]] = {
    "more experts used than there are": (
        "mixtral",
        {"llama.expert_used_count": 5},
        "expert_used_count is 5 of 4",
    ),
    "no expert used": ("qwen2-moe", {"qwen2moe.expert_used_count": 0}, "used_count is 0 of 4"),
    "a way to weigh experts that is not there": (
        "deepseek-v2",
        {"deepseek2.expert_gating_func": 5},
        "expert_gating_func is 5",
    ),
    "no way to weigh experts": (
        "lfm2-moe",
        {"lfm2moe.expert_gating_func": 0},
        "expert_gating_func is 0",
    ),
    "as many groups as experts": (
        "deepseek-v3",
        {"deepseek2.expert_group_count": 8},
        "expert_group_count 8",
    ),
    "all groups used": (
        "deepseek-v3",
        {"deepseek2.expert_group_used_count": 4},
        "expert_group_used_count is 4",
    ),
    "two heads of latent vectors": (
        "deepseek-v2",
        {"deepseek2.attention.head_count_kv": 2},
        "head_count_kv 2",
    ),
    "a latent head of another size": (
        "deepseek-v3",
        {"deepseek2.attention.key_length": 40},
        "key_length 40",
    ),
    "all of a head rotated": (
        "deepseek-v2",
        {"deepseek2.attention.key_length_mla": 8},
        "key_length_mla 8",
    ),
    "a longer rotated part": (
        "deepseek-v2",
        {"deepseek2.rope.dimension_count": 24},
        "not more than 24",
    ),
    "a convolution over one token": ("lfm2", {"lfm2.shortconv.l_cache": 1}, "l_cache is 1"),
    "keys that are longer than values": (
        "lfm2",
        {"lfm2.attention.key_length": 16, "lfm2.attention.value_length": 8},
        "differ",
    ),
    "heads that are more than the hidden size": (
        "qwen2-moe",
        {
            "qwen2moe.attention.head_count_kv": 1,
            "qwen2moe.attention.key_length": 32,
            "qwen2moe.attention.value_length": 32,
        },
        "heads of 32",
    ),
    "longer heads of convolutional models": (
        "lfm2",
        {"lfm2.attention.key_length": 32, "lfm2.attention.value_length": 32},
        "heads of 32",
    ),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_sizes_that_do_not_fit_give_one_sentence(
    case: str, models: dict[str, bytes], tmp_path: Path
) -> None:
    name, changes, words = HARMFUL[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(changed(models[name], changes))
    with pytest.raises(CorruptFileError) as caught:
        check_model_file(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_untouched_models_pass_and_load(models: dict[str, bytes], tmp_path: Path) -> None:
    paths = []
    for name, file in models.items():
        paths += [tmp_path / f"{name}.gguf", tmp_path / f"{name}-padded.gguf"]
        paths[-2].write_bytes(file)
        paths[-1].write_bytes(changed(file, {"x.number": 1}))
    for path in paths:
        check_model_file(path)
    assert load_natively(paths) == ["loaded"] * len(paths)


def test_what_is_refused_would_end_the_process(models: dict[str, bytes], tmp_path: Path) -> None:
    paths = []
    for case, (name, changes, _) in HARMFUL.items():
        paths.append(tmp_path / f"{case}.gguf")
        paths[-1].write_bytes(changed(models[name], changes))
    verdicts = dict(zip(HARMFUL, load_natively(paths), strict=True))
    crashed = {case for case, verdict in verdicts.items() if verdict.startswith("crashed")}
    # In these, a tensor of another shape comes before.
    convolutional = {case for case, (name, _, _) in HARMFUL.items() if name == "lfm2"}
    assert crashed == HARMFUL.keys() - convolutional, verdicts


@pytest.mark.parametrize("name", NAMES)
def test_no_size_that_passes_crashes(name: str, models: dict[str, bytes], tmp_path: Path) -> None:
    """Each whole number of the family in turn, at sizes that are near others of the model."""
    file = models[name]
    prefix = next(
        each
        for each in ("deepseek2", "lfm2moe", "lfm2", "llama", "qwen2moe", "olmoe")
        if file.count(each.encode() + b".") > 3
    )
    passed = []
    for suffix in (
        *("expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count"),
        *("expert_gating_func", "expert_feed_forward_length", "expert_shared_count"),
        *("expert_shared_feed_forward_length", "leading_dense_block_count"),
        *("attention.q_lora_rank", "attention.kv_lora_rank", "attention.head_count_kv"),
        *("attention.key_length", "attention.value_length", "attention.key_length_mla"),
        *("attention.value_length_mla", "rope.dimension_count", "shortconv.l_cache"),
    ):
        key = f"{prefix}.{suffix}"
        if file.find(pair(key, U32, b"")) < 0:
            continue
        for value in VALUES:
            path = tmp_path / f"{suffix}-{value}.gguf"
            path.write_bytes(changed(file, {key: value}))
            try:
                check_model_file(path)
            except ConvertersError:
                continue
            passed.append(path)
    verdicts = load_natively(passed)
    assert "loaded" in verdicts
    crashed = [str(p) for p, verdict in zip(passed, verdicts, strict=True) if "crashed" in verdict]
    assert not crashed
