"""Embedding models there and back: llama.cpp's vectors are those of transformers' golden files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
import tiny_encoders
from edgellm.api.chat import load
from edgellm.api.show import show
from edgellm.errors import BackendError
from edgellm.models.check import check_model_file
from edgellm_converters import targets
from edgellm_converters.architectures.bert import ROBERTA
from edgellm_converters.architectures.gemma_embedding import GEMMA_EMBEDDING
from edgellm_converters.architectures.modernbert import MODERN_BERT
from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.errors import (
    ConfigError,
    ConvertersError,
    CorruptFileError,
    IncompletePlanError,
    OutputError,
    UnsupportedError,
)
from edgellm_converters.pipeline import convert
from llama_model import opened
from there_and_back import there_and_back

GOLDEN = Path(__file__).parents[1] / "golden" / "transformers"
PROMPT = "the cat sat on <s>the  mat"
# llama.cpp takes GELU from a table of float16 values, and its approximation by tanh.
LARGEST_DIFFERENCE = 5e-3
SPECS = {spec.name: spec for spec in tiny_encoders.ENCODERS}


@pytest.fixture(scope="module", params=tiny.ENCODERS)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path, Path]:
    """A tiny checkpoint, the GGUF made of it, and the folder made of that."""
    name = request.param
    return name, *there_and_back(tmp_path_factory.mktemp(name), tiny.ENCODERS[name])


def cosine(first: Any, second: Any) -> float:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_vectors_are_those_of_transformers(converted: tuple[str, Path, Path, Path]) -> None:
    name, _, gguf, _ = converted
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    with opened(gguf) as model:
        assert model.tokenize(PROMPT) == golden["prompt"]
        rows = model.embeddings(golden["prompt"])
        (text,) = model.embeddings(golden["prompt"], pooled=True)
    for part, found in (("first", rows[0]), ("last", rows[-1]), ("pooled", text)):
        assert len(found) == len(golden[part])
        assert cosine(found, golden[part]) > 1 - 1e-4, part
        assert found == pytest.approx(golden[part], abs=LARGEST_DIFFERENCE), part
    # Else the comparison would say little.
    assert cosine(golden["first"], golden["last"]) < 0.99


def test_tensors_come_back_bit_for_bit(converted: tuple[str, Path, Path, Path]) -> None:
    name, folder, _, back = converted
    spec = SPECS[name]
    before = {spec.now(old): array for old, array in tiny.read_safetensors(folder).items()}
    after = tiny.read_safetensors(back)
    assert before.keys() - set(spec.left_out) == after.keys()
    for tensor, array in after.items():
        blank = spec.blank.get(tensor, 0)
        wanted = np.concatenate([np.zeros_like(before[tensor][:blank]), before[tensor][blank:]])
        assert np.array_equal(array.view(np.uint32), wanted.view(np.uint32)), tensor


def test_configuration_and_pooling_come_back(converted: tuple[str, Path, Path, Path]) -> None:
    _, folder, _, back = converted
    nested = sorted(file.relative_to(folder) for file in folder.glob("?_*/config.json"))
    assert nested == sorted(file.relative_to(back) for file in back.glob("?_*/config.json"))
    for name in ("config.json", "modules.json", *map(str, nested)):
        before, after = (json.loads((each / name).read_text()) for each in (folder, back))
        if name == "modules.json":
            assert [(step["path"], step["type"]) for step in before] == [
                (step["path"], step["type"]) for step in after
            ]
            continue
        before = {key: value for key, value in before.items() if value is not False}
        changed = {"architectures", "bos_token_id", "eos_token_id", "pad_token_id"}
        for key in before.keys() - changed:
            assert after[key] == before[key], key


def test_a_second_way_there_gives_the_same_file_again(
    converted: tuple[str, Path, Path, Path], tmp_path: Path
) -> None:
    _, _, gguf, back = converted
    convert(back, tmp_path / "again.gguf", dtype="f32")
    with GGUFCheckpoint(gguf) as first, GGUFCheckpoint(tmp_path / "again.gguf") as second:
        assert first.names == second.names
        for tensor in first.names:
            assert np.array_equal(first.raw(tensor), second.raw(tensor)), tensor
        named = {"general.name", "edgellm.source", "edgellm.tokenizer.layout"}
        assert first.header.metadata.keys() == second.header.metadata.keys()
        for key in first.header.metadata.keys() - named:
            assert first.header.metadata[key] == second.header.metadata[key], key


def test_the_file_passes_the_safety_check_and_can_be_shown(
    converted: tuple[str, Path, Path, Path],
) -> None:
    name, _, gguf, _ = converted
    check_model_file(gguf)
    details = show(str(gguf))
    assert details.architecture == SPECS[name].gguf
    assert details.memory is not None
    assert details.memory.kv_cache == 0  # it keeps no keys and values


def test_it_writes_no_text_and_says_so(converted: tuple[str, Path, Path, Path]) -> None:
    _, _, gguf, _ = converted
    with pytest.raises(BackendError, match="is an encoder, which writes no text"):
        load(gguf)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_smaller_types_still_run(
    converted: tuple[str, Path, Path, Path], dtype: str, tmp_path: Path
) -> None:
    name, folder, _, _ = converted
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    convert(folder, tmp_path / "x.gguf", dtype=dtype)
    check_model_file(tmp_path / "x.gguf")
    with opened(tmp_path / "x.gguf") as model:
        (text,) = model.embeddings(golden["prompt"], pooled=True)
    assert cosine(text, golden["pooled"]) > 0.998


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("modern-bert", {"local_attention": 128}),
        ("modern-bert", {"local_attention": 6}),
        ("modern-bert", {"global_attn_every_n_layers": 2}),
        ("modern-bert", {"local_rope_theta": 10000.0}),
        ("modern-bert", {"global_rope_theta": 10000.0}),
        ("modern-bert", {"hidden_activation": "silu"}),
        ("gemma-embedding", {"sliding_window": 128}),
        ("gemma-embedding", {"sliding_window": 6}),
        ("gemma-embedding", {"sliding_window_pattern": 3}),
        ("gemma-embedding", {"rope_local_base_freq": 10000.0}),
        ("gemma-embedding", {"rope_theta": 10000.0}),
        ("gemma-embedding-linear-rope", {"rope_scaling": None}),
    ],
)
def test_each_setting_shows_in_the_vectors(
    name: str, changes: dict[str, object], tmp_path: Path
) -> None:
    """Else the comparison with transformers would not see it."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    folder = tiny.ENCODERS[name](tmp_path / "hf")
    write(folder, "config.json", **changes)
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    with opened(tmp_path / "x.gguf") as model:
        (text,) = model.embeddings(golden["prompt"], pooled=True)
    difference = np.abs(np.array(text) - np.array(golden["pooled"])).max()
    assert difference > 4 * LARGEST_DIFFERENCE


