"""A model in memory: how it is opened so that it fits, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from edgellm.api.contexts import Contexts
from edgellm.api.draft import DraftModel
from edgellm.api.fit import accelerators_for, check_branches, fitted, placed
from edgellm.backends.base import CACHE_TYPES, Branches, LoadOptions, Model, select
from edgellm.device.fit import Needs
from edgellm.errors import TemplateError, UsageError
from edgellm.generate.prompt import chat_tokens
from edgellm.generate.template import ChatTemplate, Message
from edgellm.models.adapter import Adapter, check_scale

__all__ = ["OpenedModel"]


def _never() -> bool:
    return False


class OpenedModel:
    """A model in memory, and the context that its texts share; `LoadedModel` writes with it.

    Attributes:
        path: the model's file.
        needs: what its memory and speed depend on.
        name: what the caller called it.
        backend: the name of the backend that runs it.
        cache_type: how its contexts keep keys and values.
        fit: whether what does not fit in memory is refused.
        context_limit: the most tokens of prompt and answer together.
        choice: how that was chosen.
        devices: the accelerators that layers are put on.

    Raises:
        DoesNotFitError: `fit`, and the model or the context does not.
        BackendError: no backend can run the file, or the one asked for cannot.
        UsageError: `context` is below 1 or above what the model was trained on, or a name that
            is none of a type or a backend.
    """

    def __init__(
        self,
        path: Path,
        options: LoadOptions,
        *,
        needs: Needs,
        context: int | None = None,
        cache_type: str = "f16",
        name: str | None = None,
        backend: str | None = None,
        fit: bool = True,
        prompt_cache: int = 0,
        chat_template: str | None = None,
        draft: DraftModel | None = None,
        cancelled: Callable[[], bool] = _never,
    ) -> None:
        if cache_type not in CACHE_TYPES:
            raise UsageError(
                f"no cache has the type {cache_type!r}", hint=f"known: {', '.join(CACHE_TYPES)}"
            )
        chosen = select(path, backend)
        self.path = path
        self.needs = needs
        self.name = name or path.stem
        self.backend = chosen.name
        self.cache_type = cache_type
        self.fit = fit
        self._template: ChatTemplate | None = None
        self._given_template = chat_template
        self._draft = draft
        self._check_trained(context, needs.trained_context)
        devices = self.devices = accelerators_for(chosen, options)
        self.choice = fitted(
            needs,
            devices,
            context=context,
            cache_type=cache_type,
            name=self.name,
            enforce=fit,
            reserved=draft.reserve(context, cache_type) if draft else 0,
        )
        fitting = self.choice.context
        options = placed(needs, devices, options, context=fitting, cache_type=cache_type)
        self._model = chosen.load(path, options, cancelled)
        trained = self._model.trained_context
        self.context_limit = min(fitting, trained)
        self._contexts = Contexts(
            self._model,
            chosen,
            path,
            name=self.name,
            weights=needs.weights,
            limit=self.context_limit,
            cache_type=cache_type,
            prompt_cache=prompt_cache,
            adapters=options.adapters,
            draft=draft,
        )
        try:
            self._check_trained(context, trained)
            if draft is not None:
                draft.load(self._model, path, options, cancelled)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.keep_prompt()
        finally:
            self.close()

    @property
    def restored_tokens(self) -> int:
        """How many tokens of prompts were read from the cache on disk so far."""
        return self._contexts.restored_tokens

    def keep_prompt(self) -> None:
        """Write the state of the last text to the cache on disk, if there is one, and it is long.

        A `with` statement that ends without an error does so by itself.
        """
        self._contexts.keep()

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The LoRA adapters that it was loaded with, and how many times each counts now."""
        return self._contexts.adapters

    def adapt(self, scales: Mapping[str, float]) -> None:
        """Let adapters count so many times from the next answer on; 0 leaves one out, exactly.

        What the context holds is evaluated again where a scale changes.

        Args:
            scales: by the names of adapters; the others stay as they are.

        Raises:
            UsageError: there is no such adapter, or a scale is out of its range.
        """
        names = [adapter.name for adapter in self.adapters]
        for name, scale in scales.items():
            check_scale(scale)
            if name not in names:
                raise UsageError(
                    f"no adapter is called {name}",
                    hint=f"loaded are: {', '.join(names)}" if names else "--lora FILE loads one",
                )
        self._contexts.adapt(
            tuple(
                replace(adapter, scale=float(scales.get(adapter.name, adapter.scale)))
                for adapter in self.adapters
            )
        )

    @property
    def model(self) -> Model:
        """The backend's model, for what this class has no method for."""
        return self._model

    @property
    def description(self) -> str:
        """A line about the model for people."""
        return self._model.description

    @property
    def trained_context(self) -> int:
        """The number of tokens that the model was trained on."""
        return self._model.trained_context

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template, or was given one."""
        return self.template_source is not None

    @property
    def template_source(self) -> str | None:
        """The chat template that it was given, or its own; None if it has none."""
        given = self._given_template
        return self._model.chat_template if given is None else given

    @property
    def template(self) -> ChatTemplate:
        """The chat template, ready to render.

        Raises:
            TemplateError: there is none, or it is malformed.
        """
        if self._template is None:
            source = self.template_source
            if source is None:
                raise TemplateError(
                    f"{self.name} has no chat template: it continues texts and knows no turns",
                    hint="complete() continues a text; `edgellm run` does so by itself",
                )
            self._template = ChatTemplate(
                source, bos=self._model.bos_text, eos=self._model.eos_text
            )
        return self._template

    def open_branches(self, prompt: int, answer: int, count: int) -> Branches:
        """Make room for a prompt of so many tokens and `count` answers, what `samples` stands on.

        Raises:
            DoesNotFitError: memory does not hold them, and `fit`.
            BackendError: the backend failed, or cannot keep several texts of this model.
        """
        model = self._model
        if self.fit:
            check_branches(self, model.branch_tokens(prompt, answer, count), count)
        branches = model.open_branches(prompt, answer, count, self.cache_type)
        branches.adapt([adapter.scale for adapter in self.adapters])
        return branches

    @property
    def held_tokens(self) -> Sequence[int]:
        """The tokens that the shared context has evaluated: a prompt, and what follows it."""
        context = self._contexts.current
        return context.held if context is not None else ()

    def tokenize(self, text: str, *, special: bool = False, ends: bool = True) -> list[int]:
        """Give the tokens of a text; see `edgellm.api.tokenize.LoadedTokenizer.tokenize`.

        Raises:
            UsageError: the text has no UTF-8 form (lone surrogates).
        """
        return self._model.tokenize(text, special=special, ends=ends)

    def count_tokens(self, prompt: str | Sequence[Message]) -> int:
        """Count the tokens of a prompt, or of messages, as the chat template writes them.

        `context_limit` less that is the room for the answer.

        Raises:
            TemplateError: the model has no chat template, or it refuses the messages.
        """
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        return len(chat_tokens(self._model, self.template, messages))

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        self._contexts.drop()
        if self._draft is not None:
            self._draft.close()
        self._model.close()

    def _check_trained(self, context: int | None, trained: int | None) -> None:
        if context is not None and not 1 <= context <= (trained or context):
            raise UsageError(
                f"a context of {context} tokens is asked for, and {self.name} was trained on "
                f"{trained}",
                hint=f"--ctx takes 1 to {trained} for this model",
            )
