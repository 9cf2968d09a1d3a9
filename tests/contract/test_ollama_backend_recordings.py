"""Every recording of the backend's endpoints, played to it byte for byte by a server of sockets.

What is expected is read from the recording by a plain oracle (ollama_recording.py); which error of
ours a refusal is stands in a table there. Each answer is cut into whole, random and single bytes on
the wire. Where a recorded request can be said with our content, what the backend sends is compared
with it too. Source of the recordings: tests/data/recorded/README.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from broker.backends.ollama import OllamaBackend
from broker.core.content import EmbedContent, Embeddings, Piece
from broker.core.errors import BackendFailed, BackendRefused, BrokerError, ModelUnknown
from broker.core.ports import ModelFacts, Resident
from tests.contract.ollama_recording import (
    CUTS,
    EMBEDS,
    ERRORS,
    FOLDER,
    INFERENCE,
    LEFT_OUT,
    LOADS,
    NAMES,
    PATIENCE_S,
    PS,
    SHOWS,
    TAGS,
    UNLOADS,
    Played,
    Recording,
    can_be_said,
    completion_of,
    content_of,
    pieces_of,
    plain_error,
    recording,
    sent_by,
)
from tests.integration.raw_http_server import document, raw_server


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
            modified_at=entry["modified_at"],
            parent=entry["details"]["parent_model"],
        )
        for entry in json.loads(recorded.body)["models"]
    )
    shown = {request.document["model"] for request in played.asked if request.method == "POST"}
    assert shown <= {model.name for model in models}
    assert len(played.asked) == 1 + len({model.digest for model in models})


def cache_bytes(info: dict[str, Any]) -> int:
    """2·layers·kv_heads·head_dim·2 bytes (OLLAMA.md §3.3); what embeds keeps none."""
    arch = info["general.architecture"]
    if arch == "bert":
        return 0
    heads = info[f"{arch}.attention.head_count"]
    head_dim = info[f"{arch}.embedding_length"] // heads
    return int(4 * info[f"{arch}.block_count"] * info[f"{arch}.attention.head_count_kv"] * head_dim)


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
    own = [
        line.split()[1] for line in answer.get("parameters", "").splitlines() if "num_ctx" in line
    ]
    assert facts == ModelFacts(
        runner=weights[-64:],
        num_ctx_default=int(own[0]) if own else 0,
        capabilities=frozenset(answer["capabilities"]),
        context_length_train=info[info["general.architecture"] + ".context_length"],
        blobs=(weights[-64:],),
        kv_bytes_per_token=cache_bytes(info),
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
            expires_unix_s=_expiry(entry["expires_at"]),
        )
        for entry in json.loads(recorded.body)["models"]
    )


def _expiry(told: str) -> float | None:
    """What is 292 years away was loaded to stay."""
    return None if told.startswith("23") else datetime.fromisoformat(told).timestamp()


def test_every_recording_of_the_endpoints_is_played_or_left_out() -> None:
    played = [*INFERENCE, *LOADS, *UNLOADS, *EMBEDS, *TAGS, *SHOWS, *PS]
    assert sorted(played) == NAMES
    # Some of these are played to nobody but the backend: a file that goes would not be missed else.
    assert len(NAMES) == 139
    index = (FOLDER / "INDEX.txt").read_text().splitlines()
    assert {f"{name} single" for name in LEFT_OUT} <= set(index)
    refused = {name for name in [*INFERENCE, *EMBEDS] if Recording(name).status not in (200, None)}
    assert refused == ERRORS.keys(), "no row of the table outlives its recording"
    sayable = [name for name in INFERENCE if can_be_said(recording(name)["request"])]
    assert len(sayable) > 50
