"""A backend whose every step a test decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from broker.core.content import (
    Completion,
    EmbedContent,
    Embeddings,
    FinishReason,
    GenerateContent,
    Piece,
)
from broker.core.errors import BrokerError, ModelUnknown
from broker.core.ports import ModelFacts, PullProgress, PullStep, Resident

OnPieces = Callable[[Sequence[Piece]], None]


@dataclass(eq=False)
class FakeCall:
    """One generation under way. `ended` is set when the call has returned, however it did."""

    model: str
    content: GenerateContent
    num_ctx: int | None
    on_pieces: OnPieces
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    aborted: bool = False
    _verdict: asyncio.Future[Completion] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def say(self, *words: str) -> None:
        self.on_pieces([Piece(word) for word in words])

    def complete(self) -> None:
        completion = Completion(finish_reason=FinishReason.STOP, prompt_tokens=3, output_tokens=2)
        self._verdict.set_result(completion)

    def fail(self, error: BrokerError) -> None:
        self._verdict.set_exception(error)


@dataclass(eq=False)
class FakePull:
    """One download under way."""

    model: str
    on_progress: Callable[[PullProgress], None]
    found: int | None = None  # what was there when it began
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    aborted: bool = False
    verdict: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def say(self, completed: int, total: int, step: PullStep = PullStep.PULLING) -> None:
        self.found = completed if self.found is None else self.found
        self.on_progress(
            PullProgress(
                step=step,
                completed_bytes=completed,
                total_bytes=total,
                fetched_bytes=completed - self.found,
            )
        )

    def complete(self) -> None:
        self.verdict.set_result(None)

    def fail(self, error: BrokerError) -> None:
        self.verdict.set_exception(error)


def facts_of(model: str) -> ModelFacts:
    """What the fake says of each of its models."""
    return ModelFacts(
        name=model,
        runner=f"blob-{model}",
        digest=f"digest-{model}",
        size_bytes=1000,
        capabilities=frozenset({"completion"}),
    )


class FakeBackend:
    """Holds models on disk, loads and unloads them at once, and keeps every call for the test."""

    kind = "fake"
    url = "fake://"
    keeps_models = False

    def __init__(self, *models: str, name: str = "b") -> None:
        self.name = name
        self.facts = tuple(facts_of(each) for each in models)
        self.listings = 0  # how often it was asked for its models
        self.problem: BrokerError | None = None
        self.load_problem: BrokerError | None = None
        self.loaded: dict[str, int] = {}
        self.loads: list[str] = []
        self.hanging: set[str] = set()  # models whose loads only end when their call is closed
        self.hung: asyncio.Queue[str] = asyncio.Queue()
        self.story: list[str] = []  # hung loads that were closed, and unloads, in their order
        self.unloads: list[str] = []
        self.calls: asyncio.Queue[FakeCall] = asyncio.Queue()
        self.pulls: asyncio.Queue[FakePull] = asyncio.Queue()
        self.closed = False

    def _answer(self) -> None:
        if self.problem is not None:
            raise self.problem

    async def version(self) -> str:
        self._answer()
        return "1.2.3"

    async def models(self) -> tuple[ModelFacts, ...]:
        self.listings += 1
        self._answer()
        return self.facts

    async def residents(self) -> tuple[Resident, ...]:
        self._answer()
        return tuple(
            Resident(
                name=name,
                digest=f"digest-{name}",
                memory_bytes=1200,
                gpu_memory_bytes=1200,
                num_ctx=num_ctx,
            )
            for name, num_ctx in self.loaded.items()
        )

    async def generate(
        self, model: str, content: GenerateContent, *, num_ctx: int | None, on_pieces: OnPieces
    ) -> Completion:
        self._answer()
        call = FakeCall(model, content, num_ctx, on_pieces)
        self.calls.put_nowait(call)
        try:
            return await call._verdict
        except asyncio.CancelledError:
            call.aborted = True
            raise
        finally:
            call.ended.set()

    async def embed(self, model: str, content: EmbedContent, *, num_ctx: int | None) -> Embeddings:
        self._answer()
        vectors = tuple((float(len(each)), 1.0) for each in content.inputs)
        return Embeddings(vectors=vectors, prompt_tokens=len(content.inputs))

    async def load(self, model: str, *, num_ctx: int | None, keep_alive_s: int) -> None:
        self._answer()
        if self.load_problem is not None:
            raise self.load_problem
        self.loads.append(model)
        if model in self.hanging:
            self.hung.put_nowait(model)
            try:
                await asyncio.Event().wait()
            finally:
                self.story.append(f"{model} closed")
        self.loaded[model] = num_ctx or 4096

    async def unload(self, model: str) -> None:
        self._answer()
        self.unloads.append(model)
        self.story.append(f"{model} unloaded")
        self.loaded.pop(model, None)

    async def pull(self, model: str, on_progress: Callable[[PullProgress], None]) -> None:
        self._answer()
        pull = FakePull(model, on_progress)
        self.pulls.put_nowait(pull)
        try:
            await pull.verdict
        except asyncio.CancelledError:
            pull.aborted = True
            raise
        finally:
            pull.ended.set()
        if all(each.name != model for each in self.facts):
            self.facts = (*self.facts, facts_of(model))

    async def delete(self, model: str) -> None:
        self._answer()
        if all(each.name != model for each in self.facts):
            raise ModelUnknown(model, ())
        self.story.append(f"{model} deleted")
        self.facts = tuple(each for each in self.facts if each.name != model)

    async def close(self) -> None:
        self.closed = True
