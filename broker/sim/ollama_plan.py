"""From a request that passed its checks to the work for the model and the words that go with it.

Rules: what Ollama finds out before it loads is already refused (ollama_requests.py); what it finds
out afterwards is a `Late` refusal here, whose work is to load the model and no more. The context
size is known beforehand, because it follows from options and settings alone.

Source: reference/OLLAMA.md §1.3-1.5; recordings 12_generate_prompt_too_long and its kin, 15_, 30_.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from broker.sim.ollama_answers import runner_refusal
from broker.sim.ollama_asked import Action, Asked, Endpoint
from broker.sim.ollama_catalogue import Capability, Template
from broker.sim.ollama_gojson import Json, go_quote, marshal
from broker.sim.ollama_machine import ServerSettings, sizing
from broker.sim.ollama_prompt import (
    TemplateError,
    count_tokens,
    cut_middle,
    drop_oldest,
    render,
    tokenize,
)
from broker.sim.ollama_text import Speech, compose
from broker.sim.ollama_work import Work, WorkKind

NO_EMBEDDINGS: Final = "This server does not support embeddings. Start it with `--embeddings`"
INPUT_TOO_LONG: Final = "the input length exceeds the context length"
PROMPT_TOO_LONG: Final = (
    "the prompt is longer than the context length currently available to the model; shorten the "
    "prompt, adjust the context length in settings, or use a model with a longer context length"
)
NO_IMAGES: Final = "Multimodal data provided, but model does not support multimodal requests."
_SCHEMA_TYPES: Final = frozenset(
    {"object", "array", "string", "number", "integer", "boolean", "null"}
)
# llama-server rounds the context it really has up to this (12_generate_no_shift_overflow).
_CONTEXT_GRAIN: Final = 256
# Rendering and tokenising the rest anew for each dropped message, per character and engine, fitted
# to recordings 84_history_truncation_cost and 84_chat_401_messages (a character is a token there).
_TRIM_NS_PER_CHARACTER: Final = {Template.NATIVE: 1_900, Template.GO: 9_500}


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """A refusal that comes once the model is loaded.

    `is_runners` is true where the runner refused: on a streamed request the answer then has no
    charset and no length (OLLAMA.md §1.1).
    """

    status: int
    text: str
    is_runners: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to open in the model, and what to say when it signals."""

    work: Work
    speech: Speech | None = None
    prompt: str = ""  # as rendered
    context: tuple[int, ...] = ()  # token ids of the whole prompt, for the last object
    late: Late | None = None


def plan(asked: Asked, settings: ServerSettings, server_seed: int) -> Plan:
    """The work and words of one request."""
    if asked.action is Action.UNLOAD:
        return Plan(work=_work(asked, WorkKind.UNLOAD))
    if asked.action is Action.LOAD:
        return Plan(work=_work(asked, WorkKind.LOAD))
    num_ctx = sizing(asked.model, asked.options.runner, settings).num_ctx
    if asked.endpoint in (Endpoint.EMBED, Endpoint.EMBEDDINGS):
        return _plan_embedding(asked, num_ctx)
    return _plan_answer(asked, num_ctx, server_seed)


def _work(asked: Asked, kind: WorkKind) -> Work:
    return Work(
        kind=kind,
        model=asked.model.name,
        options=asked.options.runner,
        keep_alive_ns=asked.keep_alive_ns,
    )


def _refused(asked: Asked, status: int, text: str, *, is_runners: bool = False) -> Plan:
    late = Late(status=status, text=text, is_runners=is_runners)
    return Plan(work=_work(asked, WorkKind.LOAD), late=late)


def _plan_embedding(asked: Asked, num_ctx: int) -> Plan:
    legacy = asked.endpoint is Endpoint.EMBEDDINGS
    if not asked.model.is_embedding:
        return _refused(asked, 500 if legacy else 501, NO_EMBEDDINGS, is_runners=True)
    limit = min(num_ctx, asked.model.context_length_train)
    prompts = [tokenize(asked.model, text) for text in asked.inputs]
    if not asked.truncate and any(len(prompt) > limit for prompt in prompts):
        return _refused(asked, 500 if legacy else 400, INPUT_TOO_LONG)
    fitting = tuple(
        prompt if len(prompt) <= limit else prompt[: limit - 1] + prompt[-1:] for prompt in prompts
    )
    return Plan(work=replace(_work(asked, WorkKind.EMBED), prompts=fitting))


