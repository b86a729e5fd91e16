"""The files of sentence-transformers: how the vectors of tokens become one vector of a text.

modules.json lists the steps after the model; `1_Pooling/config.json` says how vectors are pooled.
GGUF has a key for pooling and none for the length of the result, which programs on llama.cpp choose
themselves; it is kept under a key of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgellm_converters.architectures.base import BOOL, U32, Decoder, Keys
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.jsonfile import read_list, read_object

__all__ = [
    "DENSE_KEYS",
    "POOLINGS",
    "POOLING_KEY",
    "dense_keys",
    "module_files",
    "normalized_keys",
    "pooling_keys",
    "read_modules",
    "read_stored_dense",
    "read_stored_modules",
]

POOLING_KEY = "pooling_type"
DENSE_KEYS = ("dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out")
"""Sizes of two dense layers after pooling: of input and output."""
NORMALIZED_KEY = "edgellm.normalize_embeddings"
POOLINGS: Mapping[str, int] = {"mean": 1, "cls": 2, "lasttoken": 3}
"""Names of sentence-transformers -> llama_pooling_type."""
FLAGS: Mapping[str, str] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}
PACKAGE = "sentence_transformers.models."


def read_modules(
    folder: Path, hidden: int, context: int, notes: list[str], *, dense: bool = False
) -> dict[str, Any]:
    """Read pooling, dense layers and normalization of a Hugging Face folder.

    Args:
        folder: the folder of config.json.
        hidden: the size of a token's vector.
        context: the longest text in tokens.
        notes: takes sentences on what is not known or has no key.
        dense: whether llama.cpp has the two dense layers for the architecture.

    Raises:
        ConfigError: a file is not of its form.
        UnsupportedError: a step that llama.cpp has not got.
    """
    path = folder / "modules.json"
    if not path.exists():
        notes.append(
            "there is no modules.json of sentence-transformers, so that nothing says how the "
            "vectors of tokens become one: no pooling_type is written"
        )
        return {}
    found: dict[str, Any] = {}
    layers: list[tuple[int, int]] = []
    for number, module in enumerate(read_list(path)):
        if not isinstance(module, dict):
            raise ConfigError(f"{path}: entry {number} is no object")
        values = Values(path, module)
        kind = values.text("type").rpartition(".")[2]
        if kind == "Pooling":
            found["pooling"] = _pooling(folder / _name(values) / "config.json", hidden, notes)
        elif kind == "Normalize":
            found["normalized"] = True
            notes.append(
                "the vector of a text is to be divided by its length (Normalize); GGUF has no key "
                "that says so, and most programs do it unasked"
            )
        elif kind == "Dense" and dense and found.keys() == {"pooling"}:
            name = _name(values)
            if name != f"{2 + len(layers)}_Dense":
                raise values.wrong("path", f"'{2 + len(layers)}_Dense'")
            layers.append(_dense(folder / name / "config.json"))
        elif kind != "Transformer" or number:
            raise UnsupportedError(
                f"{path}: step {number} is a {kind!r:.80}, which llama.cpp has not got for this "
                "architecture"
            )
    if layers:
        found["dense"] = layers[0][1]
        if layers != [(hidden, found["dense"]), (found["dense"], hidden)]:
            raise UnsupportedError(
                f"{path}: the dense layers lead from and to {layers}; llama.cpp has two, from "
                f"{hidden} values to others and back"
            )
    _note_settings(folder, context, notes)
    return found


def _name(module: Values) -> str:
    """Give the folder of a step, which must lie in the model's own."""
    name = module.text("path")
    if Path(name).name != name or name in ("", ".."):
        raise module.wrong("path", "the name of a folder beside it")
    return name


def _pooling(path: Path, hidden: int, notes: list[str]) -> str:
    config = Values(path, read_object(path))
    size = config.integer("word_embedding_dimension", hidden)
    if size != hidden:
        raise ConfigError(f"{path}: word_embedding_dimension is {size}, but the model has {hidden}")
    flags = [key for key in config if key.startswith("pooling_mode_") and config.flag(key)]
    # Newer files name the one way, or several with plus signs between them.
    modes = [FLAGS.get(key, key) for key in flags] or [config.text("pooling_mode", "mean")]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UnsupportedError(
            f"{path}: the pooling is {' and '.join(modes):.200}; llama.cpp has one of "
            f"{', '.join(POOLINGS)}"
        )
    if config.raw("include_prompt") is False:
        notes.append(
            "include_prompt is false: sentence-transformers leaves the tokens of a prompt out of "
            "the mean, llama.cpp does not"
        )
    return modes[0]


