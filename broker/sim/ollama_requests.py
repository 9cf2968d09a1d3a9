"""What a request asks of a simulated Ollama, or the refusal that it gets before any scheduling.

Rules: the checks come in Ollama's order (body, name, model, shape, capabilities, options), each
with its own status and words, which differ from one endpoint to the next. Everything that Ollama
finds out only after loading the model is left to ollama_plan.py.

Source: reference/OLLAMA.md §1.3-1.6 and §2; recordings 10_ to 51_.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.sim.ollama_asked import Action, Asked, Endpoint, Message, Refusal, ShowAsked
from broker.sim.ollama_catalogue import Capability, Catalogue, SimModel, parse_name
from broker.sim.ollama_fields import Kind, read_struct
from broker.sim.ollama_gojson import EmptyBody, GoJsonError, Json, decode, go_quote
from broker.sim.ollama_options import OptionError, Options, read_options

TOP_LOGPROBS_MAX: Final = 20
CLOUD_DISABLED: Final = "ollama cloud is disabled: remote model is unavailable"


_COMMON: Final[Mapping[str, Kind]] = {
    "model": Kind.STRING,
    "keep_alive": Kind.KEEP_ALIVE,
    "options": Kind.OPTIONS,
}
_SPOKEN: Final[Mapping[str, Kind]] = {
    **_COMMON,
    "stream": Kind.BOOL,
    "format": Kind.RAW,
    "think": Kind.THINK,
    "truncate": Kind.BOOL,
    "shift": Kind.BOOL,
    "logprobs": Kind.BOOL,
    "top_logprobs": Kind.INT,
    "_debug_render_only": Kind.BOOL,
}
_GENERATE: Final[Mapping[str, Kind]] = {
    **_SPOKEN,
    "prompt": Kind.STRING,
    "suffix": Kind.STRING,
    "system": Kind.STRING,
    "template": Kind.STRING,
    "context": Kind.INTS,
    "raw": Kind.BOOL,
    "images": Kind.IMAGES,
}
_CHAT: Final[Mapping[str, Kind]] = {
    **_SPOKEN,
    "messages": Kind.MESSAGES,
    "tools": Kind.TOOLS,
}
_EMBED: Final[Mapping[str, Kind]] = {
    **_COMMON,
    "input": Kind.RAW,
    "truncate": Kind.BOOL,
    "dimensions": Kind.INT,
}
_EMBEDDINGS: Final[Mapping[str, Kind]] = {**_COMMON, "prompt": Kind.STRING}
_SHOW: Final[Mapping[str, Kind]] = {
    "model": Kind.STRING,
    "name": Kind.STRING,
    "verbose": Kind.BOOL,
    "system": Kind.STRING,
    "options": Kind.OPTIONS,
}


@dataclass(frozen=True, slots=True)
class _Body:
    """The fields of a body, read by type; what is absent has Go's zero."""

    fields: Mapping[str, object] = field(default_factory=dict)

    def text(self, key: str) -> str:
        value = self.fields.get(key)
        return value if isinstance(value, str) else ""

    def whole(self, key: str) -> int:
        value = self.fields.get(key)
        return value if isinstance(value, int) else 0

    def flag(self, key: str, *, absent: bool) -> bool:
        value = self.fields.get(key)
        return value if isinstance(value, bool) else absent

    def items(self, key: str) -> Sequence[object]:
        value = self.fields.get(key)
        return value if isinstance(value, list) else ()

    def json(self, key: str) -> Json:
        value = self.fields.get(key)
        if isinstance(value, bool | int | float | str | list | dict):
            return value
        return None

    def mapping(self, key: str) -> Mapping[str, Json]:
        value = self.fields.get(key)
        return value if isinstance(value, dict) else {}

    @property
    def keep_alive_ns(self) -> int | None:
        value = self.fields.get("keep_alive")
        return value if isinstance(value, int) else None

    @property
    def think(self) -> bool | str | None:
        value = self.fields.get("think")
        return value if isinstance(value, bool | str) else None


def _read(name: str, fields: Mapping[str, Kind], body: bytes) -> _Body:
    try:
        return _Body(read_struct(name, fields, decode(body)))
    except EmptyBody:
        raise Refusal(400, "missing request body") from None
    except GoJsonError as error:
        raise Refusal(400, error.text) from None


