"""The peer of `edgellm run`: llama-cpp-python's low-level functions in a plain greedy loop.

Writes the text to stdout as it comes, and its figures as one JSON line to stderr.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time

import llama_cpp as lib


@lib.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def quiet(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Swallow llama.cpp's log."""


def main() -> None:
    """Answer one prompt greedily."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    lib.llama_log_set(quiet, ctypes.c_void_p(0))
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(args.model.encode(), lib.llama_model_default_params())
    vocab = lib.llama_model_get_vocab(model)
    params = lib.llama_context_default_params()
    params.n_ctx = args.ctx
    params.n_threads = params.n_threads_batch = args.threads
    context = lib.llama_init_from_model(model, params)
    sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    lib.llama_sampler_chain_add(sampler, lib.llama_sampler_init_greedy())

    text = args.prompt.encode()
    room = len(text) + 8
    tokens = (lib.llama_token * room)()
    count = lib.llama_tokenize(vocab, text, len(text), tokens, room, True, True)

    started = time.perf_counter()
    for first in range(0, count, params.n_batch):
        size = min(params.n_batch, count - first)
        part = (lib.llama_token * size)(*tokens[first : first + size])
        if lib.llama_decode(context, lib.llama_batch_get_one(part, size)) != 0:
            raise SystemExit("decode failed")
    lib.llama_synchronize(context)
    prompt_done = time.perf_counter()

    piece = ctypes.create_string_buffer(256)
    one = (lib.llama_token * 1)()
    produced = 0
    first_token = 0.0
    for _ in range(args.n):
        one[0] = lib.llama_sampler_sample(sampler, context, -1)
        if produced == 0:
            first_token = time.perf_counter()
        if lib.llama_vocab_is_eog(vocab, one[0]):
            break
        produced += 1
        size = lib.llama_token_to_piece(vocab, one[0], piece, 256, 0, False)
        sys.stdout.buffer.write(piece.raw[:size])
        sys.stdout.buffer.flush()
        if produced < args.n and lib.llama_decode(context, lib.llama_batch_get_one(one, 1)) != 0:
            raise SystemExit("decode failed")
    ended = time.perf_counter()
    figures = {
        "prompt_tokens": count,
        "completion_tokens": produced,
        "prompt_tokens_per_s": count / (prompt_done - started),
        "completion_tokens_per_s": (produced - 1) / (ended - first_token),
    }
    print(json.dumps(figures), file=sys.stderr)


if __name__ == "__main__":
    main()