def test_a_source_in_float16_keeps_what_llama_cpp_adds_in_float32(tmp_path: Path) -> None:
    folder = tiny.family(tmp_path / "hf", SPECS["bert"], dtype="F16")
    convert(folder, tmp_path / "x.gguf")
    with GGUFCheckpoint(tmp_path / "x.gguf") as file:
        kinds = {name: file.info(name).format.name for name in file.names}
    assert kinds["token_types.weight"] == kinds["position_embd.weight"] == "F32"
    assert kinds["blk.0.ffn_up.weight"] == "F16"
    golden = json.loads((GOLDEN / "bert.json").read_text())
    with opened(tmp_path / "x.gguf") as model:
        (text,) = model.embeddings(golden["prompt"], pooled=True)
    assert cosine(text, golden["pooled"]) > 0.999


def test_kinds_of_segments_in_float16_would_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ggml adds them to numbers in float32 and aborts on others."""
    folder = tiny.family(tmp_path / "hf", SPECS["bert"], dtype="F16")
    monkeypatch.setattr(targets, "is_quantizable", lambda tensor, _: tensor.dimensions > 1)
    convert(folder, tmp_path / "x.gguf")
    with pytest.raises(CorruptFileError, match=r"token_types\.weight.*F16, not F32"):
        check_model_file(tmp_path / "x.gguf")


# -- what has no place --------------------------------------------------------------------------


def write(folder: Path, name: str, **changes: object) -> None:
    """Change values of a JSON object, or of the entry of a list that a number names."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "changes", "what"),
    [
        ("bert", {"hidden_act": "relu"}, "hidden_act"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"type_vocab_size": 0}, "type_vocab_size"),
        ("bert", {"num_attention_heads": 3}, "num_attention_heads"),
        ("roberta", {"pad_token_id": 64}, "padding token"),
        ("roberta", {"pad_token_id": -1}, "pad_token_id"),
        ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings"),
        ("xlm-roberta", {"hidden_act": "gelu_new"}, "hidden_act"),
        ("jina-bert-v2", {"position_embedding_type": "absolute"}, "position_embedding_type"),
        ("jina-bert-v2", {"position_embedding_type": None}, "position_embedding_type"),
        ("jina-bert-v2", {"feed_forward_type": "reglu"}, "feed_forward_type"),
        ("jina-bert-v2", {"feed_forward_type": None}, "feed_forward_type"),
        ("jina-bert-v2", {"hidden_act": "relu"}, "hidden_act"),
        ("jina-bert-v2", {"num_attention_heads": 5}, "num_attention_heads"),
        ("nomic-bert", {"moe_every_n_layers": 2}, r"moe_every_n_layers.*nomic-bert-moe"),
        ("nomic-bert", {"activation_function": "gelu"}, "activation_function"),
        ("nomic-bert", {"activation_function": None}, "activation_function"),
        ("nomic-bert", {"causal": True}, "causal"),
        ("nomic-bert", {"prenorm": True}, "prenorm"),
        ("nomic-bert", {"parallel_block": True}, "parallel_block"),
        ("nomic-bert", {"use_rms_norm": True}, "use_rms_norm"),
        ("nomic-bert", {"qkv_proj_bias": True}, "qkv_proj_bias"),
        ("nomic-bert", {"qkv_proj_bias": None}, "qkv_proj_bias"),
        ("nomic-bert", {"mlp_fc1_bias": True}, "mlp_fc1_bias"),
        ("nomic-bert", {"mlp_fc2_bias": True}, "mlp_fc2_bias"),
        ("nomic-bert", {"rotary_emb_fraction": 0.5}, "rotary_emb_fraction"),
        ("nomic-bert", {"rotary_emb_interleaved": True}, "rotary_emb_interleaved"),
        ("nomic-bert", {"rotary_emb_scale_base": 512}, "rotary_emb_scale_base"),
        ("nomic-bert", {"max_trained_positions": 0}, "max_trained_positions"),
        ("nomic-bert", {"type_vocab_size": 0}, "type_vocab_size"),
        ("nomic-bert", {"hidden_size": 32}, "hidden_size.*n_embd"),
        ("nomic-bert", {"rope_parameters": {"rope_theta": 10000.0}}, "rotary_emb_base"),
        ("nomic-bert", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ("gemma-embedding", {"use_bidirectional_attention": False}, "use_bidirectional_attention"),
        ("gemma-embedding", {"use_bidirectional_attention": None}, "use_bidirectional_attention"),
        ("gemma-embedding", {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar"),
        ("gemma-embedding", {"hidden_activation": "silu"}, "hidden_activation"),
        ("gemma-embedding", {"attention_bias": True}, "attention_bias"),
        ("gemma-embedding", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma-embedding", {"sliding_window": None}, "sliding_window"),
        ("gemma-embedding", {"layer_types": ["full_attention", *["sliding_attention"] * 2]}, "one"),
        ("gemma-embedding", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("modern-bert", {"hidden_activation": "relu"}, "hidden_activation"),
        ("modern-bert", {"norm_bias": True}, "norm_bias"),
        ("modern-bert", {"mlp_bias": True}, "mlp_bias"),
        ("modern-bert", {"attention_bias": True}, "attention_bias"),
        ("modern-bert", {"num_attention_heads": 2, "head_dim": 16}, "hidden_size"),
        ("modern-bert", {"local_attention": 1}, "local_attention"),
        ("modern-bert", {"local_attention": -1}, "local_attention"),
        ("modern-bert", {"global_attn_every_n_layers": 1}, "global_attn_every_n_layers"),
        ("modern-bert", {"layer_types": ["sliding_attention"] * 5}, "layer_types"),
        ("modern-bert", {"layer_types": ["full_attention"] * 5}, "layer_types"),
        ("modern-bert", {"layer_types": ["full_attention"] * 4}, "layer_types"),
        ("modern-bert", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        (
            "modern-bert",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope",
        ),
    ],
)
def test_settings_without_a_place_are_refused(
    name: str, changes: dict[str, object], what: str, tmp_path: Path
) -> None:
    folder = tiny.ENCODERS[name](tmp_path / "hf")
    write(folder, "config.json", **changes)
    with pytest.raises((UnsupportedError, ConfigError), match=rf"config\.json.*{what}"):
        convert(folder, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_weightedmean_tokens": True}, "weighted"),
        ({"pooling_mode_cls_token": True}, "cls and mean|mean and cls"),
        ({"pooling_mode_mean_tokens": "yes"}, "pooling_mode_mean_tokens"),
        ({"word_embedding_dimension": 32}, "word_embedding_dimension"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode": "mean+max"}, r"mean\+max"),
    ],
)
def test_a_pooling_that_llama_cpp_has_not_got_is_refused_by_name(
    changes: dict[str, object], what: str, tmp_path: Path
) -> None:
    folder = tiny.ENCODERS["bert"](tmp_path / "hf")
    write(folder, "1_Pooling/config.json", **changes)
    with pytest.raises(ConvertersError, match=rf"1_Pooling/config\.json.*({what})"):
        convert(folder, tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("module", "what"),
    [
        ({"type": "sentence_transformers.models.Dense", "path": "2_Dense"}, "Dense"),
        ({"type": "sentence_transformers.models.Pooling", "path": "../1_Pooling"}, "path"),
        ({"type": "sentence_transformers.models.Pooling", "path": ""}, "path"),
        ({"type": 3, "path": "1_Pooling"}, "type"),
        ("Pooling", "no object"),
    ],
)
def test_steps_that_llama_cpp_has_not_got_are_refused(
    module: object, what: str, tmp_path: Path
) -> None:
    folder = tiny.ENCODERS["bert"](tmp_path / "hf")
    steps = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([steps[0], module]))
    with pytest.raises(ConvertersError, match=rf"modules\.json.*{what}"):
        convert(folder, tmp_path / "x.gguf")


def test_the_newer_word_for_the_pooling_is_read(tmp_path: Path) -> None:
    folder = tiny.ENCODERS["bert"](tmp_path / "hf")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    convert(folder, tmp_path / "x.gguf")
    with GGUFCheckpoint(tmp_path / "x.gguf") as file:
        assert file.header.metadata["bert.pooling_type"] == 3


def test_without_the_files_of_sentence_transformers_nothing_is_guessed(tmp_path: Path) -> None:
    folder = tiny.ENCODERS["bert"](tmp_path / "hf")
    (folder / "modules.json").unlink()
    notes = convert(folder, tmp_path / "x.gguf").notes
    assert any("no pooling_type is written" in note for note in notes)
    with GGUFCheckpoint(tmp_path / "x.gguf") as file:
        assert "bert.pooling_type" not in file.header.metadata
    convert(tmp_path / "x.gguf", tmp_path / "back")
    assert not (tmp_path / "back" / "modules.json").exists()


def test_heads_for_tasks_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder = tiny.ENCODERS["bert"](tmp_path / "hf")
    notes = convert(folder, tmp_path / "x.gguf").notes
    assert any("2 tensors of heads" in note and "pooler.dense" in note for note in notes)


def test_the_head_of_a_masked_model_is_left_out_with_a_note(tmp_path: Path) -> None:
    folder = tiny.ENCODERS["modern-bert-silu"](tmp_path / "hf")
    notes = convert(folder, tmp_path / "x.gguf").notes
    assert any("3 tensors of heads" in note for note in notes)


def test_a_folder_of_another_dtype_keeps_its_pooling(tmp_path: Path) -> None:
    folder = tiny.ENCODERS["bert"](tmp_path / "hf")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    convert(folder, tmp_path / "half", dtype="f16", to="hf")
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        assert (tmp_path / "half" / name).exists(), name


def test_what_happens_to_texts_before_is_noted(tmp_path: Path) -> None:
    folder = tiny.ENCODERS["bert"](tmp_path / "hf")
    settings = {"max_seq_length": 16, "do_lower_case": True}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    prompts = {"prompts": {"query": "q: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    notes = " ".join(convert(folder, tmp_path / "x.gguf").notes)
    assert all(word in notes for word in ("16 tokens", "lower case", "'query'", "Normalize"))


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("bert.pooling_type", 4, "pooling_type is 4"),
        ("bert.attention.causal", True, "attention.causal is True"),
        ("tokenizer.ggml.padding_token_id", 64, "padding token is 64"),
    ],
)
def test_metadata_without_a_place_is_refused(
    key: str, value: object, what: str, tmp_path: Path
) -> None:
    metadata, shapes = stored(tmp_path, "roberta")
    with pytest.raises((UnsupportedError, ConfigError), match=what):
        ROBERTA.from_metadata(Values(tmp_path, metadata | {key: value}).under("bert."), shapes)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("attention.sliding_window", 0, "sliding_window is 0"),
        ("attention.sliding_window", None, "sliding_window is missing"),
        ("attention.sliding_window_pattern", 1, "sliding_window_pattern is 1"),
        ("attention.sliding_window_pattern", [True, False] * 2, "list of sliding windows"),
        ("attention.causal", True, "attention.causal is True"),
        ("hidden_activation", "relu", "hidden_activation is 'relu'"),
        ("rope.scaling.type", "yarn", "yarn"),
        ("attention.scale", 0.5, "attention.scale is 0.5"),
    ],
)
def test_metadata_of_modern_bert_without_a_place_is_refused(
    key: str, value: object, what: str, tmp_path: Path
) -> None:
    metadata, shapes = stored(tmp_path, "modern-bert")
    changed = metadata | {f"modern-bert.{key}": value}
    with pytest.raises((UnsupportedError, ConfigError), match=what):
        MODERN_BERT.from_metadata(Values(tmp_path, changed).under("modern-bert."), shapes)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("attention.sliding_window", None, "sliding_window is missing"),
        ("dense_2_feat_out", 0, "dense_2_feat_in"),
        ("dense_2_feat_in", 32, "dense_2_feat_in"),
        ("dense_3_feat_in", 32, "dense_2_feat_in"),
        ("dense_3_feat_out", None, "dense_2_feat_in"),
        ("dense_3_feat_out", -1, "dense_3_feat_out is -1"),
        ("pooling_type", None, "pooling_type is missing"),
        ("final_logit_softcapping", 30.0, "final_logit_softcapping"),
    ],
)
def test_metadata_of_gemma_embedding_without_a_place_is_refused(
    key: str, value: object, what: str, tmp_path: Path
) -> None:
    metadata, shapes = stored(tmp_path, "gemma-embedding")
    changed = metadata | {f"gemma-embedding.{key}": value}
    with pytest.raises((UnsupportedError, ConfigError), match=what):
        GEMMA_EMBEDDING.from_metadata(Values(tmp_path, changed).under("gemma-embedding."), shapes)


