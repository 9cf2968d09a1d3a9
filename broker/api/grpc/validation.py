"""Every field of the wire has a limit; all that are broken are named together.

Checked here once, at the edge: behind it, content is known to be good. Limits that the operator may
change are in `RequestLimits`; the others are those written in the proto files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from broker.api.grpc.time_validation import check_times
from broker.core.errors import FieldProblem, InvalidRequest
from broker.core.model_name import NAME_LENGTH_MAX
from broker.core.requests import PRIORITY_HIGHEST, PRIORITY_LOWEST
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1.common_pb2 import Criticality

AGENT_ID_LENGTH_MAX: Final = 128
ID: Final = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
ID_RULE: Final = "1 to 128 characters of [A-Za-z0-9._:/@-]"
_CLIENT: Final = re.compile(r"[A-Za-z0-9._-]{1,64}/[A-Za-z0-9._-]{1,64}")
_ROLES: Final = frozenset({"system", "user", "assistant", "tool"})
_LEVELS: Final = frozenset({"low", "medium", "high", "max"})
_SCHEMA_BYTES_MAX: Final = 64 * 1024
_TOOL_NAME_MAX: Final = 128
_TOOL_CALL_ID_MAX: Final = 128
_TOOL_CALLS_MAX: Final = 128
_DESCRIPTION_BYTES_MAX: Final = 64 * 1024
_IMAGES_MAX: Final = 256
_SESSION_MAX: Final = 128
_CALLS_MAX: Final = 10_000
_SHOWN_MAX: Final = 40
_FALLBACKS_MAX: Final = 8
_STOPS_MAX: Final = 16
_STOP_BYTES_MAX: Final = 256
_RANGES: Final = {
    "max_tokens": (1, 131_072),
    "temperature": (0, 5),
    "top_p": (0, 1),
    "top_k": (1, 1000),
    "min_p": (0, 1),
    "seed": (0, 2**63 - 1),
    "repeat_penalty": (0, 10),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repeat_last_n": (-1, 131_072),
    "num_ctx": (256, 2**31 - 1),
}
_CRITICALITIES: Final = frozenset(Criticality.values())
_CACHE_POLICIES: Final = frozenset(pb.CachePolicy.values())
_SUBSTITUTIONS: Final = frozenset(pb.Substitution.values())
_ON_INTERRUPTION: Final = frozenset(pb.OnInterruption.values())
_PROMPT_TYPE: Final = re.compile(r"[A-Za-z0-9._:/@-]{1,64}")
_object_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])

CLIENT_METADATA_KEY: Final = "broker-client"
PAGE_SIZE_DEFAULT: Final = 100
PAGE_SIZE_MAX: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Sizes in bytes, counts and times of one request."""

    request_bytes_max: int = 8 * 1024 * 1024
    prompt_bytes_max: int = 4 * 1024 * 1024
    messages_max: int = 4096
    tools_max: int = 128
    embed_inputs_max: int = 256
    soft_deadline_ms_max: int = 86_400_000


class Problems:
    """Gathers what is wrong with one request."""

    NAMED_MAX: Final = 12  # more would not fit into the trailers of an answer

    def __init__(self) -> None:
        self._found: list[FieldProblem] = []
        self._more = 0

    def add(self, field: str, problem: str) -> None:
        if len(self._found) < self.NAMED_MAX:
            self._found.append(FieldProblem(field=field, problem=problem))
        else:
            self._more += 1

    def require(self, holds: bool, field: str, problem: str) -> None:
        if not holds:
            self.add(field, problem)

    def raise_any(self) -> None:
        """InvalidRequest with everything that was found, if anything was."""
        if self._more:
            more = FieldProblem(field="request", problem=f"has {self._more} more such problems")
            raise InvalidRequest((*self._found, more))
        if self._found:
            raise InvalidRequest(tuple(self._found))


def _shown(value: str) -> str:
    """What was given, as far as it helps to see it."""
    return repr(value) if len(value) <= _SHOWN_MAX else f"{value[:_SHOWN_MAX]!r}..."


def check_metadata(metadata: Iterable[tuple[str, str | bytes]] | None, problems: Problems) -> None:
    """`broker-client` names the client and its version: "python/0.1.0"."""
    for key, value in metadata or ():
        if key == CLIENT_METADATA_KEY and not (isinstance(value, str) and _CLIENT.fullmatch(value)):
            problems.add(
                f"metadata.{CLIENT_METADATA_KEY}",
                "must be name/version, 1 to 64 characters of [A-Za-z0-9._-] each",
            )


