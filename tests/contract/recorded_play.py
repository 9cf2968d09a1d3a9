"""Plays a recording of several requests to the model of an Ollama on a virtual clock.

Rules: bodies go the way they go in `ollama-sim` (read, planned, spoken), without sockets; moments
are those of the recording, counted from when everything that was loaded before is loaded again.
What the recording did to processes, names and clients is done here. Nothing is compared here.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from broker.sim.ollama_asked import Asked, Refusal
from broker.sim.ollama_catalogue import Catalogue, recorded_catalogue
from broker.sim.ollama_environment import duration_ns_of, unsigned_of
from broker.sim.ollama_exchange import Exchange
from broker.sim.ollama_log import LogKind
from broker.sim.ollama_machine import MILLISECOND_NS, SECOND_NS, Quirks, ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_plan import plan
from broker.sim.ollama_requests import read_chat, read_embed, read_embeddings, read_generate
from broker.sim.ollama_resident import PsRow
from broker.sim.ollama_work import ExchangeId, Finished, RunnerOptions, Work, WorkKind

FOLDER = Path(__file__).resolve().parents[1] / "data" / "recorded"
READERS = {
    "/api/generate": read_generate,
    "/api/chat": read_chat,
    "/api/embed": read_embed,
    "/api/embeddings": read_embeddings,
    # The scheduler sees no difference between Ollama's own API and the others.
    "/v1/chat/completions": read_chat,
    "/v1/messages": read_chat,
    "/v1/responses": read_chat,
    "/v1/embeddings": read_embed,
}
STEPS_MAX = 200_000


def recording(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


def settings_of(environment: dict[str, str]) -> ServerSettings:
    """What the recorded server was started with. No slot is lost by chance: that is a test's."""
    return ServerSettings(
        num_parallel=unsigned_of(environment, "OLLAMA_NUM_PARALLEL", 1),
        max_loaded_models=unsigned_of(environment, "OLLAMA_MAX_LOADED_MODELS", 0),
        max_queue=unsigned_of(environment, "OLLAMA_MAX_QUEUE", 512),
        keep_alive_ns=duration_ns_of(environment, "OLLAMA_KEEP_ALIVE", 300 * SECOND_NS),
        context_length=unsigned_of(environment, "OLLAMA_CONTEXT_LENGTH", 0),
        load_timeout_ns=duration_ns_of(environment, "OLLAMA_LOAD_TIMEOUT", 300 * SECOND_NS),
        gpu=False,
        memory_bytes=16_000_000_000,
        quirks=Quirks(slot_leak_chance=0.0),
    )


