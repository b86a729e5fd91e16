"""What passes the check does not crash llama.cpp: loaded for real, in a process of its own."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from edgellm.models.check import check_model_file
from edgellm_converters.errors import ConvertersError
from hostile import ggufbytes as g
from hostile.test_model_check import ENCODERS
from tiny_tokenizers import charsmap

LOADER = Path(__file__).with_name("native_load.py")


def load_natively(paths: list[Path], base: Path | None = None) -> list[str]:
    """Say of each file whether llama.cpp loaded it, refused it, or crashed; adapters of a base."""
    done = subprocess.run(
        [sys.executable, LOADER, *(["--base", base] if base else []), *paths],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=os.environ | {"GGML_NO_BACKTRACE": "1"},
    )
    verdicts = done.stdout.splitlines()
    assert len(verdicts) == len(paths)
    return verdicts


def write(folder: Path, files: list[g.File]) -> list[Path]:
    paths = []
    for index, file in enumerate(files):
        path = folder / f"{index}.gguf"
        path.write_bytes(file.build())
        paths.append(path)
    return paths


def passing(paths: list[Path]) -> list[Path]:
    passed = []
    for path in paths:
        try:
            check_model_file(path)
        except ConvertersError:
            continue
        passed.append(path)
    return passed


def test_good_models_load(tmp_path: Path) -> None:
    vocabularies = [
        g.spm_vocabulary(),
        g.bpe_vocabulary(),
        g.wordpiece_vocabulary(),
        g.unigram_vocabulary(),
        g.unigram_vocabulary(charsmap({"A": "a", "\n": " ", "س": "S", "🙂": ":)"})),
    ]
    paths = write(tmp_path, [g.model(vocabulary) for vocabulary in vocabularies])
    assert passing(paths) == paths
    assert load_natively(paths) == ["loaded"] * len(paths)


def test_what_the_check_refuses_would_crash(tmp_path: Path) -> None:
    """The check is there for a reason, and the loader below does see a crash."""
    tokens = g.spm_tokens()[0]
    unaligned = g.model().with_pair(g.pair("general.alignment", g.U32, 8))
    unaligned.alignment = 8
    while len(unaligned.header()) % 32 in (0, *range(25, 32)):
        unaligned = unaligned.with_pair(g.pair("x" * (1 + len(unaligned.pairs)), g.U8, 0))
    twice = g.model().with_pair(g.array("tokenizer.ggml.tokens", g.STRING, ["a", *tokens[1:]]))
    files = [
        g.model().with_pair(g.pair("llama.block_count", g.U32, 513)),
        g.model().with_pair(g.pair("llama.rope.scaling.type", g.STRING, "x")),
        g.model().with_pair(g.pair("llama.attention.layer_norm_rms_epsilon", g.F32, -1.0)),
        g.model().with_tensor("output_norm.weight", kind=g.GGML_F16, data=None),
        twice,
        unaligned,
    ]
    paths = write(tmp_path, files)
    assert passing(paths) == []
    assert all(verdict.startswith("crashed") for verdict in load_natively(paths))


def test_what_the_check_refuses_of_encoders_would_harm(tmp_path: Path) -> None:
    """Not all ends in a crash with this text: some is refused, some gives tokens that are none."""
    paths = write(tmp_path, [file for file, _ in ENCODERS.values()])
    assert passing(paths) == []
    verdicts = dict(zip(ENCODERS, load_natively(paths), strict=True))
    crashed = {case for case, verdict in verdicts.items() if verdict.startswith("crashed")}
    assert crashed >= {
        "WordPiece without its first token, which no flag turns off",
        "WordPiece without its separator",
        "a charsmap that leads outside",
        "a replacement outside",
    }, verdicts


def test_random_changes_of_a_table_of_replacements(tmp_path: Path) -> None:
    source = random.Random(11)
    table = charsmap({"A": "a", "\n": " ", "\x01": "", "س": "S", "ل": "L", "🙂": ":)"})
    files = []
    for _ in range(200):
        changed = bytearray(table)
        for _ in range(source.randint(1, 4)):
            at = source.choice((source.randrange(len(table)), 4 * source.randrange(80) + 4))
            changed[at] = source.choice((0, 1, 65, 255, source.randrange(256)))
        files.append(g.model(g.unigram_vocabulary(bytes(changed))))
    assert_no_crash(write(tmp_path, files))


def test_hyper_parameters_at_their_edges(tmp_path: Path) -> None:
    base = g.model()
    files = [base]
    whole = [pair.key for pair in base.pairs if pair.kind == g.U32]
    whole += ["llama." + name for name in ("vocab_size", "expert_count", "attention.key_length")]
    whole += ["llama." + name for name in ("attention.sliding_window", "nextn_predict_layers")]
    files += [
        base.with_pair(g.pair(key, g.U32, value))
        for key in whole
        for value in (0, 1, 2, 3, 17, 512, (1 << 30), (1 << 32) - 1)
    ]
    files += [
        base.with_pair(g.pair("llama." + key, g.F32, value))
        for key in ("rope.freq_base", "rope.scaling.factor", "attention.layer_norm_rms_epsilon")
        for value in (0.0, 1e-38, 1.0, 1e38)
    ]
    assert_no_crash(write(tmp_path, files))


def test_random_changes(tmp_path: Path) -> None:
    source = random.Random(7)
    whole = g.model().build()
    end = len(g.model().header())
    paths = []
    for index in range(300):
        file = bytearray(whole)
        for _ in range(source.randint(1, 3)):
            file[source.randrange(24, end)] = source.choice(
                (0, 1, 2, 65, 127, source.randrange(256))
            )
        path = tmp_path / f"{index}.gguf"
        path.write_bytes(file)
        paths.append(path)
    assert_no_crash(paths)


def assert_no_crash(paths: list[Path]) -> None:
    passed = passing(paths)
    assert len(passed) > 5
    verdicts = load_natively(passed)
    assert "loaded" in verdicts
    crashed = [f"{p}: {v}" for p, v in zip(passed, verdicts, strict=True) if "crashed" in v]
    assert not crashed