def check_agent_id(agent_id: str, problems: Problems) -> None:
    problems.require(ID.fullmatch(agent_id) is not None, "agent_id", f"must be {ID_RULE}")


def check_request_id(request_id: str, problems: Problems, *, required: bool = False) -> None:
    if request_id or required:
        good = ID.fullmatch(request_id) is not None
        problems.require(good, "request_id", f"must be {ID_RULE}")


def check_model(model: str, field: str, problems: Problems) -> None:
    """Only its length: an empty, malformed or unknown name is NOT_FOUND."""
    check_length(model, NAME_LENGTH_MAX, field, problems)


def check_priority(priority: int, problems: Problems) -> None:
    if priority and not PRIORITY_HIGHEST <= priority <= PRIORITY_LOWEST:
        rule = f"is {priority}; must be {PRIORITY_HIGHEST} (highest) to {PRIORITY_LOWEST}"
        problems.add("priority", rule)


def check_enum(value: int, known: frozenset[int], field: str, problems: Problems) -> None:
    """An enum's number that this version does not know."""
    if value not in known:
        problems.add(field, f"is {value}, which is none of its values")


def check_size(size_bytes: int, limits: RequestLimits, problems: Problems) -> None:
    if size_bytes > limits.request_bytes_max:
        problems.add("request", f"is {size_bytes} bytes; at most {limits.request_bytes_max}")


def check_length(text: str, length_max: int, field: str, problems: Problems) -> None:
    if len(text) > length_max:
        problems.add(field, f"has {len(text)} characters; at most {length_max}")


def check_page_size(page_size: int, problems: Problems) -> None:
    rule = f"is {page_size}; 0 (meaning {PAGE_SIZE_DEFAULT}) to {PAGE_SIZE_MAX}"
    problems.require(0 <= page_size <= PAGE_SIZE_MAX, "page_size", rule)


def check_name(name: str, field: str, problems: Problems) -> None:
    """A tool's, as it is said and as it is called."""
    good = 1 <= len(name) <= _TOOL_NAME_MAX
    problems.require(good, field, f"must have 1 to {_TOOL_NAME_MAX} characters")


def check_images(images: Sequence[bytes], field: str, problems: Problems) -> None:
    """Their bytes count towards the request's."""
    if len(images) > _IMAGES_MAX:
        problems.add(field, f"has {len(images)}; at most {_IMAGES_MAX}")
        return
    for index, image in enumerate(images):
        problems.require(bool(image), f"{field}[{index}]", "must not be empty")


def check_schema(text: str, field: str, problems: Problems) -> int:
    """One JSON object of bounded size; its bytes."""
    size_bytes = len(text.encode())
    if size_bytes > _SCHEMA_BYTES_MAX:
        problems.add(field, f"is {size_bytes} bytes; at most {_SCHEMA_BYTES_MAX}")
    else:
        check_json_object(text, field, problems)
    return size_bytes


def check_json_object(text: str, field: str, problems: Problems) -> None:
    try:
        _object_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        problems.add(field, f"must be one JSON object: {error}")


def check_options(options: pb.Options, problems: Problems) -> None:
    """Sampling and length; num_ctx has a ceiling of its own model besides."""
    for descriptor, value in options.ListFields():
        name = descriptor.name
        if name in _RANGES:
            low, high = _RANGES[name]
            problems.require(
                low <= value <= high, f"options.{name}", f"is {value}; must be {low} to {high}"
            )
    if len(options.stop) > _STOPS_MAX:
        problems.add("options.stop", f"has {len(options.stop)} texts; at most {_STOPS_MAX}")
    for index, stop in enumerate(options.stop[:_STOPS_MAX]):
        good = 1 <= len(stop.encode()) <= _STOP_BYTES_MAX
        problems.require(good, f"options.stop[{index}]", f"must be 1 to {_STOP_BYTES_MAX} bytes")


def check_prompt(prompt: pb.Prompt, limits: RequestLimits, problems: Problems) -> int:
    """All of a plain prompt; the bytes of its text."""
    problems.require(bool(prompt.text), "prompt.text", "must not be empty")
    check_images(prompt.images, "prompt.images", problems)
    if prompt.raw and prompt.system:
        problems.add("prompt.system", "goes through the model's template, which raw leaves out")
    size_bytes = sum(len(each.encode()) for each in (prompt.text, prompt.system, prompt.suffix))
    if size_bytes > limits.prompt_bytes_max:
        problems.add("prompt", f"has {size_bytes} bytes; at most {limits.prompt_bytes_max}")
    return size_bytes