def _refuse_cloud(spelled: str) -> None:
    tag = spelled.rpartition("/")[2].rpartition(":")[2]
    if ":" in spelled and (tag == "cloud" or tag.endswith("-cloud")):
        raise Refusal(403, CLOUD_DISABLED)


def _find(catalogue: Catalogue, spelled: str, *, nameless: Refusal, absent: str) -> SimModel:
    """The model asked for; `absent` is the 404's text, `nameless` what an empty name gets."""
    if not spelled:
        raise nameless
    _refuse_cloud(spelled)
    if parse_name(spelled) is None:
        raise Refusal(400, "invalid model name")
    model = catalogue.find(spelled)
    if model is None:
        raise Refusal(404, absent)
    return model


def _require(
    model: SimModel, spelled: str, wanted: Sequence[Capability], endpoint: Endpoint
) -> None:
    """Raises the refusal of the first capability that the model lacks."""
    if Capability.COMPLETION not in model.capabilities:
        raise Refusal(400, f"{go_quote(spelled)} does not support {endpoint.value}")
    for capability in wanted:
        if capability not in model.capabilities:
            parsed = parse_name(model.name)
            full = model.name if parsed is None else parsed.full
            raise Refusal(400, f"{full} does not support {capability.value}")


def _thinking(model: SimModel, spelled: str, asked: bool | str | None) -> bool | str | None:
    """Absent means true where the model can think; asking where it cannot is an error."""
    if Capability.THINKING in model.capabilities:
        return True if asked is None else asked
    if asked:
        raise Refusal(400, f"{go_quote(spelled)} does not support thinking")
    return None


def _options(body: _Body, model: SimModel) -> Options:
    try:
        return read_options(
            body.mapping("options"),
            model.parameters,
            shift=body.flag("shift", absent=model.shift),
        )
    except OptionError as error:
        raise Refusal(500, error.text) from None


def _check_top_logprobs(body: _Body) -> None:
    if not 0 <= body.whole("top_logprobs") <= TOP_LOGPROBS_MAX:
        raise Refusal(400, f"top_logprobs must be between 0 and {TOP_LOGPROBS_MAX}")


def read_generate(body: bytes, catalogue: Catalogue) -> Asked:
    """POST /api/generate; raises Refusal."""
    read = _read("GenerateRequest", _GENERATE, body)
    _check_top_logprobs(read)
    spelled = read.text("model")
    not_found = f"model '{spelled}' not found"
    model = _find(catalogue, spelled, nameless=Refusal(404, not_found), absent=not_found)
    prompt = read.text("prompt")
    action = Action.ANSWER if prompt else Action.LOAD
    if not prompt and read.keep_alive_ns == 0:
        action = Action.UNLOAD
    think: bool | str | None = None
    if action is not Action.UNLOAD:
        if read.flag("raw", absent=False) and (
            read.text("template") or read.text("system") or read.items("context")
        ):
            raise Refusal(400, "raw mode does not support template, system, or context")
        think = _thinking(model, spelled, read.think)
        wanted = (Capability.INSERT,) if read.text("suffix") else ()
        _require(model, spelled, wanted, Endpoint.GENERATE)
    return Asked(
        endpoint=Endpoint.GENERATE,
        action=action,
        model=model,
        spelled=spelled,
        options=_options(read, model),
        keep_alive_ns=read.keep_alive_ns,
        stream=read.flag("stream", absent=True),
        think=think,
        messages=(Message(role="user", content=prompt),),
        system=read.text("system") or model.system,
        template=read.text("template"),
        raw=read.flag("raw", absent=False),
        images=len(read.items("images")),
        format=_format(read),
        truncate=read.flag("truncate", absent=True),
        logprobs=read.flag("logprobs", absent=False),
        top_logprobs=read.whole("top_logprobs"),
        debug_render_only=read.flag("_debug_render_only", absent=False),
    )


def _format(body: _Body) -> Json:
    """`""` and null mean unset, as absence does."""
    value = body.json("format")
    return None if value == "" else value


