"""A stage for the model of an Ollama: requests at moments, signals by request, nothing real."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from broker.sim.ollama_catalogue import Capability, Catalogue, SimModel, Speed
from broker.sim.ollama_machine import MILLISECOND_NS, Quirks, ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_work import (
    CutOff,
    ExchangeId,
    Failed,
    Finished,
    HandedOver,
    RunnerOptions,
    Signal,
    SlotTaken,
    Token,
    Work,
    WorkKind,
)

EVENTS_MAX = 200_000
STEADY = Speed(prefill_tokens_per_s=1000.0, decode_tokens_per_s=100.0, batch_slowdown=0.0)


def model(name: str, **changes: Any) -> SimModel:
    """A model of 100 MB that makes a token in 10 ms and loads within one poll of 250 ms."""
    plain = SimModel(
        name=f"{name}:latest",
        blob=f"{name}-file",
        digest=f"{name}-digest",
        size_bytes=100_000_000,
        parameter_count=50_000_000,
        architecture="llama",
        layers=8,
        kv_heads=8,
        head_dim=64,
        speed=replace(STEADY, spawn_ms=50.0),
    )
    return replace(plain, **changes)


def embedder(name: str = "e") -> SimModel:
    return model(name, capabilities=frozenset({Capability.EMBEDDING}))


class Stage:
    """One server and all that it said. Moments are in ms."""

    def __init__(
        self,
        *models: SimModel,
        seed: int = 0,
        tokens: Literal["each", "first_and_last"] = "each",
        quirks: Quirks | None = None,
        **settings: Any,
    ) -> None:
        given = {"gpu": False, "context_length": 1024, "admission_ns": 0, "kill_ns": 0, **settings}
        given["quirks"] = quirks or Quirks(slot_leak_chance=0.0)
        self.catalogue = Catalogue(models or (model("a"), model("b"), model("c"), embedder()))
        self.server = OllamaModel(self.catalogue, ServerSettings(**given), seed, tokens=tokens)
        self.signals: list[Signal] = []
        self.now_ns = 0

    @property
    def now_ms(self) -> float:
        return self.now_ns / MILLISECOND_NS

    def run(self, until_ms: float | None = None) -> None:
        """Lets everything happen up to that moment, or until nothing is planned for an hour."""
        until_ns = int((3_600_000 if until_ms is None else until_ms) * MILLISECOND_NS)
        for _ in range(EVENTS_MAX):
            next_ns = self.server.next_event_ns()
            if next_ns is None or next_ns > until_ns:
                break
            self.now_ns = max(self.now_ns, next_ns)
            self.signals += self.server.advance(self.now_ns)
        else:
            raise AssertionError("the model does not come to rest")
        if until_ms is not None:
            self.now_ns = until_ns
            self.signals += self.server.advance(until_ns)

    def open(
        self, kind: WorkKind, name: str, at_ms: float | None = None, **work: Any
    ) -> ExchangeId:
        if at_ms is not None:
            self.run(at_ms)
        return self.server.open(Work(kind=kind, model=name, **work), self.now_ns)

    def generate(
        self,
        name: str,
        at_ms: float | None = None,
        *,
        tokens: int = 10,
        prompt: Iterable[int] = (1, 2, 3),
        num_ctx: int | None = None,
        **work: Any,
    ) -> ExchangeId:
        return self.open(
            WorkKind.GENERATE,
            name,
            at_ms,
            prompts=(tuple(prompt),),
            output_tokens=tokens,
            options=RunnerOptions(num_ctx=num_ctx),
            **work,
        )

    def load(self, *names: str, **work: Any) -> None:
        """Makes models resident, one after the other."""
        for name in names:
            exchange = self.open(WorkKind.LOAD, name, **work)
            for _ in range(10):
                self.run(self.now_ms + 2000.0)
                if self.finished(exchange):
                    break
            else:
                raise AssertionError(f"{name} does not load")

    def unload(self, name: str, at_ms: float | None = None) -> ExchangeId:
        return self.open(WorkKind.UNLOAD, name, at_ms, keep_alive_ns=0)

    def close(self, exchange: ExchangeId, at_ms: float | None = None, **how: Any) -> None:
        if at_ms is not None:
            self.run(at_ms)
        self.server.close(exchange, self.now_ns, **how)

    # -- what was said -------------------------------------------------------------------------

    def of(self, exchange: ExchangeId) -> list[Signal]:
        return [signal for signal in self.signals if signal.exchange == exchange]

    def finished(self, exchange: ExchangeId) -> Finished | None:
        return next((s for s in self.of(exchange) if isinstance(s, Finished)), None)

    def failed(self, exchange: ExchangeId) -> tuple[int, str] | None:
        found = next((s for s in self.of(exchange) if isinstance(s, Failed)), None)
        return None if found is None else (found.status, found.text)

    def cut_off(self, exchange: ExchangeId) -> bool:
        return any(isinstance(signal, CutOff) for signal in self.of(exchange))

    def handed_over_ms(self, exchange: ExchangeId) -> float | None:
        return self._first_ms(exchange, HandedOver)

    def slot_ms(self, exchange: ExchangeId) -> float | None:
        return self._first_ms(exchange, SlotTaken)

    def end_ms(self, exchange: ExchangeId) -> float | None:
        return self._first_ms(exchange, Finished)

    def end_in_order(self, *exchanges: ExchangeId) -> bool:
        """Whether all of them ended well, none before one that is named earlier."""
        ends = [end_ms for end_ms in map(self.end_ms, exchanges) if end_ms is not None]
        return len(ends) == len(exchanges) and ends == sorted(ends)

    def tokens_ms(self, exchange: ExchangeId) -> list[float]:
        return [s.at_ns / MILLISECOND_NS for s in self.of(exchange) if isinstance(s, Token)]

    def _first_ms(self, exchange: ExchangeId, kind: type[Signal]) -> float | None:
        found = next((s for s in self.of(exchange) if isinstance(s, kind)), None)
        return None if found is None else found.at_ns / MILLISECOND_NS

    def resident(self) -> list[str]:
        rows = self.server.ps(self.now_ns)
        assert not isinstance(rows, int)
        return sorted(row.name.removesuffix(":latest") for row in rows)