def check_message(message: pb.Message, field: str, problems: Problems) -> None:
    """All of a message but its text, which the whole chat bounds."""
    if message.role not in _ROLES:
        known = ", ".join(sorted(_ROLES))
        problems.add(f"{field}.role", f"is {_shown(message.role)}; one of {known}")
    check_images(message.images, f"{field}.images", problems)
    check_length(message.tool_name, _TOOL_NAME_MAX, f"{field}.tool_name", problems)
    check_length(message.tool_call_id, _TOOL_CALL_ID_MAX, f"{field}.tool_call_id", problems)
    count = len(message.tool_calls)
    if count > _TOOL_CALLS_MAX:
        problems.add(f"{field}.tool_calls", f"has {count}; at most {_TOOL_CALLS_MAX}")
        return
    for number, call in enumerate(message.tool_calls):
        path = f"{field}.tool_calls[{number}]"
        check_length(call.id, _TOOL_CALL_ID_MAX, f"{path}.id", problems)
        check_name(call.name, f"{path}.name", problems)
        check_json_object(call.arguments_json, f"{path}.arguments_json", problems)


def check_chat(chat: pb.Chat, limits: RequestLimits, problems: Problems) -> int:
    """A conversation: each message, and what all of them say together; the bytes of that."""
    count = len(chat.messages)
    if not 1 <= count <= limits.messages_max:
        problems.add("chat.messages", f"has {count} messages; 1 to {limits.messages_max}")
        return 0
    size_bytes = 0
    for index, each in enumerate(chat.messages):
        size_bytes += len(each.content.encode()) + len(each.thinking.encode())
        # A call may have written a whole file; it is handed back with every later turn.
        size_bytes += sum(len(call.arguments_json.encode()) for call in each.tool_calls)
        check_message(each, f"chat.messages[{index}]", problems)
    if size_bytes > limits.prompt_bytes_max:
        problems.add("chat", f"has {size_bytes} bytes of text; at most {limits.prompt_bytes_max}")
    return size_bytes


def check_tools(request: pb.GenerateRequest, limits: RequestLimits, problems: Problems) -> int:
    """What the model may call; a plain prompt has no place for it. The bytes of its text, which
    count towards no prompt."""
    tools = request.tools
    if tools and not request.HasField("chat"):
        problems.add("tools", "need a chat")
    if len(tools) > limits.tools_max:
        problems.add("tools", f"has {len(tools)}; at most {limits.tools_max}")
    text_bytes = 0
    for index, tool in enumerate(tools[: limits.tools_max]):
        check_name(tool.name, f"tools[{index}].name", problems)
        size_bytes = len(tool.description.encode())
        if size_bytes > _DESCRIPTION_BYTES_MAX:
            rule = f"is {size_bytes} bytes; at most {_DESCRIPTION_BYTES_MAX}"
            problems.add(f"tools[{index}].description", rule)
        field = f"tools[{index}].parameters_json"
        text_bytes += size_bytes + check_schema(tool.parameters_json, field, problems)
    return text_bytes


def check_shape(request: pb.GenerateRequest, problems: Problems) -> None:
    """Format and think."""
    if request.HasField("format"):
        shape = request.format.WhichOneof("shape")
        if shape == "json_schema":
            check_schema(request.format.json_schema, "format.json_schema", problems)
        elif shape is None:
            problems.add("format", "must say json or json_schema")
    if request.HasField("think"):
        mode = request.think.WhichOneof("mode")
        if mode is None:
            problems.add("think", "must say enabled or level")
        elif mode == "level" and request.think.level not in _LEVELS:
            known = ", ".join(sorted(_LEVELS))
            problems.add("think.level", f"is {_shown(request.think.level)}; one of {known}")


