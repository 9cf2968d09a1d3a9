"""A catalogue for the picker, as the wire says it, and a broker that tells what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Unpack

import grpc

from broker_client import BrokerError, Model, ModelList, ModelUnknown, Pull, Wanted
from broker_client.catalogue import model_list_of, model_of
from broker_client.errors import ErrorDetails
from broker_client.pb.broker.v1 import models_pb2 as pb
from brokerctl.models_pick_filter import PickFilter

GB = 10**9


def place(backend: str, state: pb.ModelState.ValueType) -> pb.ModelPlace:
    if state in (pb.MODEL_STATE_ABSENT, pb.MODEL_STATE_UNKNOWN):
        return pb.ModelPlace(backend=backend, state=state, slots=2)
    return pb.ModelPlace(
        backend=backend,
        state=state,
        slots=2,
        running=1,
        num_ctx=8192,
        memory_bytes=6 * GB,
        gpu_memory_bytes=6 * GB,
        managed=True,
    )


def message(name: str, size_gb: float = 0, *can: str, **more: object) -> pb.Model:
    """One model. Its size in words is as the broker would write it."""
    downloaded = bool(more.get("places"))
    size_text = f"{size_gb:.1f} GB" if size_gb else ""
    status = "✓ Downloaded" if downloaded else "⬇ Downloadable"
    fields: dict[str, object] = {"family": name.split(":")[0], **more}
    return pb.Model(
        name=name,
        base=name.split(":")[0],
        capabilities=can or ("completion",),
        size_bytes=round(size_gb * GB),
        size_text=size_text,
        downloaded=downloaded,
        status_text=f"{status} ({size_text})" if size_text else status,
        **fields,  # type: ignore[arg-type]  # The message itself checks them.
    )


ON_DISK = (place("gpu-1", pb.MODEL_STATE_ABSENT),)
RESIDENT = (place("gpu-1", pb.MODEL_STATE_RESIDENT), place("gpu-2", pb.MODEL_STATE_ABSENT))


def shelf() -> list[pb.Model]:
    """A few of each kind, by name."""
    need = pb.MemoryNeed
    return [
        message(
            *("gemma3:4b", 3.3, "completion", "vision"),
            context_length_train=131_072,
            places=(place("gpu-2", pb.MODEL_STATE_LOADING),),
            use=pb.ModelUse(requests=12, output_tokens=3_000, loads=2, idle_ms=90_000),
        ),
        message(
            *("llama3.1:8b", 4.9, "completion", "tools"),
            context_length_train=131_072,
            parameter_size="8.0B",
            quantization="Q4_K_M",
            places=RESIDENT,
            memory=(
                need(num_ctx=8192, bytes=6 * GB, measured=True),
                need(num_ctx=32768, bytes=9 * GB),
            ),
            fits=True,
            use=pb.ModelUse(requests=18_250, output_tokens=4_500_000, loads=31, idle_ms=2_000),
            description="Meta's model for dialogue, in many languages.",
            aliases=("fast",),
        ),
        message(
            "llama3.1:70b", 42.5, "completion", "tools", fits=False, context_length_train=131_072
        ),
        message(
            *("nomic-embed-text:latest", 0.3, "embedding"),
            context_length_train=2048,
            places=ON_DISK,
            use=pb.ModelUse(requests=950, loads=5, idle_ms=60_000),
        ),
        message(
            *("qwen3:8b", 5.2, "completion", "tools", "thinking"),
            context_length_train=40_960,
            places=ON_DISK,
            memory=(need(num_ctx=4096, bytes=6 * GB),),
        ),
        message("tinyllama:latest", 0.6, context_length_train=2048, places=ON_DISK),
    ]


def listed(
    messages: Sequence[pb.Model], *, at_ms: int = 1, total: int | None = None, **more: object
) -> ModelList:
    """What a watch tells."""
    return model_list_of(
        pb.ListResponse(
            models=messages,
            changed_unix_ms=at_ms,
            total=len(messages) if total is None else total,
            **more,  # type: ignore[arg-type]  # The message itself checks them.
        )
    )


class FakeCatalogue:
    """A client of a broker that lists what is on its shelf, filtered as a broker would; what is put
    into `news` is told by the watch that is open then."""

    address = "here:1"

    def __init__(self, messages: Sequence[pb.Model]) -> None:
        self.shelf = list(messages)
        self.at_ms = 1
        self.total: int | None = None
        self.news: asyncio.Queue[ModelList | BrokerError] = asyncio.Queue()
        self.asked: list[PickFilter] = []
        self.asked_for: list[str] = []
        self.is_closed = False
        self.is_silent = False
        self.told = 0
        self.pulls: asyncio.Queue[Pull | BrokerError | None] = asyncio.Queue()
        self.pulled: list[str] = []

    def list_for(self, asked: PickFilter) -> ModelList:
        kept = [each for each in self.shelf if asked.holds_for(model_of(each))]
        return listed(kept, at_ms=self.at_ms, total=self.total)

    async def watch_models(
        self, *, page_size: int, **wanted: Unpack[Wanted]
    ) -> AsyncGenerator[ModelList, None]:
        asked = PickFilter.of(Wanted(**wanted))
        self.asked.append(asked)
        if not self.is_silent:
            self.told += 1
            yield self.list_for(asked)
        while True:
            told = await self.news.get()
            if isinstance(told, BrokerError):
                raise told
            self.told += 1
            yield told

    async def model(self, name: str) -> Model:
        self.asked_for.append(name)
        for each in self.shelf:
            if each.name in (name, f"{name}:latest"):
                return model_of(each)
        raise ModelUnknown(ErrorDetails(code=grpc.StatusCode.NOT_FOUND, message="who?"))

    async def pull(self, name: str) -> AsyncGenerator[Pull, None]:
        """What is put into `pulls`, until None."""
        self.pulled.append(name)
        while (told := await self.pulls.get()) is not None:
            if isinstance(told, BrokerError):
                raise told
            yield told

    async def close(self) -> None:
        self.is_closed = True

    async def change(self, messages: Sequence[pb.Model]) -> None:
        """What is on the shelf from now on, told to the watch that is open."""
        self.shelf = list(messages)
        self.at_ms += 1
        await self.news.put(self.list_for(self.asked[-1]))
