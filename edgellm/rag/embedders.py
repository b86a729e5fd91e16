"""Embedding models as data: where they come from, and what stands before questions and passages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["RECOMMENDED", "Prompts", "hub_reference", "prompts_of"]


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a model was trained to read before a question and before a passage."""

    query: str = ""
    passage: str = ""


_E5 = Prompts("query: ", "passage: ")
_GEMMA = Prompts("task: search result | query: ", "title: none | text: ")
_BGE = Prompts("Represent this sentence for searching relevant passages: ")
_QWEN = Prompts(
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)

# What the name of a model holds, letters and digits alone, to its prompts; as the models' own
# pages give them. The first row that matches decides.
_PROMPTS: tuple[tuple[str, Prompts], ...] = (
    ("e5mistral", _QWEN),
    ("multilinguale5largeinstruct", Prompts(_QWEN.query.replace("Query:", "Query: "))),
    ("multilinguale5", _E5),
    ("e5small", _E5),
    ("e5base", _E5),
    ("e5large", _E5),
    ("embeddinggemma", _GEMMA),
    ("bgem3", Prompts()),
    ("bgesmallen", _BGE),
    ("bgebaseen", _BGE),
    ("bgelargeen", _BGE),
    ("mxbaiembedlarge", _BGE),
    ("snowflakearcticembedlv2", Prompts("query: ")),
    ("snowflakearcticembedmv2", Prompts("query: ")),
    ("snowflakearcticembed", _BGE),
    ("nomicembed", Prompts("search_query: ", "search_document: ")),
    ("qwen3embedding", _QWEN),
)

RECOMMENDED: Mapping[str, str] = {
    "multilingual-e5-small": "intfloat/multilingual-e5-small",
    "embeddinggemma-300m": "ggml-org/embeddinggemma-300M-GGUF",
    "bge-m3": "gpustack/bge-m3-GGUF",
}
"""Embedders of many languages, Persian among them, by the names that `pull` takes."""


def hub_reference(name: str) -> str:
    """Give the address of a recommended embedder; any other name as it is."""
    return RECOMMENDED.get(name.casefold(), name)


def prompts_of(*names: str) -> Prompts:
    """Find a model's prompts by what it is called; none where nothing is known."""
    plain = ["".join(filter(str.isalnum, name.casefold())) for name in names]
    for part, prompts in _PROMPTS:
        if any(part in name for name in plain):
            return prompts
    return Prompts()
