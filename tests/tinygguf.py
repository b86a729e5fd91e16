"""A tiny llama model whose greedy text is known: real llama.cpp runs it in milliseconds.

Attention and feed-forward weights are zero, so that the residual stream is the embedding of the
last token alone. Embeddings are one-hot, and row n of the output matrix is large at the tokens that
n follows: each token has one likeliest follower, whatever came before. A text is therefore given as
a chain of tokens, and no token can be in a chain twice.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

UNK, BOS, EOS, START, END = range(5)
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
SPACE = len(SPECIAL) + 256
WIDTH = 320  # embedding width: at least the vocabulary
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# meem, zero-width non-joiner, seen: no byte of theirs occurs twice
PERSIAN = "م\u200cس"


def byte_token(value: int) -> int:
    return len(SPECIAL) + value


def chain_of(text: str | bytes) -> list[int]:
    """Give the byte tokens of a text in which no byte occurs twice."""
    raw = text.encode() if isinstance(text, str) else text
    assert len(set(raw)) == len(raw), "a byte occurs twice"
    return [byte_token(value) for value in raw]


def write_tiny(
    path: Path,
    *,
    answer: str | bytes | None = "Hi " + PERSIAN,
    endless: str = "abcdefg",
    template: str | None = TEMPLATE,
    context: int = 512,
    architecture: str = "llama",
    vocabulary: bool = True,
) -> Path:
    """Write the model.

    After a newline (the end of the chat template's prompt) it writes `answer` and ends; a letter of
    `endless` is followed by the next one, round and round. Without an `answer` it writes `endless`
    for ever.
    """
    tokens = [*SPECIAL, *(f"<0x{value:02X}>" for value in range(256)), "\u2581"]
    types = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 4
    types += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL]
    assert len(tokens) <= WIDTH

    follows = np.zeros((len(tokens), WIDTH), np.float32)  # (next token, token)
    around = chain_of(endless)
    newline = byte_token(0x0A)
    if answer is None:
        steps = [(newline, around[0])]
    else:
        chain = chain_of(answer)
        steps = list(zip([newline, *chain], [*chain, END], strict=True))
    steps += list(zip(around, [*around[1:], *around[:1]], strict=True))
    for token, successor in steps:
        follows[successor, token] = 1.0

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(32)
    writer.add_head_count(5)
    writer.add_head_count_kv(5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // 5)
    if vocabulary:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_token_types(types)
        writer.add_bos_token_id(BOS)
        writer.add_eos_token_id(END)
        writer.add_unk_token_id(UNK)
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(False)
    if template is not None:
        writer.add_chat_template(template)
    embedding = np.zeros((len(tokens), WIDTH), np.float32)
    embedding[np.arange(len(tokens)), np.arange(len(tokens))] = 1.0
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", follows)
    square = np.zeros((WIDTH, WIDTH), np.float32)
    for layer in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", square)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros((32, WIDTH), np.float32))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", np.zeros((WIDTH, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
