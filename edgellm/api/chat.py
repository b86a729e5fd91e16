"""Talking to a model from Python: load it once, then chat, stream or complete.

with edgellm.load("smollm2-135m-instruct") as model:
    for text in model.stream("Why is the sky blue?"):
        ...
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from edgellm.api.adapters import Lora, lora_pairs, with_adapters
from edgellm.api.draft import DraftModel
from edgellm.api.fit import accelerators_for, check_branches, checked_needs, fitted, placed
from edgellm.backends.base import (
    CACHE_TYPES,
    Branches,
    Constraint,
    Context,
    Drafter,
    LoadOptions,
    Model,
    select,
)
from edgellm.device.fit import Needs
from edgellm.device.memory import DRAFT_MAX
from edgellm.errors import TemplateError, UsageError
from edgellm.generate.cached import MIN_TOKENS, CachedContext, open_cache
from edgellm.generate.constraint import compile_constraint
from edgellm.generate.drafts import Drafts
from edgellm.generate.engine import FixedPrompt, Generation
from edgellm.generate.forced import Forced
from edgellm.generate.options import GenerateFields, GenerateOptions
from edgellm.generate.overflow import ContextChange, Policy, check_policy
from edgellm.generate.prompt import chat_tokens, text_tokens
from edgellm.generate.result import GenerationResult
from edgellm.generate.sliding import text_prompt
from edgellm.generate.template import ChatTemplate, Message
from edgellm.generate.thinking import check_thinks, thinking_of
from edgellm.generate.view import View, renderer
from edgellm.generate.window import ChatPrompt
from edgellm.models.adapter import Adapter, check_scale, prepare_adapters

if TYPE_CHECKING:
    from edgellm.api.agent import ToolFields, ToolRun
    from edgellm.api.samples import AskFields, Beams, Best, Samples
    from edgellm.generate.conversation import Conversation
    from edgellm.generate.thoughts import ThoughtWatch
    from edgellm.generate.tools import Toolbox

__all__ = ["LoadedModel", "chat", "load"]


def _never() -> bool:
    return False


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    context: int | None = None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    cache_type: str = "f16",
    backend: str | None = None,
    fit: bool = True,
    prompt_cache: int = 0,
    chat_template: str | None = None,
    lora: Lora | Sequence[Lora] = (),
    draft: str | os.PathLike[str] | None = None,
    cancelled: Callable[[], bool] = _never,
) -> LoadedModel:
    """Find a model, check its file and load it.

    Args:
        model: a path, a name in the store or a built-in name; None takes the default model.
        context: the most tokens of prompt and answer together; None takes 4096, or what the model
            was trained on, or what fits in the memory that is free, whichever is least.
        threads: None takes the number of physical cores.
        gpu_layers: layers on an accelerator; None takes all that fit where there is one.
        cache_type: how the context keeps keys and values: f16, q8_0 or q4_0.
        backend: the backend's name; None takes the first that can run the file.
        fit: refuse a model, or a context that was asked for, that seems not to fit in memory.
        prompt_cache: the most bytes on disk for states of long prompts, so that another process
            need not evaluate them again; 0 writes and reads none.
        chat_template: a Jinja chat template in place of the model's own.
        lora: LoRA adapters: a GGUF file, or a folder of PEFT or mlx-lm, as `FILE[:SCALE]` or a
            pair (file, scale). Those of another form than the backend loads are converted, once.
        draft: a smaller model of the same vocabulary, which guesses what this one writes.
        cancelled: asked while the model is loaded; True stops that.

    Raises:
        NotFoundError: there is no such model, or no such adapter.
        DoesNotFitError: `fit`, and it does not.
        ConvertersError: a file is damaged or would harm native code, or an adapter belongs to
            another model.
        BackendError: no backend can run it.
        UsageError: a value out of its range, or a draft model of another vocabulary.
        CancelledError: `cancelled` gave True.
    """
    from edgellm.models.resolve import resolve

    options = LoadOptions(threads=threads, gpu_layers=gpu_layers)
    reference = None if model is None else os.fspath(model)
    path = resolve(reference)
    needs = checked_needs(path)
    adapters = prepare_adapters(lora_pairs(lora), path)
    return LoadedModel(
        path,
        replace(options, adapters=adapters),
        needs=with_adapters(needs, adapters),
        context=context,
        cache_type=cache_type,
        name=reference,
        backend=backend,
        fit=fit,
        prompt_cache=prompt_cache,
        chat_template=chat_template,
        draft=None if draft is None else DraftModel(resolve(os.fspath(draft))),
        cancelled=cancelled,
    )


def chat(prompt: str, model: str | os.PathLike[str] | None = None, **options: Any) -> str:
    """Answer one prompt and give the text; `options` are those of `LoadedModel.stream`.

    Raises: what `load` and `LoadedModel.stream` raise.
    """
    with load(model) as loaded:
        return loaded.stream(prompt, **options).read().text


class LoadedModel:
    """A model in memory; close it, or use it in a `with` statement.

    One thread at a time may generate. Answers share one context, so that a prompt that begins like
    the one before is evaluated only where it differs.

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
        self._adapters = options.adapters
        self.fit = fit
        self._chosen = chosen
        self._prompt_cache = prompt_cache
        self._context: Context | None = None
        self._cached: CachedContext | None = None  # the same context, if it has a cache on disk
        self._restored = 0  # tokens that contexts before this one took from there
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
        try:
            self._check_trained(context, trained)
            if draft is not None:
                draft.load(self._model, path, options, cancelled)
        except BaseException:
            self.close()
            raise
        self.context_limit = min(fitting, trained)

    def _check_trained(self, context: int | None, trained: int | None) -> None:
        if context is not None and not 1 <= context <= (trained or context):
            raise UsageError(
                f"a context of {context} tokens is asked for, and {self.name} was trained on "
                f"{trained}",
                hint=f"--ctx takes 1 to {trained} for this model",
            )

    def __enter__(self) -> LoadedModel:
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
        return self._restored + (self._cached.restored_tokens if self._cached else 0)

    def keep_prompt(self) -> None:
        """Write the state of the last text to the cache on disk, if there is one, and it is long.

        A `with` statement that ends without an error does so by itself.
        """
        if self._cached is not None:
            self._cached.keep()

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The LoRA adapters that it was loaded with, and how many times each counts now."""
        return self._adapters

    def adapt(self, scales: Mapping[str, float]) -> None:
        """Let adapters count so many times from the next answer on; 0 leaves one out, exactly.

        What the context holds is evaluated again where a scale changes.

        Args:
            scales: by the names of adapters; the others stay as they are.

        Raises:
            UsageError: there is no such adapter, or a scale is out of its range.
        """
        names = [adapter.name for adapter in self._adapters]
        for name, scale in scales.items():
            check_scale(scale)
            if name not in names:
                raise UsageError(
                    f"no adapter is called {name}",
                    hint=f"loaded are: {', '.join(names)}" if names else "--lora FILE loads one",
                )
        self._adapters = tuple(
            replace(adapter, scale=float(scales.get(adapter.name, adapter.scale)))
            for adapter in self._adapters
        )
        if self._context is not None:
            self._context.adapt([adapter.scale for adapter in self._adapters])

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

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        document: str | None = None,
        system: str | None = None,
        options: GenerateOptions | None = None,
        cancel: threading.Event | None = None,
        on_overflow: Policy = "error",
        on_change: Callable[[ContextChange], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        **fields: Unpack[GenerateFields],
    ) -> Generation:
        """Answer a prompt, or messages that end with the user's, through the chat template.

        Iterate over what it gives; `.result` holds the numbers afterwards.

        Args:
            prompt: a text, or the messages.
            document: a text that stands behind the newest message. Where it is too long, it is
                shortened or summarised, and the message stays whole.
            system: the system prompt; None for the template's own.
            options: how the answer is written.
            cancel: set it from any thread to stop.
            on_overflow: what is done where the prompt leaves no room for an answer, or the answer
                fills the context: "error", "shift" (the oldest turns, and the beginning of a text
                that does not fit, are dropped) or "summarize" (the model summarises them).
            on_change: is called when something is dropped or summarised, as it happens.
            on_progress: is called while that is summarised: how much is done, of how much.
            fields: fields of `options` that are other ones: `max_tokens=100, stop=["."]`.

        Raises:
            TemplateError: the model has no chat template, or it refuses the messages.
            ContextOverflowError: no answer fits behind the prompt; while iterating, if not even
                under the policy.
            UsageError: there is no such policy, no message, a constraint that cannot be used, or
                thinking is asked for and the model has none.
        """
        policy = check_policy(on_overflow)
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        if not messages:
            raise UsageError("there is no message to answer")
        keep = 0
        if document is not None:
            newest = messages.pop()
            content = f"{newest.content}\n\n"
            keep = len(content)
            messages.append(Message(newest.role, content + document))
        if system:
            messages.insert(0, Message("system", system))
        template = self.template
        options = GenerateOptions.of(options, **fields)
        thinking = thinking_of(self._model, template, options)
        render = renderer(self._model, template, reasoning=thinking.asked)
        view = View.of(messages, keep=keep)
        context = self._open(self._needed(render(view), options))
        chat_prompt = ChatPrompt(
            self._model,
            context,
            render,
            view,
            policy=policy,
            max_tokens=options.max_tokens,
            on_change=on_change,
            on_progress=on_progress,
            summary_render=renderer(self._model, template, reasoning=thinking.silent),
        )
        constraint = compile_constraint(self._model, options.constraint)
        return Generation(
            context,
            chat_prompt,
            options,
            cancel=cancel,
            constraint=constraint,
            thoughts=thinking.watch,
            drafter=self._drafter(options, constraint),
        )

    def chat(self, prompt: str | Sequence[Message], **options: Any) -> GenerationResult:
        """Answer as `stream` does, and give the whole answer with its numbers."""
        return self.stream(prompt, **options).read()

    def complete(
        self,
        text: str,
        *,
        special: bool = False,
        options: GenerateOptions | None = None,
        cancel: threading.Event | None = None,
        on_overflow: Policy = "error",
        on_change: Callable[[ContextChange], None] | None = None,
        **fields: Unpack[GenerateFields],
    ) -> Generation:
        """Continue a text as it stands, without a template.

        Args:
            text: an empty one starts from the model's start token.
            special: whether the text of control tokens becomes these tokens; never set it for
                text from a stranger.
            options: how the continuation is written.
            cancel: set it from any thread to stop.
            on_overflow: "error", or "shift": the oldest tokens are dropped, and the text goes on
                until the model or `max_tokens` ends it.
            on_change: is called when something is dropped, as it happens.
            fields: fields of `options` that are other ones.

        Raises:
            UsageError: there is nothing to begin with, a text is to be summarised, a constraint
                cannot be used, or thinking is asked for.
            ContextOverflowError: while iterating, if no token fits behind the text.
        """
        policy = check_policy(on_overflow)
        options = GenerateOptions.of(options, **fields)
        check_thinks(options, "a text is continued as it stands, without a chat template")
        tokens = text_tokens(self._model, text, special=special)
        if not tokens:
            raise UsageError("the prompt is empty, and the model has no token to start a text with")
        context = self._open(self._needed(tokens, options))
        prompt = text_prompt(
            self._model,
            tokens,
            context.size,
            policy=policy,
            max_tokens=options.max_tokens,
            on_change=on_change,
        )
        constraint = compile_constraint(self._model, options.constraint)
        return Generation(
            context,
            prompt,
            options,
            cancel=cancel,
            constraint=constraint,
            drafter=self._drafter(options, constraint),
        )

    def samples(
        self,
        prompt: str | Sequence[Message],
        n: int,
        *,
        vote: str | None = None,
        best: Best | None = None,
        judge: LoadedModel | None = None,
        **fields: Unpack[AskFields],
    ) -> Samples:
        """Answer a prompt several times, all at once; the prompt is evaluated once.

        The answer at place i is what `stream` writes with the seed + i, as far as the backend
        rounds a batch as it rounds one text. Each has at most `max_tokens` tokens, or 512 where
        that is negative.

        Args:
            prompt: a text, or messages.
            n: how many answers, up to 128.
            vote: how an answer is taken out of each text, so that the majority's is chosen: "auto",
                "number", "boxed", "text", "choice:A,B,C", or a regular expression.
            best: "likelihood" chooses the answer whose tokens are likeliest on average, "judge" the
                one that a model finds right with the greatest probability.
            judge: that model; None takes this one.
            fields: see `AskFields`, and fields of `options` that are other ones.

        Raises:
            UsageError: a value out of its range, or choices that exclude each other.
            ContextOverflowError: no answer fits behind the prompt.
            DoesNotFitError: memory does not hold so many answers of that length.
            TemplateError, BackendError: as for `stream`.
        """
        from edgellm.api.samples import samples

        return samples(self, prompt, n, vote=vote, best=best, judge=judge, **fields)

    def beams(
        self,
        prompt: str | Sequence[Message],
        n: int,
        *,
        length_penalty: float = 1.0,
        **fields: Unpack[AskFields],
    ) -> Beams:
        """Search the likeliest answers with `n` beams; nothing is drawn by chance.

        Args:
            prompt: a text, or messages.
            n: how many texts are followed at once, up to 128.
            length_penalty: an answer's score is its log-probability over its length to the power of
                this: above 0 longer ones are favoured, below it shorter ones.
            fields: as for `samples`; of the sampling nothing counts.

        Raises: as `samples`.
        """
        from edgellm.api.samples import beams

        return beams(self, prompt, n, length_penalty=length_penalty, **fields)

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
        branches.adapt([adapter.scale for adapter in self._adapters])
        return branches

    def run_tools(
        self,
        prompt: str | Sequence[Message],
        tools: Toolbox | Iterable[Callable[..., Any]],
        **fields: Unpack[ToolFields],
    ) -> ToolRun:
        """Answer a prompt with tools that the model may call.

        Iterate over what it gives for events (text, thoughts, calls, results), or `read()` it;
        `.result` holds the answer and all that was called.

        Args:
            prompt: a text, or messages that end with the user's.
            tools: functions with types and docstrings, which run in this program, or an
                `edgellm.ToolFile`, whose functions run in processes of their own.
            fields: see `ToolFields`, and fields of `options` that are other ones.

        Raises:
            UsageError: a function cannot be offered, there is no message, a value is out of its
                range, or the template takes no tools and `style` is "template".
            ContextOverflowError: while iterating, if the context is full.
        """
        from edgellm.api.agent import run_tools

        return run_tools(self, prompt, tools, **fields)

    def continue_tokens(
        self,
        tokens: Sequence[int],
        options: GenerateOptions,
        cancel: threading.Event | None = None,
        *,
        thoughts: ThoughtWatch | None = None,
    ) -> Generation:
        """Continue tokens as they stand; an error where they fill the context.

        `thoughts` watches over a text that begins with a thought.

        Raises:
            UsageError: a constraint cannot be used.
            ContextOverflowError: while iterating, if no token fits behind them.
        """
        constraint = compile_constraint(self._model, options.constraint)
        return Generation(
            self._open(self.context_limit),
            FixedPrompt(tokens),
            options,
            cancel=cancel,
            constraint=constraint,
            drafter=self._drafter(options, constraint),
            thoughts=thoughts,
        )

    @property
    def held_tokens(self) -> Sequence[int]:
        """The tokens that the shared context has evaluated: a prompt, and what follows it."""
        return self._context.held if self._context is not None else ()

    def conversation(
        self,
        *,
        system: str | None = None,
        options: GenerateOptions | None = None,
        on_overflow: Policy | None = None,
        on_change: Callable[[ContextChange], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Conversation:
        """Begin a conversation that remembers its turns.

        Args:
            system: the system prompt; None for the template's own.
            options: how answers are written.
            on_overflow: what is done when the context is full, as for `stream`; None takes
                "summarize", or "error" where the model has no chat template.
            on_change: is called when something is dropped or summarised, as it happens.
            on_progress: is called while that is summarised: how much is done, of how much.

        Raises:
            UsageError: a system prompt, or summaries, for a model without a chat template.
        """
        from edgellm.generate.conversation import Conversation

        template = self.template if self.has_template else None
        usual: Policy = "error" if template is None else "summarize"
        return Conversation(
            self._model,
            self._open(self.context_limit),
            template,
            system=system,
            options=options,
            on_overflow=usual if on_overflow is None else check_policy(on_overflow),
            on_change=on_change,
            on_progress=on_progress,
            drafter=self._drafter,
        )

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
        self._drop_context()
        if self._draft is not None:
            self._draft.close()
        self._model.close()

    def _needed(self, tokens: Sequence[int], options: GenerateOptions) -> int:
        """Give the size of context: a short answer needs no full one, and less is made faster.

        A state on disk fits contexts of one size: a long prompt, which may be kept, always gets it.
        """
        kept = self._prompt_cache and len(tokens) > MIN_TOKENS
        if options.max_tokens < 0 or kept:
            return self.context_limit
        return min(self.context_limit, len(tokens) + max(options.max_tokens, 1))

    def _open(self, size: int) -> Context:
        if self._context is not None and self._context.size < size:
            self._drop_context()
            size = self.context_limit  # it has been used twice: it may be used again
        if self._context is None:
            self._context = self._model.open_context(size, self.cache_type, DRAFT_MAX)
            self._context.adapt([adapter.scale for adapter in self._adapters])
            if self._prompt_cache and size == self.context_limit:
                self._context = self._cached = open_cache(
                    self._context,
                    self._prompt_cache,
                    self._chosen,
                    self.path,
                    self.cache_type,
                    self._adapters,
                )
        return self._context

    def _drafter(
        self, options: GenerateOptions, constraint: Constraint | None = None
    ) -> Drafter | None:
        """Make what guesses for one text, on the context that is open.

        Raises:
            UsageError: it is asked for, and the model's state cannot be cut back.
        """
        guesses = self._guesses(options)
        return guesses if guesses is None or constraint is None else Forced(constraint, guesses)

    def _guesses(self, options: GenerateOptions) -> Drafter | None:
        """Make what guesses without a constraint."""
        draft, context = self._draft, self._context
        wanted = options.speculate == "ngram" or draft is not None
        if context is None or options.speculate == "off":
            return None
        if not context.draft_limit:
            if not wanted:
                return None
            raise UsageError(
                f"nothing can be drafted for {self.name}: its state cannot be cut back to the "
                "tokens that were right",
                hint="--speculate off, and no --draft",
            )
        if draft is None or options.speculate == "ngram":
            # A batch is rounded otherwise: what is drawn anyway may be, the likeliest text may not.
            pays = wanted or (self._model.batches_pay and options.sampling.temperature > 0)
            return Drafts(options.draft_max) if pays else None
        cost = draft.needs.weights / max(self.needs.weights, 1)
        return Drafts(options.draft_max, draft.open(context.size, self.cache_type), cost)

    def _drop_context(self) -> None:
        if self._context is not None:
            self._context.close()
            self._restored = self.restored_tokens
            self._context = self._cached = None

    def _require_template(self) -> ChatTemplate:
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
