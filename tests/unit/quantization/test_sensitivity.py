"""Weights changed in a loaded model, and what that says of their importance."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import tiny
from edgellm.backends.llama_cpp.swap import SwapModel
from edgellm.errors import BackendError, UsageError
from edgellm.quantization.sensitivity import (
    Group,
    Measured,
    alphas_of,
    default_alphas,
    groups_of,
    measure,
    measure_formats,
)
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.pipeline import convert
from edgellm_quant.facts import Role
from edgellm_quant.formats import FORMATS

TEXT = [3, 20, 21, 22, 23, 24, 25, 26]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    convert(tiny.MODELS["llama"](tmp_path / "hf"), tmp_path / "model.gguf", dtype="f32")
    return tmp_path / "model.gguf"


def test_logits_follow_the_weights_as_if_loaded_anew(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    convert(tiny.MODELS["llama"](tmp_path / "other", seed=9), other, dtype="f32")
    with GGUFCheckpoint(model) as one, GGUFCheckpoint(other) as two:
        with closing(SwapModel(other, 8)) as fresh:
            wanted = np.array(fresh.logits(TEXT, 2))
        with closing(SwapModel(model, 8)) as swapped:
            first = np.array(swapped.logits(TEXT, 2))
            assert first.shape == (6, swapped.vocabulary)
            assert not np.allclose(first, wanted, atol=1e-3)
            assert {name for name in one.names if name.endswith(".weight")} == set(swapped.weights)
            for name in swapped.weights:
                swapped.write(name, two.raw(name))
            np.testing.assert_array_equal(swapped.logits(TEXT, 2), wanted)
            for name in swapped.weights:
                swapped.write(name, one.raw(name))
            np.testing.assert_array_equal(swapped.logits(TEXT, 2), first)
            with pytest.raises(BackendError, match=r"nothing is computed with 'no\.weight'"):
                swapped.write("no.weight", np.zeros(4, np.uint8))
            with pytest.raises(BackendError, match=r"4 bytes for 'output\.weight'"):
                swapped.write("output.weight", np.zeros(4, np.uint8))


def test_finer_formats_lose_less_and_leave_no_trace(model: Path) -> None:
    formats = [FORMATS[name] for name in ("Q4_0", "Q5_0", "Q8_0")]
    wanted = {"output.weight": formats, "blk.0.ffn_down.weight": formats[:1]}
    seen: list[tuple[int, int]] = []
    found = measure_formats(
        model, wanted, {}, [TEXT, TEXT[::-1]], progress=lambda *at: seen.append(at)
    )
    assert {name: list(each) for name, each in found.items()} == wanted
    coarse, middle, fine = found["output.weight"].values()
    assert coarse > middle > fine > 0
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    # One at a time: the other tensor is itself again.
    alone = measure_formats(model, {"blk.0.ffn_down.weight": formats[:1]}, {}, [TEXT, TEXT[::-1]])
    assert alone["blk.0.ffn_down.weight"] == found["blk.0.ffn_down.weight"]


def test_groups_are_parts_by_thirds() -> None:
    names = [f"blk.{at}.{part}.weight" for at in range(7) for part in ("attn_v", "ffn_down")]
    groups = groups_of(["token_embd.weight", *names])
    assert [group.name for group in groups] == [
        "embedding",
        "attention value, first third",
        "feed-forward down, first third",
        "attention value, middle third",
        "feed-forward down, middle third",
        "attention value, last third",
        "feed-forward down, last third",
    ]
    assert groups[1].tensors == tuple(f"blk.{at}.attn_v.weight" for at in range(3))
    assert sorted(name for group in groups for name in group.tensors) == sorted(
        ["token_embd.weight", *names]
    )


def test_what_is_measured_is_a_divergence_and_leaves_no_trace(model: Path) -> None:
    names = ["output.weight", "blk.0.ffn_down.weight", "blk.1.attn_v.weight"]
    seen: list[tuple[int, int]] = []
    first = measure(model, names, {}, [TEXT, TEXT[::-1]], progress=lambda *at: seen.append(at))
    again = measure(model, names[::-1], {}, [TEXT, TEXT[::-1]])
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert {each.group.role for each in first} == {Role.OUTPUT, Role.DOWN, Role.VALUE}
    for each in first:
        (error,) = each.errors
        assert 0.002 < error < 0.05  # of 4-bit floats
        assert each.kld > 0
        assert each.alphas == {each.group.tensors[0]: each.kld / error}
        assert each in again  # whatever was changed before
    with pytest.raises(UsageError, match="no text"):
        measure(model, names, {}, [])


def test_tensors_of_a_group_share_its_divergence_alike() -> None:
    group = Group(Role.UP, 0, tuple(f"blk.{at}.ffn_up.weight" for at in range(3)))
    found = Measured(group, (0.02, 0.0001, 0.0), 0.3, 0.0).alphas
    one, two, three = group.tensors
    # Whatever its error is, each is taken to have lost 0.1 nats.
    assert found[one] * 0.02 == pytest.approx(0.1)
    assert found[two] * 0.0001 == pytest.approx(0.1)
    assert found[three] == pytest.approx(0.1 / (0.0201 / 3))  # could not be stored
    assert set(Measured(group, (0.0,) * 3, 0.0, 0.0).alphas.values()) == {0.0}


def test_without_a_measurement_other_models_speak() -> None:
    layer = [f"blk.{at}.{part}.weight" for at in range(3) for part in ("attn_q", "ffn_down")]
    tied = default_alphas(["token_embd.weight", *layer, "blk.1.ssm_in.weight"])
    assert len(tied) == 8
    for at in range(3):
        assert tied[f"blk.{at}.ffn_down.weight"] > 5 * tied[f"blk.{at}.attn_q.weight"] > 0
    assert tied["blk.1.ssm_in.weight"] > 0
    # before the logits a plain error and one weighed by inputs are two things
    weighed = default_alphas(["token_embd.weight", *layer], ["token_embd.weight"])
    assert weighed["token_embd.weight"] > tied["token_embd.weight"] > tied["blk.0.ffn_down.weight"]
    own = default_alphas(["token_embd.weight", "output.weight", *layer])
    assert own["output.weight"] == tied["token_embd.weight"] > own["token_embd.weight"]


def test_what_was_not_measured_is_scaled_to_what_was() -> None:
    names = ["token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight"]
    expected = default_alphas(names)
    up = names[3]
    group = Group(Role.UP, 0, (up,))
    found = alphas_of([Measured(group, (0.01,), 0.03 * expected[up], 0.0)], names)
    assert found[up] == pytest.approx(3 * expected[up])
    assert found == pytest.approx({name: 3 * expected[name] for name in names})
    assert alphas_of([], names) == expected
