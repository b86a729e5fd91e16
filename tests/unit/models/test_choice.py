"""Which files of a repository are meant: names as published repositories have them."""

from __future__ import annotations

import pytest

from edgellm.errors import FetchError, NotFoundError, UsageError
from edgellm.models.choice import ORDER, candidates, choose
from edgellm.models.hub import RemoteFile, Repository
from edgellm.models.reference import HubReference, parse_hub_reference


def repository(*names: str, tags: tuple[str, ...] = ()) -> Repository:
    files = tuple(RemoteFile(name, 10, f"{at:064x}", None) for at, name in enumerate(names))
    return Repository("user/repo", "0" * 40, None, False, frozenset(tags), files)


def chosen(wanted: str | None, *names: str) -> tuple[str, list[str]]:
    found = choose(repository(*names), wanted)
    return found.label, [file.name for file in found.files]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Qwen3-0.6B-Q8_0.gguf", "Q8_0"),
        ("smollm2-135m-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("Llama-3.2-1B-Instruct.IQ4_XS.gguf", "IQ4_XS"),
        ("gemma-3-270m-it-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("gemma-3-1b-it-qat-q4_0.gguf", "Q4_0"),
        ("model-F16.gguf", "F16"),
        ("model.bf16.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Phi-3-mini-4k-instruct-fp16.gguf", "FP16"),
        ("Qwen3-4B-Q4_K_M-imat-v2.gguf", "Q4_K_M"),
        ("x-Q4_0_4_8.gguf", "Q4_0_4_8"),
        ("Q2_K/x.gguf", "Q2_K"),
        ("ggml-model.gguf", "ggml-model"),
        ("مدل.gguf", "مدل"),
    ],
)
def test_the_type_in_a_name(name: str, label: str) -> None:
    (found,) = candidates(repository(name))
    assert found.label == label


def test_without_a_type_the_usual_one_is_taken() -> None:
    names = [f"m-{kind}.gguf" for kind in ("Q2_K", "Q8_0", "Q6_K", "Q4_K_M", "Q4_K_S", "F16")]
    assert chosen(None, *names) == ("Q4_K_M", ["m-Q4_K_M.gguf"])
    assert chosen(None, *names[:3]) == ("Q6_K", ["m-Q6_K.gguf"])
    assert chosen(None, "m-IQ1_S.gguf") == ("IQ1_S", ["m-IQ1_S.gguf"])
    assert ORDER[0] == "Q4_K_M"


def test_a_type_in_any_case_or_a_name() -> None:
    names = ("m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf", "m-Q8_0.gguf", "sub/m-F16.gguf")
    for wanted in ("q8_0", "Q8_0", "m-q8_0", "m-Q8_0.gguf"):
        assert chosen(wanted, *names)[0] == "Q8_0"
    assert chosen("q4_k_xl", *names)[0] == "UD-Q4_K_XL"
    assert chosen("sub/m-F16.gguf", *names)[0] == "F16"


def test_what_is_not_there_lists_what_is() -> None:
    with pytest.raises(NotFoundError) as caught:
        chosen("latest", "m-Q4_K_M.gguf", "m-Q8_0.gguf")
    assert caught.value.hint == "it has: Q4_K_M (0 MB), Q8_0 (0 MB)"


def test_two_files_of_one_type_are_told_apart_by_name() -> None:
    names = ("m-v1-Q4_K_M.gguf", "m-v2-Q4_K_M.gguf")
    for wanted in (None, "Q4_K_M"):
        with pytest.raises(UsageError) as caught:
            chosen(wanted, *names)
        assert caught.value.hint == "behind a colon, one of: m-v1-Q4_K_M, m-v2-Q4_K_M"
    assert chosen("m-v2-q4_k_m", *names) == ("m-v2-Q4_K_M", ["m-v2-Q4_K_M.gguf"])
    with pytest.raises(UsageError, match="say which one"):
        chosen(None, "a.gguf", "b.gguf")


def test_parts_belong_together() -> None:
    parts = [f"m-q4_k_m-0000{n}-of-00003.gguf" for n in (3, 1, 2)]
    assert chosen(None, *parts, "m-q8_0.gguf") == ("Q4_K_M", sorted(parts))
    assert chosen("m-q4_k_m", *parts)[0] == "Q4_K_M"
    with pytest.raises(FetchError, match="has 2 of the 3 parts"):
        chosen(None, *parts[:2])


def test_projectors_and_statistics_are_no_models() -> None:
    names = ("mmproj-model-f16.gguf", "m.imatrix.gguf", "m-Q4_K_M.gguf")
    assert [each.label for each in candidates(repository(*names))] == ["Q4_K_M"]


def test_a_folder_by_allowed_names() -> None:
    names = (
        "config.json", "tokenizer.json", "tokenizer_config.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "pytorch_model.bin",
        "consolidated.safetensors", "modeling_x.py", "README.md", "onnx/model.safetensors",
        "1_Pooling/config.json", "2_Dense/model.safetensors", "original/params.json",
        "training_args.bin", "tf_model.h5",
    )  # fmt: skip
    label, files = chosen(None, *names)
    assert label == "safetensors"
    assert files == [
        "1_Pooling/config.json", "2_Dense/model.safetensors", "config.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert choose(repository("config.json", "weights.safetensors", tags=("mlx",)), None).label == (
        "MLX"
    )
    with pytest.raises(NotFoundError, match="holds no GGUF file, and no folder"):
        chosen(None, "config.json", "pytorch_model.bin", "model.onnx")


def test_gguf_goes_before_the_folder_and_the_folder_can_be_asked_for() -> None:
    names = ("config.json", "model.safetensors", "m-Q8_0.gguf")
    assert chosen(None, *names)[0] == "Q8_0"
    assert chosen("safetensors", *names)[0] == chosen("mlx", *names)[0] == "safetensors"


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("user/repo", HubReference("user/repo")),
        ("user/repo:Q4_K_M", HubReference("user/repo", "Q4_K_M")),
        ("hf.co/user/repo:Q4_K_M", HubReference("user/repo", "Q4_K_M")),
        ("https://huggingface.co/user/repo", HubReference("user/repo")),
        ("https://huggingface.co/user/repo/", HubReference("user/repo")),
        ("https://HF.co/user/repo/tree/main", HubReference("user/repo", None, "main")),
        (
            "https://huggingface.co/user/repo/blob/main/a/b%20c.gguf",
            HubReference("user/repo", "a/b c.gguf", "main"),
        ),
        (
            "https://huggingface.co/u/r/resolve/refs%2Fpr%2F1/x.gguf?download=true",
            HubReference("u/r", "x.gguf", "refs/pr/1"),
        ),
        ("user/repo:کاربر ۲", HubReference("user/repo", "کاربر ۲")),
        ("user", None),
        ("user/repo/file.gguf", None),
        ("folder/file.gguf", None),
        ("./user/repo", None),
        ("../repo", None),
        ("/user/repo", None),
        ("~/repo", None),
        ("user/repo:", None),
        ("user/repo:a/b", None),
        ("user/repo:a\nb", None),
        ("https://example.org/user/repo", None),
        ("user\n/repo", None),
        ("", None),
    ],
)
def test_references(text: str, reference: HubReference | None) -> None:
    assert parse_hub_reference(text) == reference
