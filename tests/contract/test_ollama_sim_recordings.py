"""Every recorded single exchange, played to a real `ollama-sim`, gets the answer Ollama gave.

Same status, headers and their order, fields and their order, JSON types, kinds of lines, error
texts and the texts of scripted models. Not compared: moments, durations, digests, token ids, and
words where the recorded model had random weights. The recordings are in tests/data/recorded/.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.ollama_sim_process import Answer, Simulator, start_simulator

FOLDER = Path(__file__).resolve().parents[1] / "data" / "recorded"
SPEED = "40"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
HEX_64 = re.compile(r"[0-9a-f]{64}")
STAMPS = {"created_at", "modified_at", "expires_at"}
DURATIONS = {"total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}
WORDS = {"response", "content", "thinking", "token", "bytes"}
RANDOM_MODELS = {"tiny-s", "tiny-m", "tiny-l", "tiny-s-variant:v2", "broken"}
# What ps says of a runner's memory: the simulator takes compute buffers of one size for all slots.
SIZE_TOLERANCE = 0.05
CUT = "\u2026"

INDEX = dict(line.split(" ") for line in (FOLDER / "INDEX.txt").read_text().splitlines())
LEFT_OUT = tomllib.loads((FOLDER / "LEFT_OUT.toml").read_text())["single"]
SINGLE = sorted(name for name, kind in INDEX.items() if kind == "single")
PLAYED = sorted(
    name for name in SINGLE if not any(fnmatch.fnmatchcase(name, key) for key in LEFT_OUT)
)

# What was loaded before, by the name that the recording of ps shows.
LOADED: dict[str, tuple[dict[str, Any], ...]] = {
    "11_generate_unload": ({"model": "tiny-m"},),
    "11_ps_three": ({"model": "plain"}, {"model": "tiny-s"}, {"model": "tiny-m"}),
    "11_ps_after_unload": ({"model": "plain"}, {"model": "tiny-s"}),
    "11_ps_forever": ({"model": "plain"}, {"model": "tiny-s", "keep_alive": -1}),
    "18_ps_two_slots": ({"model": "uni"},),
    "20_chat_unload": ({"model": "plain"},),
    "66_cancel_mid_stream": ({"model": "tiny-l"},),
    "67_killed_mid_chat": ({"model": "tiny-m"},),
    "67_killed_mid_chat_no_stream": ({"model": "tiny-m"},),
    "67_runner_killed_mid_stream": ({"model": "tiny-m"},),
    "68_generate_while_frozen": ({"model": "tiny-m"},),
    "68_ps_while_frozen": ({"model": "tiny-l"}, {"model": "tiny-m"}),
    "68_tags_while_frozen": ({"model": "tiny-m"},),
    "68_runner_frozen": ({"model": "tiny-m"},),
}
# What was done to a process or a file before or during the exchange.
FAULTS: dict[str, dict[str, Any]] = {
    "67_killed_mid_chat": {"kind": "die_mid_stream", "after": 50},
    "67_killed_mid_chat_no_stream": {"kind": "die_mid_stream", "after": 50},
    "67_runner_killed_mid_stream": {"kind": "die_mid_stream", "after": 50},
    "68_generate_while_frozen": {"kind": "freeze", "model": "tiny-m"},
    "68_ps_while_frozen": {"kind": "freeze", "model": "tiny-m"},
    "68_tags_while_frozen": {"kind": "freeze", "model": "tiny-m"},
    "68_runner_frozen": {"kind": "freeze", "after": 64},
    "69_load_truncated_blob": {
        "kind": "fail_load",
        "model": "tiny-s",
        "text": 'tensor "blk.0.attn_output.weight" offset+size (1606976) '
        "exceeds file size (1377952)",
    },
}
# The model with the same fault in its file, where the recordings damaged one file after another.
MODEL_INSTEAD = {"69_load_corrupt_blob": "torn", "69_load_truncated_blob": "tiny-s"}
# Where the number of tokens follows from random words too.
RANDOM_COUNTS = {"10_generate_format_json", "10_generate_format_schema"}
# Streams that were left or lost; the chunks that came before are compared.
INTERRUPTED = {
    "16_num_predict_0_endless",
    "66_cancel_mid_stream",
    "68_generate_while_frozen",
    "68_runner_frozen",
}


def recording(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


def restored(name: str, body: Any) -> Any:
    """The body with what the recording cut out put back."""
    match name:
        case "15_chat_history_truncated":
            users = [{"role": "user", "content": f"{n} " + "abc " * 50} for n in range(20)]
            last = {"role": "user", "content": "now"}
            return {**body, "messages": [body["messages"][0], *users, last]}
        case "15_embeddings_too_long":
            return {**body, "prompt": "a " * 900}
        case "15_no_shift_prompt_too_long" | "15_stream_error_before_first_token":
            return {**body, "prompt": "abc " * 1500}
        case "84_prompt_of_1_mb":
            return {**body, "prompt": "abc " * 250_000}
        case "84_prompt_of_8_mb" | "84_prompt_of_8_mb_no_truncate":
            return {**body, "prompt": "abc " * 2_000_000}
    assert CUT not in json.dumps(body, ensure_ascii=False), name
    return {**body, "model": MODEL_INSTEAD[name]} if name in MODEL_INSTEAD else body


def mended(name: str, text: str) -> str:
    """A recorded answer with its cut closed, so that it is JSON again."""
    if CUT not in text:
        return text
    if name == "03_show_verbose":
        # Cut from within the tokens into the tensors, which are those of `plain` but for the
        # size of the vocabulary.
        like = recording("03_show")["response"]["chunks"][0][1].replace("267]", "264]")
        tensors = like[like.index('"tensors":') : like.index("ttn_output.weight")]
        before, _, after = text.partition(CUT)
        return f'{before}"],"tokenizer.ggml.unknown_token_id":0}},{tensors}{after}'
    return re.sub(r"[0-9]*\u2026[0-9]*", "0", text)


def raw_body(name: str, body: Any) -> bytes | None:
    if body is None:
        return None
    if isinstance(body, dict) and list(body) == ["raw"]:
        return str(body["raw"]).encode()
    return json.dumps(restored(name, body)).encode()


class Comparison:
    """Collects where an answer differs from the recorded one."""

    def __init__(self, name: str, model: str) -> None:
        self._random = model in RANDOM_MODELS
        self._random_counts = name in RANDOM_COUNTS
        self._is_estimate = "_ps_" in name
        self.differences: list[str] = []

    def differ(self, path: str, expected: object, actual: object) -> None:
        self.differences.append(f"{path}: {expected!r:.200} became {actual!r:.200}")

    def same(self, path: str, expected: Any, actual: Any, key: str = "") -> None:
        if key == "size" and self._is_estimate:
            if abs(expected - actual) > SIZE_TOLERANCE * expected:
                self.differ(path, expected, actual)
        elif self._is_masked(key):
            if not self._alike(key, expected, actual):
                self.differ(path, expected, actual)
        elif isinstance(expected, dict) and isinstance(actual, dict):
            self._same_objects(path, expected, actual)
        elif isinstance(expected, list) and isinstance(actual, list):
            if len(expected) != len(actual):
                self.differ(f"{path} length", len(expected), len(actual))
            for place, pair in enumerate(zip(expected, actual, strict=False)):
                self.same(f"{path}[{place}]", *pair)
        elif isinstance(expected, str) and isinstance(actual, str):
            if HEX_64.sub("#", expected) != HEX_64.sub("#", actual):
                self.differ(path, expected, actual)
        elif type(expected) is not type(actual) or expected != actual:
            self.differ(path, expected, actual)

    def _same_objects(self, path: str, expected: dict[str, Any], actual: dict[str, Any]) -> None:
        if re.search(r"top_logprobs\[[1-9]", path):
            # Which other tokens a model thought of is as good as random, here too.
            expected, actual = (
                {**expected, "token": "", "bytes": []},
                {
                    **actual,
                    "token": "",
                    "bytes": [],
                },
            )
        if list(expected) != list(actual):
            self.differ(f"{path} keys", list(expected), list(actual))
            return
        for key, value in expected.items():
            self.same(f"{path}.{key}", value, actual[key], key)

    def _is_masked(self, key: str) -> bool:
        if key in STAMPS | DURATIONS | {"digest", "context", "embeddings", "embedding", "id"}:
            return True
        if key == "eval_count":
            return self._random_counts
        return key.startswith("tokenizer.ggml.") or (key in WORDS and self._random)

    def _alike(self, key: str, expected: Any, actual: Any) -> object:
        """Masked values are still of the same type and form."""
        if key in STAMPS:
            return STAMP.fullmatch(expected) is not None and STAMP.fullmatch(actual) is not None
        if key in DURATIONS:
            return type(actual) is int and actual > 0
        if key == "digest":
            return HEX_64.fullmatch(actual) is not None
        if key == "id":
            form = re.compile(
                r"call_[a-z0-9]{8}" if expected[:5] == "call_" else r"[A-Za-z0-9]{32}"
            )
            return form.fullmatch(expected) is not None and form.fullmatch(actual) is not None
        if key in ("embeddings", "embedding"):
            return shape(expected) == shape(actual)
        if isinstance(expected, list):
            kinds = {type(item) for item in actual}
            return isinstance(actual, list) and kinds <= {type(item) for item in expected}
        return type(expected) is type(actual)


def shape(value: Any) -> Any:
    """A list of lists of numbers as the lengths of its parts."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [shape(item) for item in value]
    assert all(isinstance(item, float) and -1 <= item <= 1 for item in value)
    return len(value)