def loading_within(catalogue: Catalogue, load_ms: dict[str, float]) -> Catalogue:
    """The same models, some of which take this long to load: a recording's disk was colder, or
    its two cores busier, than in the others."""
    for name, length_ms in load_ms.items():
        model = catalogue.find(name)
        assert model is not None
        speed = replace(
            model.speed, spawn_ms=length_ms, load_bytes_per_s=1e15, load_cached_bytes_per_s=1e15
        )
        catalogue.put(replace(model, speed=speed))
    return catalogue


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one request; moments in ms since it was sent, None for never."""

    label: str
    sent_at_ms: float = 0.0
    status: int | None = None
    head_at_ms: float | None = None
    end_at_ms: float | None = None
    closed_at_ms: float | None = None
    token_times_ms: list[float] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    @property
    def last(self) -> str:
        return self.parts[-1] if self.parts else ""

    @property
    def over_at_ms(self) -> float | None:
        """When it ended or its client left, from the beginning of the play."""
        ended_ms = self.closed_at_ms if self.end_at_ms is None else self.end_at_ms
        return None if ended_ms is None else self.sent_at_ms + ended_ms


@dataclass(slots=True, kw_only=True)
class Listing:
    """One answer of ps."""

    rows: tuple[PsRow, ...]
    at_ns: int
    answered_after_ms: float


@dataclass(slots=True, kw_only=True)
class _Live:
    exchange: Exchange
    outcome: Outcome
    sent_ns: int
    close_after_chunks: int | None
    on_end: Callable[[], None] | None


class Player:
    """One server on a timeline of its own."""

    def __init__(
        self,
        settings: ServerSettings,
        catalogue: Catalogue | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.catalogue = recorded_catalogue() if catalogue is None else catalogue
        self.settings = settings
        self.model = OllamaModel(self.catalogue, settings, seed)
        self.now_ns = 0
        self.begun_ns = 0
        self._live: dict[ExchangeId, _Live] = {}
        self._planned: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()

    # -- time ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """From here on moments are counted."""
        self.now_ns += SECOND_NS
        self.begun_ns = self.now_ns

    def starts_by(self, after_ms: float) -> int:
        """How many runner processes were started from the beginning up to that moment."""
        until_ns = self.begun_ns + int(after_ms * MILLISECOND_NS)
        return sum(
            entry.kind is LogKind.SPAWNED and self.begun_ns <= entry.at_ns <= until_ns
            for entry in self.model.ledger.entries
        )

    def at(self, after_ms: float, action: Callable[[], None]) -> None:
        self.at_ns(self.begun_ns + int(after_ms * MILLISECOND_NS), action)

    def at_ns(self, at_ns: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._planned, (max(at_ns, self.now_ns), next(self._order), action))

    def run(self, *, until_ms: float) -> None:
        """Lets everything happen up to that moment, the model before the clients."""
        until_ns = self.begun_ns + int(until_ms * MILLISECOND_NS)
        for _ in range(STEPS_MAX):
            model_ns = self.model.next_event_ns()
            planned_ns = self._planned[0][0] if self._planned else None
            moments = [moment for moment in (model_ns, planned_ns) if moment is not None]
            if not moments or min(moments) > until_ns:
                self.now_ns = until_ns
                return
            self.now_ns = min(moments)
            if model_ns == self.now_ns:
                self._hear()
            else:
                heapq.heappop(self._planned)[2]()
        raise AssertionError("the play does not come to an end")

    # -- requests ------------------------------------------------------------------------------

    def load(self, *names: str) -> None:
        """Makes models resident before the play begins."""
        for name in names:
            work = Work(kind=WorkKind.LOAD, model=name, options=RunnerOptions())
            exchange = self.model.open(work, self.now_ns)
            for _ in range(STEPS_MAX):
                next_ns = self.model.next_event_ns()
                assert next_ns is not None, name
                self.now_ns = max(self.now_ns, next_ns)
                signals = self.model.advance(self.now_ns)
                if any(s.exchange == exchange and isinstance(s, Finished) for s in signals):
                    break

    def send(
        self,
        request: dict[str, Any],
        *,
        on_end: Callable[[], None] | None = None,
    ) -> Outcome:
        """Sends a recorded request now."""
        outcome = Outcome(label=str(request.get("label", "")))
        outcome.sent_at_ms = (self.now_ns - self.begun_ns) / MILLISECOND_NS
        client = request.get("client") or {}
        try:
            asked = read(request, self.catalogue)
        except Refusal as refusal:
            self._refuse(outcome, refusal, on_end)
            return outcome
        exchange = Exchange(
            asked,
            plan(asked, self.settings, 0),
            fault=None,
            wall_ns=lambda at_ns: at_ns,
            strike=_no_faults,
            server_seed=0,
        )
        identity = self.model.open(exchange.plan.work, self.now_ns)
        self._live[identity] = _Live(
            exchange=exchange,
            outcome=outcome,
            sent_ns=self.now_ns,
            close_after_chunks=client.get("close_after_chunks"),
            on_end=on_end,
        )
        patience_s = client.get("close_after_s", client.get("timeout"))
        if patience_s is not None:
            self.at_ns(self.now_ns + int(patience_s * SECOND_NS), lambda: self.close(identity))
        return outcome

    def close(self, identity: ExchangeId, *, body_unfinished: bool = False) -> None:
        live = self._live.pop(identity, None)
        if live is None:
            return
        live.outcome.closed_at_ms = (self.now_ns - live.sent_ns) / MILLISECOND_NS
        self.model.close(identity, self.now_ns, body_unfinished=body_unfinished)

    def identity_of(self, outcome: Outcome) -> ExchangeId:
        return next(i for i, live in self._live.items() if live.outcome is outcome)

    def ask_ps(self, listings: list[Listing], asked_ns: int | None = None) -> None:
        """Asks what is resident, again and again for as long as the answer hangs."""
        asked_ns = self.now_ns if asked_ns is None else asked_ns
        rows = self.model.ps(self.now_ns)
        if isinstance(rows, int):
            self.at_ns(rows, lambda: self.ask_ps(listings, asked_ns))
            return
        after_ms = (self.now_ns - asked_ns) / MILLISECOND_NS
        listings.append(Listing(rows=rows, at_ns=self.now_ns, answered_after_ms=after_ms))

    def _refuse(
        self, outcome: Outcome, refusal: Refusal, on_end: Callable[[], None] | None
    ) -> None:
        outcome.status = refusal.status
        outcome.head_at_ms = outcome.end_at_ms = 0.0
        outcome.parts.append(refusal.body.decode())
        if on_end is not None:
            on_end()

    def _hear(self) -> None:
        for signal in self.model.advance(self.now_ns):
            live = self._live.get(signal.exchange)
            if live is None:
                continue
            live.exchange.on(signal)
            self._note(signal.exchange, live)

    def _note(self, identity: ExchangeId, live: _Live) -> None:
        outcome, exchange = live.outcome, live.exchange
        since_ms = (self.now_ns - live.sent_ns) / MILLISECOND_NS
        if exchange.head is not None and outcome.head_at_ms is None:
            outcome.status, outcome.head_at_ms = exchange.head.status, since_ms
        fresh = exchange.out[len(outcome.parts) :]
        outcome.parts += [part.decode() for part in fresh]
        outcome.token_times_ms += [outcome.sent_at_ms + since_ms] * len(fresh)
        if exchange.is_over:
            outcome.end_at_ms = since_ms
            del self._live[identity]
            if live.on_end is not None:
                live.on_end()
        elif live.close_after_chunks and len(outcome.parts) >= live.close_after_chunks:
            self.close(identity)


def restored(request: dict[str, Any]) -> dict[str, Any]:
    """The request with what the recording cut out put back."""
    body = request["body"]
    if not isinstance(body, dict):
        return request
    body = dict(body)
    prompt = body.get("prompt")
    if isinstance(prompt, str) and "\u2026" in prompt:
        length = int(re.sub(r"\D", "", prompt.partition("\u2026")[2]))
        body["prompt"] = "abc " * length if "words" in prompt else ("abc " * length)[:length]
    if isinstance(body.get("input"), list) and "\u2026" in body["input"][-1]:
        body["input"] = [body["input"][0]] * int(re.sub(r"\D", "", body["input"][-1]))
    if isinstance(body.get("messages"), list) and "\u2026" in str(body["messages"][-1]):
        body["messages"] = history(int(re.sub(r"\D", "", body["messages"][-1])))
    return {**request, "body": body}


def history(messages: int) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": "abc " * 40} for n in range(messages)]


def _no_faults(_fault: object) -> None:
    raise AssertionError("no fault was planned")


def read(request: dict[str, Any], catalogue: Catalogue) -> Asked:
    """The request as the server reads it; raises Refusal."""
    path = request.get("path", "/api/generate")
    body = dict(request["body"])
    if path.startswith("/v1/"):
        body.setdefault("stream", False)
    if path == "/v1/chat/completions" and "max_tokens" in body:
        body["options"] = {"num_predict": body["max_tokens"]}
    if path == "/v1/responses":
        body["messages"] = [{"role": "user", "content": body.pop("input")}]
    return READERS[path](json.dumps(body).encode(), catalogue)


def _send_into(player: Player, request: dict[str, Any], outcomes: list[Outcome]) -> None:
    outcomes.append(player.send(request))


def play_side_by_side(
    player: Player, requests: Iterable[dict[str, Any]], recorded: list[dict[str, Any]]
) -> list[Outcome]:
    """Sends each request at its recorded moment; the outcomes fill as the play runs."""
    outcomes: list[Outcome] = []
    for request, wanted in zip(requests, recorded, strict=True):
        player.at(wanted["sent_at_ms"], partial(_send_into, player, request, outcomes))
    return outcomes


def play_in_turn(
    player: Player,
    requests: list[dict[str, Any]],
    recorded: list[dict[str, Any]],
    after_each: Callable[[int], None],
) -> list[Outcome]:
    """Sends each request as long after the end of the one before as in the recording."""
    outcomes: list[Outcome] = []

    def turn(place: int) -> None:
        def ended() -> None:
            after_each(place)
            if place + 1 < len(requests):
                done, following = recorded[place], recorded[place + 1]
                gap_ms = following["sent_at_ms"] - done["sent_at_ms"] - done["end_at_ms"]
                player.at_ns(player.now_ns + int(gap_ms * MILLISECOND_NS), lambda: turn(place + 1))

        outcomes.append(player.send(requests[place], on_end=ended))

    player.at(0.0, lambda: turn(0))
    return outcomes