def _plan_answer(asked: Asked, num_ctx: int, server_seed: int) -> Plan:
    shortened = asked
    if asked.endpoint is Endpoint.CHAT and asked.truncate:
        shortened = drop_oldest(asked, num_ctx=num_ctx)
    try:
        prompt = render(shortened)
    except TemplateError as error:
        return _refused(asked, 500, error.text)
    if asked.debug_render_only:
        return Plan(work=_work(asked, WorkKind.LOAD), prompt=prompt)
    refused = _format_refusal(asked) or _image_refusal(asked)
    if refused is not None:
        return refused
    counted = count_tokens(asked.model, prompt)
    if counted > num_ctx:
        refused = _length_refusal(asked, counted, num_ctx)
        if refused is not None:
            return refused
    tokens = _prompt_tokens(asked, prompt, counted, num_ctx)
    room = None if asked.options.runner.shift else _rounded(num_ctx) - len(tokens)
    speech = compose(shortened, prompt, num_ctx=num_ctx, server_seed=server_seed, room=room)
    shows_context = asked.endpoint is Endpoint.GENERATE and not asked.raw
    work = replace(
        _work(asked, WorkKind.GENERATE),
        prompts=(tokens,),
        output_tokens=speech.tokens,
        prepare_ns=_trimming_ns(asked, shortened),
    )
    return Plan(
        work=work,
        speech=speech,
        prompt=prompt,
        context=tokenize(asked.model, prompt)[1:] if shows_context else (),
    )


def _rounded(num_ctx: int) -> int:
    return -(-num_ctx // _CONTEXT_GRAIN) * _CONTEXT_GRAIN


def _prompt_tokens(asked: Asked, prompt: str, counted: int, num_ctx: int) -> tuple[int, ...]:
    """The ids that the runner reads. Of a prompt far too long only the two ends are tokenised."""
    if counted <= num_ctx:
        return tokenize(asked.model, prompt)
    ends = 8 * num_ctx  # characters; no tokenizer here makes a token of more than eight
    if len(prompt) > 2 * ends:
        prompt = prompt[:ends] + prompt[-ends:]
    keep = asked.options.num_keep
    return cut_middle(tokenize(asked.model, prompt), num_ctx=num_ctx, num_keep=keep)


def _format_refusal(asked: Asked) -> Plan | None:
    match asked.format:
        case None | "json":
            return None
        case dict() as schema:
            unknown = _unknown_type(schema)
            if unknown is None:
                return None
            message = (
                "Unable to generate parser for this template. Automatic parser generation failed: "
                f"JSON schema error at #: unrecognized type {unknown}"
            )
            return _refused(asked, 400, runner_refusal(400, message, "invalid_request_error"))
        case other:
            shown = go_quote(marshal(other))
            text = f'invalid format: {shown}; expected "json" or a valid JSON Schema object'
            return _refused(asked, 500, text)


def _unknown_type(schema: dict[str, Json]) -> str | None:
    wanted = schema.get("type")
    if isinstance(wanted, str) and wanted not in _SCHEMA_TYPES:
        return wanted
    return None


def _image_refusal(asked: Asked) -> Plan | None:
    if not asked.images or Capability.VISION in asked.model.capabilities:
        return None
    text = runner_refusal(400, NO_IMAGES, "invalid_request_error")
    return _refused(asked, 400, text, is_runners=True)


def _length_refusal(asked: Asked, counted: int, num_ctx: int) -> Plan | None:
    """What becomes of a prompt that does not fit: nothing where its middle may be cut out."""
    native_chat = asked.endpoint is Endpoint.CHAT and asked.model.template is Template.NATIVE
    if not asked.truncate or native_chat:
        message = (
            f"request ({counted} tokens) exceeds the available context size ({num_ctx} tokens), "
            "try increasing it"
        )
        text = runner_refusal(
            400, message, "exceed_context_size_error", n_prompt_tokens=counted, n_ctx=num_ctx
        )
        return _refused(asked, 400, text, is_runners=True)
    if not asked.options.runner.shift:
        return _refused(asked, 400, PROMPT_TOO_LONG, is_runners=True)
    return None


def _trimming_ns(asked: Asked, shortened: Asked) -> int:
    """What dropping messages costs: the rest is rendered and tokenised once for each."""
    dropped = len(asked.messages) - len(shortened.messages)
    if not dropped:
        return 0
    letters = [len(message.content) for message in asked.messages]
    average = sum(letters) / len(letters)
    read = sum((len(letters) - gone) * average for gone in range(dropped))
    return int(read * _TRIM_NS_PER_CHARACTER[asked.model.template])