def environment_of(name: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(recording(name)["env"].items()))


@pytest.fixture(scope="module")
def simulators() -> Iterator[dict[Any, Simulator]]:
    """One server per environment and catalogue, started when first asked for."""
    running: dict[Any, Simulator] = {}
    yield running
    for simulator in running.values():
        simulator.stop()


@pytest.fixture
def simulator(
    request: pytest.FixtureRequest,
    simulators: dict[Any, Simulator],
    tmp_path_factory: pytest.TempPathFactory,
) -> Simulator:
    name: str = request.param
    models = "recorded"
    if name == "01_tags_empty":
        empty = tmp_path_factory.getbasetemp() / "empty.toml"
        empty.touch()
        models = str(empty)
    key = (environment_of(name), models)
    if key not in simulators:
        arguments = ("--speed", SPEED, "--models", models, "--cpu")
        simulators[key] = start_simulator(*arguments, environment=dict(key[0]))
    return simulators[key]


async def prepare(name: str, simulator: Simulator) -> None:
    await simulator.reset()
    if name == "67_after_runner_killed":
        await simulator.set_fault(kind="die_mid_stream", after=2)
        body = {"model": "tiny-m", "prompt": "go", "options": {"num_predict": 9}}
        assert (await simulator.ask("POST", "/api/generate", body)).terminated
    if name == "50_delete":
        body = {"source": "plain", "destination": "plain-copy"}
        assert (await simulator.ask("POST", "/api/copy", body)).status == 200
    if name == "18_ps_two_slots":
        body = {"model": "tiny-e", "input": ""}
        assert (await simulator.ask("POST", "/api/embed", body)).status == 200
    for load in LOADED.get(name, ()):
        answer = await simulator.ask("POST", "/api/generate", load)
        assert answer.document["done_reason"] == "load"
    if name in FAULTS:
        await simulator.set_fault(**FAULTS[name])


