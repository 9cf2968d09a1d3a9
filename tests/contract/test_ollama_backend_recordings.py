"""Every recording of the backend's endpoints, played to it byte for byte by a server of sockets.

What is expected is read from the recording by the plain oracle below; which error of ours a refusal
is stands in a table. Each answer is cut into whole, random and single bytes on the wire. Where a
recorded request can be said with our content, what the backend sends is compared with it too.
Source of the recordings: tests/data/recorded/README.md.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest

from broker.backends.ollama import OllamaBackend
from broker.core.content import (
    Completion,
    EmbedContent,
    Embeddings,
    FinishReason,
    GenerateContent,
    Message,
    Piece,
    Prompt,
    Tool,
    ToolCall,
)
from broker.core.errors import BackendFailed, BackendRefused, BrokerError, ModelUnknown
from broker.core.ports import ModelFacts, Resident
from tests.integration.raw_http_server import Peer, Request, document, raw_server

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


def assert_is_refusal(error: BrokerError, recorded: Recording, model: str) -> None:
    assert type(error) is ERRORS[recorded.name]
    if isinstance(error, ModelUnknown):
        assert error.model == model
    else:
        assert error.message == plain_error(recorded.body.decode())
        assert isinstance(error, BackendFailed | BackendRefused)
        assert error.status == recorded.status


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", INFERENCE)
async def test_a_generation_is_as_recorded(name: str, how: str) -> None:
    request, recorded = recording(name)["request"], Recording(name)
    body = request["body"] if isinstance(request["body"], dict) else {}
    # Where the recorded body is no body at all, any content brings the same answer.
    content = content_of(body, chat=request["path"] == "/api/chat")
    model = body.get("model", "m")
    played = Played(recorded, how)
    heard: list[Piece] = []
    all_heard = asyncio.Event()

    def on_pieces(pieces: Sequence[Piece]) -> None:
        assert pieces, "never an empty sequence"
        heard.extend(pieces)
        if recorded.is_held and heard == pieces_of(recorded.body):
            all_heard.set()

    async with asyncio.timeout(PATIENCE_S), raw_server(played.handler) as server:
        backend = OllamaBackend(name="one", host=server.host)
        running = asyncio.create_task(
            backend.generate(model, content, num_ctx=None, on_pieces=on_pieces)
        )
        try:
            if recorded.is_held:
                await played.said.wait()
                if recorded.chunks:
                    await all_heard.wait()
                assert not running.done()
                running.cancel()
                assert await played.rest == b""
            (outcome,) = await asyncio.gather(running, return_exceptions=True)
        finally:
            await backend.close()
    (asked,) = played.asked
    assert (asked.method, asked.path) == ("POST", request["path"])
    if can_be_said(request):
        assert asked.document == sent_by(request["body"])
    if recorded.is_held:
        assert isinstance(outcome, asyncio.CancelledError)
        assert heard == pieces_of(recorded.body)
    elif recorded.status != 200:
        assert heard == []
        assert isinstance(outcome, BrokerError)
        assert_is_refusal(outcome, recorded, model)
    else:
        assert heard == pieces_of(recorded.body)
        expected = completion_of(recorded.body)
        if isinstance(expected, str):
            assert type(outcome) is BackendFailed
            assert outcome.message == expected
        else:
            assert outcome == expected


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", [*LOADS, *UNLOADS])
async def test_a_load_or_unload_is_as_recorded(name: str, how: str) -> None:
    request, played = recording(name)["request"], Played(Recording(name), how)
    async with asyncio.timeout(PATIENCE_S), raw_server(played.handler) as server:
        backend = OllamaBackend(name="one", host=server.host)
        try:
            if name in LOADS:
                await backend.load(request["body"]["model"], num_ctx=None, keep_alive_s=LOADS[name])
            else:
                await backend.unload(request["body"]["model"])
        finally:
            await backend.close()
    (asked,) = played.asked
    assert asked.path == request["path"]
    # The recorded load leaves the time to stay to the server; ours always says it.
    keep_alive = {"keep_alive": LOADS.get(name, 0)}
    assert asked.document == {"stream": False} | keep_alive | request["body"]


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", EMBEDS)
async def test_an_embedding_is_as_recorded(name: str, how: str) -> None:
    request, recorded = recording(name)["request"], Recording(name)
    body = request["body"]
    given = body["input"]
    # An empty text stands for no text on /api/embed, unless it stands in a list.
    inputs = given if isinstance(given, list) else [given] if given else []
    model = body.get("model", "m")
    content = EmbedContent(
        inputs=tuple(str(each) for each in inputs),
        dimensions=body.get("dimensions", 0),
        refuse_too_long=body.get("truncate") is False,
    )
    played = Played(recorded, how)
    async with asyncio.timeout(PATIENCE_S), raw_server(played.handler) as server:
        backend = OllamaBackend(name="one", host=server.host)
        call = backend.embed(model, content, num_ctx=None)
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        await backend.close()
    (asked,) = played.asked
    assert (asked.method, asked.path) == ("POST", "/api/embed")
    if "model" in body and not isinstance(given, int):
        assert asked.document == body | {"input": inputs}
    if recorded.status != 200:
        assert isinstance(outcome, BrokerError)
        assert_is_refusal(outcome, recorded, model)
        return
    answer = json.loads(recorded.body)
    assert outcome == Embeddings(
        vectors=tuple(tuple(vector) for vector in answer["embeddings"]),
        prompt_tokens=answer.get("prompt_eval_count", 0),
        total_duration_ns=answer.get("total_duration", 0),
        load_duration_ns=answer.get("load_duration", 0),
    )


async def models_of(played: Played) -> tuple[ModelFacts, ...]:
    async with asyncio.timeout(PATIENCE_S), raw_server(played.handler) as server:
        backend = OllamaBackend(name="one", host=server.host)
        try:
            return await backend.models()
        finally:
            await backend.close()


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", TAGS)
async def test_a_listing_is_as_recorded(name: str, how: str) -> None:
    """No model shows more of itself, so that all facts are those of the listing."""
    recorded = Recording(name)
    played = Played(recorded, how, {"/api/show": document(500, b'{"error":"not now"}')})
    models = await models_of(played)
    assert models == tuple(
        ModelFacts(
            name=entry["name"],
            runner=entry["digest"],
            digest=entry["digest"],
            size_bytes=entry["size"],
            capabilities=frozenset(entry.get("capabilities", ())),
            parameter_size=entry["details"]["parameter_size"],
            quantization=entry["details"]["quantization_level"],
            family=entry["details"]["family"],
            context_length_train=entry["details"].get("context_length", 0),
        )
        for entry in json.loads(recorded.body)["models"]
    )
    shown = {request.document["model"] for request in played.asked if request.method == "POST"}
    assert shown <= {model.name for model in models}
    assert len(played.asked) == 1 + len({model.digest for model in models})


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", SHOWS)
async def test_a_model_shows_what_is_recorded(name: str, how: str) -> None:
    request, recorded = recording(name)["request"], Recording(name)
    model = request["body"].get("model", "m")
    entry = {"name": model, "digest": "d" * 64, "size": 7}
    tags = document(200, json.dumps({"models": [entry]}).encode())
    (facts,) = await models_of(Played(recorded, how, {"/api/tags": tags}))
    bare = {"name": model, "digest": "d" * 64, "size_bytes": 7}
    if recorded.status != 200:
        assert facts == ModelFacts(runner="d" * 64, **bare)
        return
    answer = json.loads(recorded.body)
    # The first FROM that is no comment names the weights.
    weights = answer["modelfile"].split("\nFROM ")[1].splitlines()[0]
    info = answer["model_info"]
    assert facts == ModelFacts(
        runner=weights[-64:],
        capabilities=frozenset(answer["capabilities"]),
        context_length_train=info[info["general.architecture"] + ".context_length"],
        **bare,
    )
    assert set(facts.runner) <= set("0123456789abcdef")
    assert facts.context_length_train > 0


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", PS)
async def test_the_residents_are_as_recorded(name: str, how: str) -> None:
    recorded = Recording(name)
    played = Played(recorded, how)
    async with asyncio.timeout(PATIENCE_S), raw_server(played.handler) as server:
        backend = OllamaBackend(name="one", host=server.host)
        try:
            residents = await backend.residents()
        finally:
            await backend.close()
    assert residents == tuple(
        Resident(
            name=entry["name"],
            digest=entry["digest"],
            memory_bytes=entry["size"],
            gpu_memory_bytes=entry["size_vram"],
            num_ctx=entry["context_length"],
        )
        for entry in json.loads(recorded.body)["models"]
    )


def test_every_recording_of_the_endpoints_is_played_or_left_out() -> None:
    played = [*INFERENCE, *LOADS, *UNLOADS, *EMBEDS, *TAGS, *SHOWS, *PS]
    assert sorted(played) == NAMES
    assert len(NAMES) >= 138
    index = (FOLDER / "INDEX.txt").read_text().splitlines()
    assert {f"{name} single" for name in LEFT_OUT} <= set(index)
    refused = {name for name in [*INFERENCE, *EMBEDS] if Recording(name).status not in (200, None)}
    assert refused == ERRORS.keys(), "no row of the table outlives its recording"
    sayable = [name for name in INFERENCE if can_be_said(recording(name)["request"])]
    assert len(sayable) > 50
