"""A model whose rows are multiples of 256, made from SmolLM2 (576 wide) by pruning and distilling.

K-quants need rows of multiples of 256, which no small model at hand has. From SmolLM2-135M:

1. The residual stream goes from 576 to 512 channels. A channel is worth what its removal costs
   every matrix that reads it after the others have been refitted to replace it, w_j^2 / [H^-1]_jj
   with H the mean of x x' over calibration tokens (Hassibi and Stork 1993, "Optimal Brain Surgeon";
   Frantar and Alistarh 2023, "SparseGPT"); each matrix counts by the part of its output's energy.
   Readers are refitted by least squares: W[:, K] + W[:, D] H_DK H_KK^-1. The tied embedding is cut.
2. Of the 9 query heads of a layer the one goes whose removal costs attn_output least after the same
   refit; key-value heads, each shared by three, are copied for each query head. What is left has 8
   heads of each kind, as Llama 2 7B has 32: every matrix is 512 or 1536 wide.
3. The whole is trained for some steps to give the probabilities of the model it came from
   (Hinton et al. 2015) on text that is neither calibration nor test text of `quality.py`.

No rotation is involved, so channels keep their unequal sizes, as in models that were trained so.
The weights are pruned from those of `smollm2` in `references.py`, which have no grid left to be
found again; what step 3 imitates is SmolLM2 as it is stored.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common import ROOT

__all__ = ["make_wide"]

TEXTS = ROOT.parent / "shared" / "data" / "text" / "calibration"
WIDTH, HEADS, HEAD_SIZE = 512, 8, 64
SEQUENCE = 512
FIT_SEQUENCES = 48  # 25k tokens for the least squares
STEPS = 180  # of two sequences; about 12 minutes on two shared cores
RATE = 4e-4
SEED = 2026


def sequences(folder: Path) -> list[list[int]]:
    """Give shuffled sequences of tokens of the texts' last two thirds.

    `quality.py` calibrates on text of the first third.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: list[list[int]] = []
    for name in ("c4", "wiki", "code", "technical", "multilingual"):
        text = (TEXTS / f"{name}.utf8").read_text(encoding="utf-8", errors="replace")
        text = text[len(text) // 3 :][:600_000]
        tokens = tokenizer(text)["input_ids"]
        found += [tokens[at : at + SEQUENCE] for at in range(0, len(tokens) - SEQUENCE, SEQUENCE)]
    np.random.default_rng(SEED).shuffle(found)
    return found


def _gather(model: Any, tokens: list[list[int]]) -> dict[str, Any]:
    """Give the mean of x x' of the inputs of every kind of linear layer, float64."""
    import torch

    sums: dict[str, Any] = {}
    watched = [("head", model.lm_head)]
    for at, layer in enumerate(model.model.layers):
        watched.append((f"{at}.attention", layer.self_attn.q_proj))
        watched.append((f"{at}.output", layer.self_attn.o_proj))
        watched.append((f"{at}.mlp", layer.mlp.gate_proj))

    def watch(name: str) -> Any:
        def hook(_module: Any, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            sums[name] = sums.get(name, 0) + (x.T @ x).double()

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in watched]
    with torch.no_grad():
        for each in tokens:
            model(torch.tensor([each]))
    for handle in handles:
        handle.remove()
    count = sum(len(each) for each in tokens)
    return {name: total / count for name, total in sums.items()}


def _inverse(hessian: Any) -> Any:
    """Invert with 1 % of the mean diagonal added, which keeps rare directions in bounds."""
    import torch

    size = len(hessian)
    return torch.linalg.inv(
        hessian + 0.01 * hessian.diagonal().mean() * torch.eye(size, dtype=hessian.dtype)
    )


def _readers(model: Any) -> dict[str, list[Any]]:
    """Give the matrices that read the residual stream, by what they read."""
    found = {"head": [model.lm_head]}
    for at, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        found[f"{at}.attention"] = [attention.q_proj, attention.k_proj, attention.v_proj]
        found[f"{at}.mlp"] = [mlp.gate_proj, mlp.up_proj]
    return found


def _channels(model: Any, hessians: dict[str, Any]) -> list[int]:
    """Choose the channels to keep, the cheapest removed one after the other."""
    import torch

    states = []
    for name, modules in _readers(model).items():
        weight = torch.cat([each.weight.detach() for each in modules]).double()
        gram, inverse = weight.T @ weight, _inverse(hessians[name])
        states.append([gram, inverse, float((gram * hessians[name]).sum())])
    left = list(range(len(states[0][0])))
    while len(left) > WIDTH:
        price = sum(gram.diagonal() / inverse.diagonal() / all_ for gram, inverse, all_ in states)
        at = int(torch.argmin(price))
        kept = [each for each in range(len(left)) if each != at]
        for state in states:
            gram, inverse, _ = state
            # W loses column `at` and the others take over: W -= W[:, at] inverse[at] / pivot.
            move = inverse[at] / inverse[at, at]  # (n,)
            column = gram[:, at]
            gram = gram - torch.outer(column, move) - torch.outer(move, column)
            gram += gram.new_tensor(float(state[0][at, at])) * torch.outer(move, move)
            inverse = inverse - torch.outer(inverse[at], move)
            state[0], state[1] = gram[kept][:, kept], inverse[kept][:, kept]
        del left[at]
    return left


def _refit(weight: Any, hessian: Any, kept: list[int]) -> Any:
    """Give the matrix over the kept columns alone that comes nearest: W H[:, K] H_KK^-1."""
    wide = weight.detach().double() @ hessian[:, kept]  # (rows, kept)
    return (wide @ _inverse(hessian[kept][:, kept])).float()


def _heads(weight: Any, hessian: Any) -> tuple[list[int], Any]:
    """Drop the head that attn_output misses least; give the others and the new matrix."""
    best: tuple[float, list[int], Any] | None = None
    count = weight.shape[1] // HEAD_SIZE
    for gone in range(count):
        heads = [each for each in range(count) if each != gone]
        kept = [each * HEAD_SIZE + at for each in heads for at in range(HEAD_SIZE)]
        new = _refit(weight, hessian, kept)
        change = weight.detach().double()
        change[:, kept] -= new.double()
        loss = float(((change @ hessian) * change).sum())
        if best is None or loss < best[0]:
            best = loss, heads, new
    assert best is not None
    return best[1], best[2]


def _prune(teacher: Any, tokens: list[list[int]]) -> Any:
    """Give the narrower model, fitted layer by layer and not yet trained."""
    import torch
    from transformers import LlamaForCausalLM

    hessians = _gather(teacher, tokens[:FIT_SEQUENCES])
    kept = _channels(teacher, hessians)
    config = type(teacher.config)(**teacher.config.to_dict())
    config.hidden_size, config.head_dim = WIDTH, HEAD_SIZE
    config.num_attention_heads = config.num_key_value_heads = HEADS
    student = LlamaForCausalLM(config).float()
    shared = teacher.config.num_attention_heads // teacher.config.num_key_value_heads
    # RMSNorm divides by the root of the mean over fewer channels, whose sum is nearly the same.
    norm_scale = (teacher.config.hidden_size / WIDTH) ** 0.5
    with torch.no_grad():
        student.model.embed_tokens.weight.copy_(teacher.model.embed_tokens.weight[:, kept])
        student.model.norm.weight.copy_(teacher.model.norm.weight[kept] * norm_scale)
        layers = zip(teacher.model.layers, student.model.layers, strict=True)
        for at, (old, new) in enumerate(layers):
            hessian = hessians[f"{at}.attention"]
            output = old.self_attn.o_proj.weight
            heads, fitted = _heads(output, hessians[f"{at}.output"])
            for name in ("q_proj", "k_proj", "v_proj"):
                source = getattr(old.self_attn, name).weight.unflatten(0, (-1, HEAD_SIZE))
                rows = heads if name == "q_proj" else [each // shared for each in heads]
                weight = _refit(source[rows].flatten(0, 1), hessian, kept)
                getattr(new.self_attn, name).weight.copy_(weight)
            new.self_attn.o_proj.weight.copy_(fitted[kept])
            for name in ("gate_proj", "up_proj"):
                weight = _refit(getattr(old.mlp, name).weight, hessians[f"{at}.mlp"], kept)
                getattr(new.mlp, name).weight.copy_(weight)
            new.mlp.down_proj.weight.copy_(old.mlp.down_proj.weight[kept])
            for name in ("input_layernorm", "post_attention_layernorm"):
                getattr(new, name).weight.copy_(getattr(old, name).weight[kept] * norm_scale)
    return student


def _batches(tokens: list[list[int]], size: int) -> Iterator[Any]:
    import torch

    while True:
        for at in range(0, len(tokens) - size + 1, size):
            yield torch.tensor(tokens[at : at + size])


def _divergence(teacher: Any, student: Any, batch: Any) -> Any:
    """Mean KL divergence of the student's next-token probabilities from the teacher's."""
    import torch

    with torch.no_grad():
        wanted = torch.log_softmax(teacher(batch).logits.flatten(0, 1).float(), -1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = student(batch).logits.flatten(0, 1)
    given = torch.log_softmax(logits.float(), -1)
    return torch.nn.functional.kl_div(given, wanted, log_target=True, reduction="batchmean")


def _distil(teacher: Any, student: Any, tokens: list[list[int]], steps: int) -> None:
    """Train for so many steps; the learning rate falls to zero with them."""
    import torch

    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0)
    for step, batch in zip(range(steps), _batches(tokens, 2), strict=False):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20) * (1 - done)
        loss = _divergence(teacher, student, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 10 == 0:
            print(f"step {step} of {steps}, KL {loss.item():.3f}", flush=True)


def make_wide(start: Path, source: Path, target: Path, steps: int = STEPS) -> None:
    """Prune the Llama folder `start`, of 9 heads of 64 and 576 wide, to be as `source`.

    `start` is `source` with noise in the place of its levels, and the training imitates `source`
    for so many steps. Writes a folder of float32.
    """
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(SEED)
    tokens = sequences(source)
    student = _prune(LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).eval(), tokens)
    teacher = LlamaForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()
    _distil(teacher, student, tokens[FIT_SEQUENCES:], steps)
    unfinished = target.with_name(target.name + ".tmp")
    student.save_pretrained(unfinished)
    # What this version of transformers renamed in the configuration is of no use to others.
    config = json.loads((source / "config.json").read_text())
    config.update(hidden_size=WIDTH, head_dim=HEAD_SIZE, torch_dtype="float32")
    config.update(num_attention_heads=HEADS, num_key_value_heads=HEADS)
    (unfinished / "config.json").write_text(json.dumps(config, indent=2))
    for each in source.glob("*token*"):
        shutil.copy(each, unfinished / each.name)
    unfinished.rename(target)