async def play(name: str, simulator: Simulator, wanted: Mapping[str, Any]) -> Answer:
    """The answer, or as much of it as the recording's client waited for."""
    request = recording(name)["request"]
    headers: list[tuple[str, str]] = []
    if request["method"] == "OPTIONS":
        headers = [
            ("Origin", "http://localhost:3000"),
            ("Access-Control-Request-Method", "POST"),
        ]
    body = raw_body(name, request.get("body"))
    async with simulator.connected() as connection:
        await connection.send(request["method"], request["path"], body, headers)
        if name not in INTERRUPTED:
            return await connection.read_all()
        if wanted["status"] is None:
            await silence(simulator, 4_000_000_000)
            return connection.answer
        await connection.read_head()
        chunks = 64 if name == "68_runner_frozen" else 3
        for _ in range(chunks):
            await connection.read_chunk()
        if name == "68_runner_frozen":
            more = asyncio.create_task(connection.read_chunk())
            await silence(simulator, 8_000_000_000)
            assert not more.done()
            more.cancel()
        return connection.answer


async def silence(simulator: Simulator, length_ns: int) -> None:
    """Waits until so much of the server's own time has passed."""
    begun = (await simulator.state())["now_ns"]
    for _ in range(100_000):
        if (await simulator.state())["now_ns"] - begun >= length_ns:
            return
    raise AssertionError("the server's clock does not move")