def test_keys_that_other_converters_write_for_modern_bert_are_taken(tmp_path: Path) -> None:
    metadata, shapes = stored(tmp_path, "modern-bert")
    others: dict[str, object] = {
        "modern-bert.attention.layer_norm_rms_epsilon": 1e-5,
        "modern-bert.classifier.pooling_type": 2,
    }
    found, wanted = (
        MODERN_BERT.from_metadata(Values(tmp_path, each).under("modern-bert."), shapes)
        for each in (metadata | others, metadata)
    )
    assert found == wanted


def test_without_a_padding_token_nobody_knows_where_positions_begin(tmp_path: Path) -> None:
    metadata, shapes = stored(tmp_path, "roberta")
    del metadata["tokenizer.ggml.padding_token_id"]
    with pytest.raises(ConfigError, match="padding_token_id is missing"):
        ROBERTA.from_metadata(Values(tmp_path, metadata).under("bert."), shapes)


def stored(folder: Path, name: str) -> tuple[dict[str, object], dict[str, tuple[int, ...]]]:
    """The metadata and the shapes of a converted checkpoint."""
    convert(tiny.ENCODERS[name](folder / "hf"), folder / "x.gguf")
    with GGUFCheckpoint(folder / "x.gguf") as file:
        keys = {key: file.header.metadata[key] for key in file.header.metadata}
        return dict(keys), {tensor.name: tensor.shape for tensor in file.header.tensors}


