"""The config.json of published models is taken as it is, and says the same after the way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm_converters.architectures import by_hf_name
from edgellm_converters.architectures.values import Values
from published_configs import BOOKKEEPING, PUBLISHED
from published_encoders import PUBLISHED_ENCODERS

HERE = Path("config.json")
ALL = PUBLISHED | PUBLISHED_ENCODERS
# What is left out with a note that has this word.
NOTED = {
    "pythia-70m": "GELU",
    "falcon-7b": "GELU",
    "falcon-40b": "GELU",
    "falcon-11B": "GELU",
    "internlm2-1_8b": "dynamic",
    "starcoder2-3b": "sliding_window",
    "ModernBERT-base": "modules.json",
    "embeddinggemma-300m": "modules.json",
}


@pytest.mark.parametrize("name", ALL)
def test_a_published_configuration_is_taken(name: str) -> None:
    config = BOOKKEEPING | ALL[name]
    family = by_hf_name(HERE, config["architectures"][0])
    notes: list[str] = []
    decoder = family.from_config(Values(HERE, config), notes)
    assert [NOTED[name] in note for note in notes] == [True] * (name in NOTED)
    written = family.config(decoder)
    assert family.from_config(Values(HERE, written), []) == decoder
    stored = {key: value for key, (_, value) in family.metadata(decoder).items()}
    names = {rule.gguf.name for rule in family.rules(decoder)}
    assert "token_embd.weight" in names
    assert all(key.startswith(f"{family.name}.") for key in stored)


def test_what_the_numbers_of_some_mean() -> None:
    """Figures worked out by hand from the models' own descriptions."""

    def measure(name: str, field: str) -> object:
        config = PUBLISHED[name]
        family = by_hf_name(HERE, config["architectures"][0])
        return getattr(family.from_config(Values(HERE, config), []), field)

    assert measure("phi-2", "rotary") == 32  # 0.4 of a head of 80
    assert measure("pythia-70m", "rotary") == 16
    assert measure("Phi-4-mini", "rotary") == 96
    assert measure("falcon-7b", "heads_kv") == 1
    assert measure("falcon-7b", "feed_forward") == 4 * 4544
    assert measure("falcon-7b", "context") == 2048
    assert measure("falcon-40b", "two_norms") is True
    assert measure("falcon-11B", "two_norms") is False
    assert measure("c4ai-command-r-v01", "context") == 131072
    assert measure("MiniCPM-2B-sft", "logit_scale") == 9.0
    assert measure("MiniCPM-2B-sft", "residual_scale") == pytest.approx(1.4 / 40**0.5)
    assert measure("MiniCPM-2B-sft", "tied") is True
    assert measure("gpt2", "feed_forward") == 3072