def masked_headers(headers: Any, *, varies: bool) -> list[tuple[str, str]]:
    masked = {"Date"} | ({"Content-Length"} if varies else set())
    return [(key, "#" if key in masked else value) for key, value in headers]


def recorded_chunks(name: str, wanted: Mapping[str, Any]) -> list[str]:
    """The recorded chunks, without the mark that stands for those left out."""
    return [
        mended(name, chunk[1])
        for chunk in wanted.get("chunks", ())
        if not (chunk[1].startswith(CUT) and chunk[1].endswith(CUT))
    ]


def pair_up(name: str, expected: list[str], actual: list[str]) -> list[tuple[str, str]]:
    """Chunks side by side; where the recording left some out, its last ones meet our last ones."""
    if name in INTERRUPTED:
        return list(zip(expected, actual, strict=False))
    if len(expected) == len(actual) or name not in FAULTS:
        assert len(expected) == len(actual), f"{len(expected)} chunks became {len(actual)}"
        return list(zip(expected, actual, strict=True))
    return [*zip(expected[:2], actual[:2], strict=True), (expected[-1], actual[-1])]


def by_name(document: Any) -> Any:
    """Lists of models by name: within one second their order varies (OLLAMA.md §1.6)."""
    if isinstance(document, dict) and isinstance(document.get("models"), list):
        return {**document, "models": {entry["name"]: entry for entry in document["models"]}}
    return document


def compare(name: str, wanted: Mapping[str, Any], answer: Answer) -> list[str]:
    request = recording(name)["request"]
    body = request.get("body")
    model = body.get("model", "") if isinstance(body, dict) else ""
    comparison = Comparison(name, model)
    comparison.same("status", wanted["status"], answer.status)
    expected = recorded_chunks(name, wanted)
    is_json = bool(expected) and expected[0].startswith("{")
    varies = is_json and not expected[0].startswith('{"error"')
    headers = masked_headers(wanted["headers"], varies=varies)
    actual_headers = masked_headers(answer.headers, varies=varies)
    if headers != actual_headers:
        comparison.differ("headers", headers, actual_headers)
    comparison.same("terminated", wanted.get("terminated", False), answer.terminated)
    for place, (text, actual) in enumerate(pair_up(name, expected, answer.chunks)):
        if not is_json:
            comparison.same(f"chunk {place}", text, actual)
            continue
        comparison.same(f"ends with a newline {place}", text.endswith("\n"), actual.endswith("\n"))
        one, other = by_name(json.loads(text)), by_name(json.loads(actual))
        if name in ("03_tags", "68_tags_while_frozen"):
            listed = one["models"]
            assert other["models"].keys() >= listed.keys() - {"broken:latest"}
            other["models"] = {key: other["models"].get(key) for key in listed}
        if isinstance(one.get("models"), dict):
            other["models"] = dict(sorted(other["models"].items()))
            one["models"] = dict(sorted(one["models"].items()))
        comparison.same(f"chunk {place}", one, other)
    return comparison.differences


@pytest.mark.parametrize(("name", "simulator"), [(n, n) for n in PLAYED], indirect=["simulator"])
async def test_an_exchange_is_as_recorded(name: str, simulator: Simulator) -> None:
    wanted = recording(name)["response"]
    await prepare(name, simulator)
    answer = await play(name, simulator, wanted)
    assert compare(name, wanted, answer) == []
    if name == "66_cancel_mid_stream":
        # The client has left by now: its slot comes back.
        await simulator.wait_until("active", 0)


def test_every_recording_is_played_or_left_out_with_a_reason() -> None:
    copied = {path.stem for path in FOLDER.glob("*.json")}
    assert set(PLAYED) <= copied
    assert copied <= INDEX.keys()
    for key, reason in LEFT_OUT.items():
        assert [name for name in SINGLE if fnmatch.fnmatchcase(name, key)], f"{key} matches nothing"
        assert len(reason) > 10
    assert len(PLAYED) > 120
