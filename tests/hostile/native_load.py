"""Loads GGUF files with llama.cpp as a program of its own, one forked child for each file.

Prints a line for each: "loaded", "refused" or "crashed <signal or status>". Run by the tests with
the file names as arguments, of adapters behind `--base MODEL`; a crash here must not take the test
run with it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

import llama_cpp as lib

TEXT = "سلام a b ab\n \x01 🙂 <s>x</s>".encode()


@lib.llama_log_callback
def quiet(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    pass


def use(path: str, adapter: str | None = None) -> bool:
    """Load a model (and an adapter), tokenize, decode twice and spell every token.

    False if llama.cpp refuses.
    """
    params = lib.llama_model_default_params()
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        return False
    loaded = None
    if adapter is not None:
        loaded = lib.llama_adapter_lora_init(model, adapter.encode())
        if not loaded:
            return False
    vocab = lib.llama_model_get_vocab(model)
    context_params = lib.llama_context_default_params()
    context_params.n_ctx = 64
    context_params.n_threads = context_params.n_threads_batch = 1
    context = lib.llama_init_from_model(model, context_params)
    if not context:
        return False
    if loaded:
        handles, scales = (lib.llama_adapter_lora_p_ctypes * 1)(loaded), (ctypes.c_float * 1)(1)
        lib.llama_set_adapters_lora(context, handles, 1, scales)
    tokens = (lib.llama_token * 256)()
    count = lib.llama_tokenize(vocab, TEXT, len(TEXT), tokens, 256, True, True)
    assert count >= 0
    for size in (min(count, 40), 1):
        batch = lib.llama_batch_get_one(tokens, size)
        lib.llama_decode(context, batch)
    lib.llama_synchronize(context)
    piece = ctypes.create_string_buffer(256)
    for token in range(lib.llama_vocab_n_tokens(vocab)):
        lib.llama_token_to_piece(vocab, token, piece, 256, 0, True)
        lib.llama_vocab_is_eog(vocab, token)
    return True


def main() -> None:
    lib.llama_log_set(quiet, ctypes.c_void_p(0))
    lib.llama_backend_init()
    paths, base = sys.argv[1:], None
    if paths[:1] == ["--base"]:
        base, paths = paths[1], paths[2:]
    for path in paths:
        child = os.fork()
        if child == 0:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            os._exit(0 if (use(base, path) if base else use(path)) else 3)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print({0: "loaded", 3: "refused"}.get(code, f"crashed {code}"), flush=True)


if __name__ == "__main__":
    main()
