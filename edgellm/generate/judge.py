"""A model's opinion of answers, as a probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgellm.backends.base import Branches, Model
from edgellm.errors import UsageError
from edgellm.generate.prompt import chat_tokens, text_tokens
from edgellm.generate.template import ChatTemplate, Message

__all__ = ["grades", "judging_prompt"]

_YES = ("Yes", "yes", " Yes", " yes")
_NO = ("No", "no", " No", " no")


def judging_prompt(question: str, answer: str) -> str:
    """Write what a judge is asked."""
    return (
        f"Question:\n{question}\n\nProposed answer:\n{answer}\n\n"
        "Is the proposed answer correct? Reply with Yes or No alone."
    )


def grades(
    judge: Model,
    template: ChatTemplate | None,
    question: str,
    answers: Sequence[str],
    *,
    open_branches: Callable[[int, int, int], Branches],
    limit: int,
    cancelled: Callable[[], bool],
    progress: Callable[[int, int], None],
) -> list[float]:
    """Give for each answer the probability of Yes against No ("P(True)", Kadavath et al. 2022).

    Args:
        judge: the model that is asked.
        template: its chat template; without one it continues the question as a text.
        question: what was answered.
        answers: the answers.
        open_branches: makes room on it for a prompt, an answer, and so many of these.
        limit: tokens that the judge can read; of a longer question the beginning is left out.
        cancelled: asked while it reads.
        progress: told how many are graded, of how many.

    Raises:
        CancelledError: `cancelled` gave True.
        UsageError: the model has no tokens for Yes and No.
        BackendError, DoesNotFitError: the backend failed, or there is not enough memory.
    """
    yes, no = (
        {tokens[0] for word in words if (tokens := judge.tokenize(word, special=False))}
        for words in (_YES, _NO)
    )
    yes, no = yes - no, no - yes
    if not yes or not no:
        raise UsageError("this model cannot judge: it has no tokens for Yes and No")
    prompts = []
    for answer in answers:
        text = judging_prompt(question, answer)
        if template is None:
            tokens = text_tokens(judge, f"{text}\n\nReply:")
        else:
            tokens = chat_tokens(judge, template, [Message("user", text)])
        prompts.append(tokens[-limit:])
    found = []
    branches = open_branches(max(map(len, prompts), default=1), 1, 1)
    try:
        for number, prompt in enumerate(prompts):
            progress(number, len(prompts))
            branches.prefill(prompt, cancelled)
            row = branches.logits()[0].astype(np.float64)
            shares = [np.logaddexp.reduce(row[sorted(tokens)]) for tokens in (yes, no)]
            found.append(float(1 / (1 + np.exp(np.clip(shares[1] - shares[0], -700, 700)))))
    finally:
        branches.close()
    return found