# -- Nomic-BERT ---------------------------------------------------------------------------------


def test_both_forms_of_a_nomic_configuration_give_the_same_file(tmp_path: Path) -> None:
    """The keys of the published class, and those of transformers."""
    folder = tiny.ENCODERS["nomic-bert"](tmp_path / "hf")
    first = convert(folder, tmp_path / "x.gguf")
    assert any("n_positions is 8192" in note and "2048" in note for note in first.notes)
    usual = {
        "architectures": ["NomicBertModel"],
        "model_type": "nomic_bert",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": json.loads((folder / "config.json").read_text())["vocab_size"],
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(usual))
    second = convert(folder, tmp_path / "y.gguf")
    assert second.sha256 == first.sha256


@pytest.mark.parametrize(
    ("named", "trained", "context"), [(8192, 2048, 2048), (2048, 2048, 2048), (512, 2048, 512)]
)
def test_the_context_of_a_nomic_bert_is_what_it_was_trained_on(
    named: int, trained: int, context: int, tmp_path: Path
) -> None:
    folder = tiny.ENCODERS["nomic-bert"](tmp_path / "hf")
    write(folder, "config.json", n_positions=named, max_trained_positions=trained)
    convert(folder, tmp_path / "x.gguf")
    with GGUFCheckpoint(tmp_path / "x.gguf") as file:
        assert file.header.metadata["nomic-bert.context_length"] == context
    convert(tmp_path / "x.gguf", tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "again.gguf")
    with GGUFCheckpoint(tmp_path / "again.gguf") as file:
        assert file.header.metadata["nomic-bert.context_length"] == context