def read_chat(body: bytes, catalogue: Catalogue) -> Asked:
    """POST /api/chat; raises Refusal."""
    read = _read("ChatRequest", _CHAT, body)
    _check_top_logprobs(read)
    spelled = read.text("model")
    model = _find(
        catalogue,
        spelled,
        nameless=Refusal(400, "model is required"),
        absent=f"model '{spelled}' not found",
    )
    messages = tuple(_message(item) for item in read.items("messages"))
    action = Action.ANSWER if messages else Action.LOAD
    if not messages and read.keep_alive_ns == 0:
        action = Action.UNLOAD
    tools = tuple(tool for tool in read.items("tools") if isinstance(tool, dict))
    think: bool | str | None = None
    if action is not Action.UNLOAD:
        think = _thinking(model, spelled, read.think)
        _require(model, spelled, (Capability.TOOLS,) if tools else (), Endpoint.CHAT)
    return Asked(
        endpoint=Endpoint.CHAT,
        action=action,
        model=model,
        spelled=spelled,
        options=_options(read, model),
        keep_alive_ns=read.keep_alive_ns,
        stream=read.flag("stream", absent=True),
        think=think,
        messages=messages,
        system=next((m.content for m in messages if m.role == "system"), model.system),
        images=sum(message.images for message in messages),
        tools=tools,
        format=_format(read),
        truncate=read.flag("truncate", absent=True),
        logprobs=read.flag("logprobs", absent=False),
        top_logprobs=read.whole("top_logprobs"),
        debug_render_only=read.flag("_debug_render_only", absent=False),
    )


def _message(item: object) -> Message:
    read = _Body(item if isinstance(item, dict) else {})
    return Message(
        role=read.text("role").lower(),
        content=read.text("content"),
        thinking=read.text("thinking"),
        images=len(read.items("images")),
        tool_calls=tuple(call for call in read.items("tool_calls") if isinstance(call, dict)),
    )


def read_embed(body: bytes, catalogue: Catalogue) -> Asked:
    """POST /api/embed; raises Refusal. Whether the model embeds at all shows once it is loaded."""
    read = _read("EmbedRequest", _EMBED, body)
    match read.json("input"):
        case None | "" | []:
            inputs: tuple[str, ...] = ()
        case str() as text:
            inputs = (text,)
        case list() as items if all(isinstance(item, str) for item in items):
            inputs = tuple(str(item) for item in items)
        case _:
            raise Refusal(400, "invalid input type")
    spelled = read.text("model")
    model = _find(
        catalogue,
        spelled,
        nameless=Refusal(404, "model '' not found"),
        absent=f"model {go_quote(spelled)} not found, try pulling it first",
    )
    return Asked(
        endpoint=Endpoint.EMBED,
        action=Action.ANSWER if inputs else Action.LOAD,
        model=model,
        spelled=spelled,
        options=_options(read, model),
        keep_alive_ns=read.keep_alive_ns,
        stream=False,
        truncate=read.flag("truncate", absent=True),
        inputs=inputs,
        dimensions=read.whole("dimensions"),
    )


def read_embeddings(body: bytes, catalogue: Catalogue) -> Asked:
    """POST /api/embeddings, which alone minds the case of names; raises Refusal."""
    read = _read("EmbeddingRequest", _EMBEDDINGS, body)
    spelled = read.text("model")
    not_found = f"model {go_quote(spelled)} not found, try pulling it first"
    _find(catalogue, spelled, nameless=Refusal(400, "model is required"), absent=not_found)
    model = catalogue.find_exact(spelled)
    if model is None:
        raise Refusal(404, not_found)
    prompt = read.text("prompt")
    return Asked(
        endpoint=Endpoint.EMBEDDINGS,
        action=Action.ANSWER if prompt else Action.LOAD,
        model=model,
        spelled=spelled,
        options=_options(read, model),
        keep_alive_ns=read.keep_alive_ns,
        stream=False,
        truncate=False,
        inputs=(prompt,) if prompt else (),
    )


def read_show(body: bytes, catalogue: Catalogue) -> ShowAsked:
    """POST /api/show; raises Refusal."""
    read = _read("ShowRequest", _SHOW, body)
    spelled = read.text("model") or read.text("name")
    parsed = parse_name(spelled)
    canonical = spelled if parsed is None else parsed.short
    model = _find(
        catalogue,
        spelled,
        nameless=Refusal(400, "model is required"),
        absent=f"model '{canonical}' not found",
    )
    return ShowAsked(
        model=model,
        verbose=read.flag("verbose", absent=False),
        system=read.text("system") or model.system,
    )