def _dense(path: Path) -> tuple[int, int]:
    """Read the sizes of input and output of a layer that is a matrix alone."""
    config = Values(path, read_object(path))
    # What sentence-transformers takes where the file says nothing has both.
    activation = config.text("activation_function", "torch.nn.modules.activation.Tanh")
    if activation.rpartition(".")[2] != "Identity":
        raise UnsupportedError(
            f"{path}: activation_function is {activation!r:.80}; llama.cpp has dense layers "
            "without one (Identity)"
        )
    if config.flag("bias", True):
        raise UnsupportedError(f"{path}: bias is true; llama.cpp has dense layers without one")
    return config.integer("in_features"), config.integer("out_features")


def _note_settings(folder: Path, context: int, notes: list[str]) -> None:
    """Note what happens to a text before the model sees it."""
    file = folder / "sentence_bert_config.json"
    if file.exists():
        settings = Values(file, read_object(file))
        longest = settings.integer("max_seq_length", context)
        if longest < context:
            notes.append(
                f"sentence-transformers cuts texts at {longest} tokens (max_seq_length), for which "
                f"GGUF has no key; llama.cpp takes up to {context}"
            )
        if settings.flag("do_lower_case", False):
            notes.append("sentence-transformers puts texts in lower case first (do_lower_case)")
    file = folder / "config_sentence_transformers.json"
    if file.exists():
        name = Values(file, read_object(file)).raw("default_prompt_name")
        if name is not None:
            notes.append(
                f"sentence-transformers sets the prompt {name!r:.80} before texts "
                "(default_prompt_name); GGUF has no key for it"
            )


def read_stored_modules(metadata: Values) -> dict[str, Any]:
    """Read the same from GGUF metadata.

    Raises:
        UnsupportedError: a pooling that sentence-transformers has not got.
    """
    number = metadata.integer(POOLING_KEY, 0, least=0)
    names = {number: name for name, number in POOLINGS.items()} | {0: ""}
    if number not in names:
        raise UnsupportedError(
            f"{metadata.path}: {metadata.prefix}{POOLING_KEY} is {number}, which "
            "sentence-transformers has no pooling for"
        )
    return {
        "pooling": names[number],
        "normalized": metadata.whole().flag(NORMALIZED_KEY, False),
    }


def read_stored_dense(metadata: Values, hidden: int) -> int:
    """Read the inner size of the dense layers, 0 without them.

    Raises:
        ConfigError: they do not fit to each other or to the model, or nothing is pooled.
    """
    sizes = [metadata.integer(key, 0, least=0) for key in DENSE_KEYS]
    if not any(sizes):
        return 0
    inner = sizes[1]
    if not inner or sizes != [hidden, inner, inner, hidden]:
        raise ConfigError(
            f"{metadata.path}: {', '.join(DENSE_KEYS)} are {sizes}; two layers from {hidden} "
            "values to others and back are needed"
        )
    metadata.integer(POOLING_KEY)
    return inner


def dense_keys(decoder: Decoder) -> Keys:
    """Give the keys of the dense layers, without the architecture's prefix."""
    if not decoder.dense:
        return {}
    sizes = (decoder.hidden, decoder.dense, decoder.dense, decoder.hidden)
    return {key: (U32, size) for key, size in zip(DENSE_KEYS, sizes, strict=True)}


def pooling_keys(decoder: Decoder) -> Keys:
    """Give the key of the pooling, without the architecture's prefix."""
    return {POOLING_KEY: (U32, POOLINGS[decoder.pooling])} if decoder.pooling else {}


def normalized_keys(decoder: Decoder) -> Keys:
    """Give our own key that the vector of a text is to have the length 1."""
    return {NORMALIZED_KEY: (BOOL, True)} if decoder.normalized else {}


def module_files(decoder: Decoder) -> dict[str, object]:
    """Give the files of sentence-transformers by name; none where the pooling is not known."""
    if not decoder.pooling:
        return {}
    steps = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if decoder.dense:
        steps += [("2_Dense", "Dense"), ("3_Dense", "Dense")]
    if decoder.normalized:
        steps.append((f"{len(steps)}_Normalize", "Normalize"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": PACKAGE + kind}
        for number, (path, kind) in enumerate(steps)
    ]
    flags = {key: name == decoder.pooling for key, name in FLAGS.items()}
    files: dict[str, object] = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": decoder.hidden, **flags},
    }
    if decoder.dense:
        for name, before, after in (
            ("2_Dense", decoder.hidden, decoder.dense),
            ("3_Dense", decoder.dense, decoder.hidden),
        ):
            files[f"{name}/config.json"] = {
                "in_features": before,
                "out_features": after,
                "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
            }
    return files
