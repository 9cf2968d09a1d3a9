"""Recorded answers of Ollama as bytes on a wire, and what they mean by a plain oracle.

The oracle has nothing in common with the backend that is tested by it. Source of the recordings:
tests/data/recorded/README.md.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from broker.core.content import (
    Completion,
    FinishReason,
    GenerateContent,
    Message,
    Piece,
    Prompt,
    Tool,
    ToolCall,
)
from broker.core.errors import BackendFailed, BackendRefused, BrokerError, ModelUnknown
from tests.integration.raw_http_server import Peer, Request

FOLDER = Path(__file__).resolve().parents[1] / "data" / "recorded"
ENDPOINTS = {"/api/generate", "/api/chat", "/api/embed", "/api/tags", "/api/ps", "/api/show"}
PATIENCE_S = 60.0  # after which a wait is a failure; nothing is expected to come near it
SINGLE_BYTES_MAX = 3000  # longer answers are cut into single bytes here and there only

# Names that are in the index and not played here, with the reason.
LEFT_OUT: Final = {
    "12_options_cors": "a browser's question; the backend sends neither OPTIONS nor an Origin",
    "66_half_close_mid_stream": "the recording holds only the end of the answer, not the answer",
}

# What a refusal is to us. Everything else that is not a 200 would be a KeyError here.
ERRORS: Final[dict[str, type[BrokerError]]] = {
    "10_generate_format_bad": BackendRefused,
    "11_keep_alive_bad": BackendRefused,
    "12_generate_bad_json": BackendRefused,
    "12_generate_bad_option_type": BackendRefused,
    "12_generate_empty_body": BackendRefused,
    "12_generate_image_unsupported": BackendRefused,
    "12_generate_no_model": ModelUnknown,
    "12_generate_on_embedding_model": BackendRefused,
    "12_generate_prompt_too_long_no_truncate": BackendRefused,
    "12_generate_think_unsupported": BackendRefused,
    "12_generate_unknown_model": ModelUnknown,
    "12_generate_wrong_type": BackendRefused,
    "12_method_not_allowed": BackendRefused,
    "15_chat_arguments_string": BackendRefused,
    "15_chat_content_array": BackendRefused,
    "15_chat_no_model": BackendRefused,
    "15_chat_on_embedding_model": BackendRefused,
    "15_chat_one_message_too_long": BackendRefused,
    "15_chat_thinking_unsupported": BackendRefused,
    "15_chat_too_long_no_truncate_go": BackendRefused,
    "15_embed_no_model": ModelUnknown,
    "15_embed_one_bad_of_two": BackendRefused,
    "15_format_bad_stream": BackendRefused,
    "15_generate_bad_base64": BackendRefused,
    "15_generate_bad_schema": BackendRefused,
    "15_generate_bad_template": BackendFailed,
    "15_generate_cloud": BackendRefused,
    "15_generate_float_option": BackendRefused,
    "15_generate_invalid_name": BackendRefused,
    "15_generate_raw_template": BackendRefused,
    "15_generate_stop_string": BackendRefused,
    "15_generate_suffix": BackendRefused,
    "15_generate_think_level_unsupported": BackendRefused,
    "15_generate_top_logprobs": BackendRefused,
    "15_no_shift_prompt_too_long": BackendRefused,
    "15_no_shift_prompt_too_long_chat": BackendRefused,
    "15_no_shift_prompt_too_long_chat_go": BackendRefused,
    "15_stream_error_before_first_token": BackendRefused,
    "20_chat_thinking_bad": BackendRefused,
    "20_chat_tools_unsupported": BackendRefused,
    "20_chat_unknown_model": ModelUnknown,
    "30_embed_bad_type": BackendRefused,
    "30_embed_long_no_truncate": BackendRefused,
    "30_embed_on_chat_model": BackendRefused,
    "30_embed_unknown_model": ModelUnknown,
    "67_killed_mid_chat_no_stream": BackendFailed,
    "69_load_corrupt_blob": BackendFailed,
    "69_load_missing_blob": ModelUnknown,
    "69_load_truncated_blob": BackendFailed,
    "84_prompt_of_8_mb_no_truncate": BackendRefused,
}

# Where the recording cut a long answer in its middle, what mends the JSON. The cut in a list of
# numbers needs nothing; this one goes from the middle of a list of words into the next list.
MENDED: Final = {"03_show_verbose": '"]},"tensors":[{"name":"'}

# Requests without a prompt: the broker's own calls.
LOADS: Final = {"11_generate_load_only": 300, "11_keep_alive_forever": -1}
UNLOADS: Final = {"11_generate_unload", "11_unload_not_loaded"}


def recording(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


def names() -> list[str]:
    """The single exchanges of the endpoints that are in the folder."""
    found = []
    for line in (FOLDER / "INDEX.txt").read_text().splitlines():
        name, kind = line.split(" ")
        if kind == "single" and (FOLDER / f"{name}.json").exists():
            request = recording(name)["request"]
            if request["path"] in ENDPOINTS and name not in LEFT_OUT:
                found.append(name)
    return found


def endpoint(name: str) -> str:
    path: str = recording(name)["request"]["path"]
    return path


NAMES: Final = names()
INFERENCE: Final = [
    name
    for name in NAMES
    if endpoint(name) in ("/api/generate", "/api/chat") and name not in UNLOADS | LOADS.keys()
]
EMBEDS: Final = [name for name in NAMES if endpoint(name) == "/api/embed"]
TAGS: Final = [name for name in NAMES if endpoint(name) == "/api/tags"]
SHOWS: Final = [name for name in NAMES if endpoint(name) == "/api/show"]
PS: Final = [name for name in NAMES if endpoint(name) == "/api/ps"]


class Recording:
    """One recorded answer: its chunks, its bytes on the wire, and what they mean."""

    def __init__(self, name: str) -> None:
        response = recording(name)["response"]
        self.name = name
        self.status: int | None = response["status"]
        self.headers: list[tuple[str, str]] = [(key, value) for key, value in response["headers"]]
        # A chunk that begins with the mark tells of chunks that the recording cut out.
        texts = [chunk[1] for chunk in response["chunks"] if chunk[1][:1] != "…"]
        self.chunks = [text.replace("…", MENDED.get(name, "")).encode() for text in texts]
        # Nobody saw the end of these: the client went away, or lost patience.
        self.is_held = "ended_badly" in response or "closed_by_client_after" in response

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def wire(self) -> bytes:
        """The answer as it stood on the connection, without an end where none was seen."""
        if self.status is None:
            return b""
        line = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n"
        head = line + "".join(f"{key}: {value}\r\n" for key, value in self.headers) + "\r\n"
        if dict(self.headers).get("Transfer-Encoding") != "chunked":
            return head.encode() + self.body
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in self.chunks)
        return head.encode() + chunks + (b"" if self.is_held else b"0\r\n\r\n")


def cut(data: bytes, how: str) -> Iterator[bytes]:
    """The same bytes in other parts; the parts are the same each time."""
    if how == "whole":
        yield data
        return
    chance = random.Random(f"{how} {len(data)}")
    single = how == "single bytes"
    while data:
        size = 1 if single else chance.randint(1, 200)
        if single and len(data) > SINGLE_BYTES_MAX:
            size = chance.choice((1, 1, 2, 997))
        yield data[:size]
        data = data[size:]


CUTS: Final = ["whole", "random", "single bytes"]


class Played:
    """A server that answers one path with the recording, and others with what stands in `also`."""

    def __init__(self, recorded: Recording, how: str, also: dict[str, bytes] | None = None) -> None:
        self._recorded = recorded
        self._how = how
        self._also = also or {}
        self.asked: list[Request] = []
        # Of a held answer: it has been said as far as it goes; what came until the client closed.
        self.said = asyncio.Event()
        self.rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def handler(self, peer: Peer) -> None:
        while request := await peer.read_request():
            self.asked.append(request)
            if request.path in self._also:
                await peer.send(self._also[request.path])
                continue
            await peer.send_parts(cut(self._recorded.wire, self._how))
            if self._recorded.is_held:
                self.said.set()
                self.rest.set_result(await peer.wait_closed())
                return


def content_of(body: dict[str, Any], *, chat: bool) -> GenerateContent:
    """What the recorded request asks for, as far as our content can say it."""
    options = body.get("options", {})
    given = body.get("format")
    common: dict[str, Any] = {
        "options": options if isinstance(options, dict) else {},
        "format_json": None if given is None else given if given == "json" else json.dumps(given),
        "think": body.get("think"),
    }
    if chat:
        # Of a long conversation the recording may hold no more than a word on its length.
        given = body.get("messages", [])
        messages = [message_of(each) for each in given if isinstance(each, dict)]
        tools = tuple(tool_of(each["function"]) for each in body.get("tools", ()))
        return GenerateContent(input=tuple(messages), tools=tools, **common)
    images = [image for image in body.get("images", ()) if image != "%%"]
    prompt = Prompt(
        text=str(body.get("prompt", "x")),
        system=body.get("system", ""),
        suffix=body.get("suffix", ""),
        images=tuple(base64.b64decode(image) for image in images),
        raw=body.get("raw") is True,
    )
    return GenerateContent(input=prompt, **common)


def message_of(message: dict[str, Any]) -> Message:
    calls = tuple(
        ToolCall(
            call.get("id", ""),
            call["function"]["name"],
            json.dumps(call["function"].get("arguments", {})),
        )
        for call in message.get("tool_calls", ())
    )
    return Message(
        role=message["role"],
        content=str(message.get("content", "")),
        thinking=message.get("thinking", ""),
        tool_calls=calls,
        tool_name=message.get("tool_name", ""),
    )


def tool_of(function: dict[str, Any]) -> Tool:
    return Tool(
        name=function["name"],
        description=function["description"],
        parameters_json=json.dumps(function["parameters"]),
    )


# Fields that the backend never sends; a request with one of them cannot be said by it.
UNSAID: Final = {
    "template",
    "truncate",
    "shift",
    "logprobs",
    "top_logprobs",
    "keep_alive",
    "_debug_render_only",
}


def can_be_said(request: dict[str, Any]) -> bool:
    """Whether our content can hold all of it, wrong types and cut texts left aside."""
    body = request["body"]
    if not isinstance(body, dict) or "model" not in body or UNSAID & body.keys():
        return False
    well_formed = isinstance(body.get("prompt", ""), str) and "%%" not in body.get("images", ())
    messages = body.get("messages", [])
    texts = isinstance(messages, list) and all(
        isinstance(each, dict)
        and isinstance(each.get("content", ""), str)
        and all(
            isinstance(call["function"]["arguments"], dict) for call in each.get("tool_calls", ())
        )
        for each in messages
    )
    return well_formed and texts


def sent_by(body: dict[str, Any]) -> dict[str, Any]:
    """The recorded body as the backend says the same: streamed, and with what Ollama fills in."""
    wanted = json.loads(json.dumps(body)) | {"stream": True}
    for message in wanted.get("messages", ()):
        message.setdefault("content", "")
        for index, call in enumerate(message.get("tool_calls", ())):
            call["function"].setdefault("index", index)
    if wanted.get("options", {}).get("num_predict") in (0, -1):
        del wanted["options"]["num_predict"]
        if not wanted["options"]:
            del wanted["options"]
    result: dict[str, Any] = wanted
    return result


def plain_error(text: str) -> str:
    """The words of an error, out of the shapes that stand in the recordings."""
    if not text.startswith("{"):
        return text
    error = json.loads(text)["error"]
    while isinstance(error, str) and error.startswith("{"):
        error = json.loads(error)["error"]
    return str(error["message"] if isinstance(error, dict) else error)


def pieces_of(body: bytes) -> list[Piece]:
    """What is said in the lines, by a parser that has nothing in common with the backend's."""
    pieces = []
    for text in body.decode().splitlines():
        line = json.loads(text)
        said = line.get("message", line)
        calls = tuple(
            ToolCall(
                call["id"],
                call["function"]["name"],
                json.dumps(call["function"]["arguments"], separators=(",", ":")),
            )
            for call in said.get("tool_calls", ())
        )
        words = said.get("content", said.get("response", ""))
        if words or said.get("thinking") or calls:
            pieces.append(Piece(words, said.get("thinking", ""), calls))
    return pieces


def completion_of(body: bytes) -> Completion | str:
    """The end of an answer: how it ended well, or the words of the failure."""
    last = json.loads(body.decode().splitlines()[-1])
    if "error" in last:
        return plain_error(json.dumps(last))
    if not last["done"]:
        return "the answer ended without its terminator"
    reason = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}.get(last["done_reason"])
    if reason is FinishReason.STOP and any(piece.tool_calls for piece in pieces_of(body)):
        reason = FinishReason.TOOL_CALLS
    return Completion(
        finish_reason=reason or FinishReason.UNSAID,
        prompt_tokens=last.get("prompt_eval_count", 0),
        output_tokens=last.get("eval_count", 0),
        prompt_duration_ns=last.get("prompt_eval_duration", 0),
        output_duration_ns=last.get("eval_duration", 0),
        load_duration_ns=last.get("load_duration", 0),
        total_duration_ns=last.get("total_duration", 0),
    )