# -- Jina-BERT v2 -------------------------------------------------------------------------------


def test_the_variant_for_code_is_not_taken_for_the_plain_one(tmp_path: Path) -> None:
    """Its matrix has the values before the gate, under a name of its own."""
    folder = tiny.ENCODERS["jina-bert-v2"](tmp_path / "hf")
    tensors = {
        name.replace("gated_layers", "up_gated_layer").replace("mlp.wo", "mlp.down_layer"): array
        for name, array in tiny.read_safetensors(folder).items()
    }
    tiny.write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(IncompletePlanError, match=r"missing: .*mlp\.gated_layers"):
        convert(folder, tmp_path / "x.gguf")


def test_a_folder_names_the_class_without_which_it_would_be_a_bert(tmp_path: Path) -> None:
    convert(tiny.ENCODERS["jina-bert-v2"](tmp_path / "hf"), tmp_path / "x.gguf")
    convert(tmp_path / "x.gguf", tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["auto_map"]["AutoModel"].endswith("modeling_bert.JinaBertModel")


# -- folders within the folder ------------------------------------------------------------------


def test_only_a_folder_of_ours_is_replaced_nested_files_too(
    converted: tuple[str, Path, Path, Path], tmp_path: Path
) -> None:
    _, _, gguf, _ = converted
    target = tmp_path / "back"
    first = convert(gguf, target)
    with pytest.raises(OutputError, match="exists already"):
        convert(gguf, target)
    assert convert(gguf, target, force=True).sha256 == first.sha256
    for foreign in (target / "1_Pooling" / "notes.txt", target / "3_Other" / "config.json"):
        foreign.parent.mkdir(exist_ok=True)
        foreign.write_text("mine")
        with pytest.raises(OutputError, match="no part of a model"):
            convert(gguf, target, force=True)
        assert foreign.read_text() == "mine"
        foreign.unlink()
    (target / "3_Other").rmdir()
    outside = tmp_path / "outside"
    (target / "1_Pooling").rename(outside)
    (target / "1_Pooling").symlink_to(outside)
    with pytest.raises(OutputError, match="no part of a model"):
        convert(gguf, target, force=True)
    assert (outside / "config.json").exists()


def test_the_digest_is_that_of_all_files(
    converted: tuple[str, Path, Path, Path], tmp_path: Path
) -> None:
    import hashlib
    import subprocess

    _, _, gguf, _ = converted
    result = convert(gguf, tmp_path / "back")
    command = "find * -type f | LC_ALL=C sort | xargs sha256sum"
    listed = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path / "back", capture_output=True, check=True
    )
    assert result.sha256 == hashlib.sha256(listed.stdout).hexdigest()