def check_failing(request: pb.GenerateRequest, problems: Problems) -> None:
    """What is to be done when something fails or takes too long."""
    check_enum(request.on_interruption, _ON_INTERRUPTION, "on_interruption", problems)
    if request.on_interruption == pb.ON_INTERRUPTION_CONTINUE:
        # A text that has begun goes through the template of a chat, and is past the middle of a
        # shape or a gap that the backend would begin again.
        prompt = request.prompt
        for given, field in (
            (request.HasField("format"), "format"),
            (bool(prompt.suffix), "prompt.suffix"),
            (prompt.raw, "prompt.raw"),
        ):
            if given:
                problem = f"cannot be CONTINUE with {field}: such an answer can only begin anew"
                problems.add("on_interruption", problem)
                break
    if request.prompt_type and not _PROMPT_TYPE.fullmatch(request.prompt_type):
        problems.add("prompt_type", "must be 1 to 64 characters of [A-Za-z0-9._:/@-]")


def check_who_and_what(
    request: pb.GenerateRequest | pb.EmbedRequest,
    size_bytes: int,
    limits: RequestLimits,
    problems: Problems,
) -> None:
    """The fields that every request has: its size, who asks, for which model, how urgently."""
    check_size(size_bytes, limits, problems)
    check_agent_id(request.agent_id, problems)
    check_request_id(request.request_id, problems)
    check_model(request.model, "model", problems)
    check_priority(request.priority, problems)
    check_enum(request.criticality, _CRITICALITIES, "criticality", problems)
    check_times(request, limits.soft_deadline_ms_max, problems.require)


def check_session(request: pb.GenerateRequest, problems: Problems) -> None:
    check_length(request.session_id, _SESSION_MAX, "session_id", problems)
    calls = request.expected_calls
    problems.require(0 <= calls <= _CALLS_MAX, "expected_calls", f"is {calls}; 0 to {_CALLS_MAX}")
    problems.require(not calls or bool(request.session_id), "expected_calls", "needs session_id")


def check_generate(
    request: pb.GenerateRequest, size_bytes: int, limits: RequestLimits, problems: Problems
) -> int:
    """Every field of a generation; the bytes of the text that its model is to read, images not
    among them."""
    check_who_and_what(request, size_bytes, limits, problems)
    check_enum(request.cache_policy, _CACHE_POLICIES, "cache_policy", problems)
    check_enum(request.substitution, _SUBSTITUTIONS, "substitution", problems)
    if request.substitution == pb.SUBSTITUTION_NEVER and request.fallback_models:
        problems.add("substitution", "forbids any other model, and fallback_models names some")
    # Where it names no model there is a choice without them.
    if request.prefer_loaded and request.model and not request.fallback_models:
        problems.add("prefer_loaded", "chooses among models, and fallback_models names none")
    if len(request.fallback_models) > _FALLBACKS_MAX:
        count = len(request.fallback_models)
        problems.add("fallback_models", f"has {count}; at most {_FALLBACKS_MAX}")
    for index, name in enumerate(request.fallback_models[:_FALLBACKS_MAX]):
        check_model(name, f"fallback_models[{index}]", problems)
    check_session(request, problems)
    if request.resume_from_seq < 0:
        problems.add("resume_from_seq", "must not be negative")
    text_bytes = 0
    given = request.WhichOneof("input")
    if given == "prompt":
        text_bytes = check_prompt(request.prompt, limits, problems)
    elif given == "chat":
        text_bytes = check_chat(request.chat, limits, problems)
    else:
        problems.add("input", "must be a prompt or a chat")
    if request.HasField("options"):
        check_options(request.options, problems)
    if request.tools:
        text_bytes += check_tools(request, limits, problems)
    check_shape(request, problems)
    check_failing(request, problems)
    return text_bytes


def check_embed(
    request: pb.EmbedRequest, size_bytes: int, limits: RequestLimits, problems: Problems
) -> int:
    """Every field of an embedding; the bytes of its texts."""
    check_who_and_what(request, size_bytes, limits, problems)
    count = len(request.inputs)
    if not 1 <= count <= limits.embed_inputs_max:
        problems.add("inputs", f"has {count} texts; 1 to {limits.embed_inputs_max}")
    for index, text in enumerate(request.inputs[: limits.embed_inputs_max]):
        problems.require(bool(text), f"inputs[{index}]", "must not be empty")
    text_bytes = sum(len(each.encode()) for each in request.inputs)
    if text_bytes > limits.prompt_bytes_max:
        problems.add("inputs", f"have {text_bytes} bytes; at most {limits.prompt_bytes_max}")
    if not 0 <= request.dimensions <= 65_536:
        problems.add("dimensions", f"is {request.dimensions}; 0 (whole) to 65536")
    return text_bytes
