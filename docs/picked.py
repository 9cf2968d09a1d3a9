"""`python -m docs.picked` draws the picker of models as docs/models.md shows it.

What is drawn is the picker itself, at 80 columns, before a client that lists a few models. A test
compares the page with a fresh drawing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final, Unpack

from broker_client import Model, ModelList, Pull, Wanted
from broker_client.catalogue import model_list_of
from broker_client.pb.broker.v1 import models_pb2 as pb
from brokerctl.models_pick_filter import PickFilter
from brokerctl.models_pick_screen import Picker

PAGE: Final = Path(__file__).with_name("models.md")
SIZE: Final = (80, 24)
# What was done before it was drawn.
KEYS: Final = ("space", *(["down"] * 5), "space", "up", "up")
_BLOCK: Final = re.compile(r"(?<=<!-- python -m docs\.picked -->\n```\n).*?(?=^```$)", re.M | re.S)
_GB: Final = 10**9


def _place(backend: str, state: pb.ModelState.ValueType, memory_gb: float = 0) -> pb.ModelPlace:
    memory_bytes = round(memory_gb * _GB)
    return pb.ModelPlace(
        backend=backend,
        state=state,
        slots=4,
        running=2 if memory_gb else 0,
        num_ctx=8192 if memory_gb else 0,
        memory_bytes=memory_bytes,
        gpu_memory_bytes=memory_bytes,
        managed=True,
    )


def _model(name: str, size_gb: float, can: str, context: int, **more: object) -> pb.Model:
    status = "✓ Downloaded" if "places" in more else "⬇ Downloadable"
    return pb.Model(
        name=name,
        capabilities=can.split(),
        size_bytes=round(size_gb * _GB),
        size_text=f"{size_gb} GB",
        status_text=f"{status} ({size_gb} GB)",
        downloaded="places" in more,
        context_length_train=context,
        **more,  # type: ignore[arg-type]  # The message itself checks them.
    )


def _catalogue() -> ModelList:
    absent, resident = pb.MODEL_STATE_ABSENT, pb.MODEL_STATE_RESIDENT
    use, need = pb.ModelUse, pb.MemoryNeed
    models = [
        _model(
            *("gemma3:4b", 3.3, "completion vision", 131_072),
            places=[_place("gpu-2", pb.MODEL_STATE_LOADING, 4.4)],
            use=use(requests=212),
        ),
        _model("gpt-oss:20b", 13.8, "completion tools thinking", 131_072, fits=True),
        _model("llama3.1:70b", 42.5, "completion tools", 131_072, fits=False),
        _model(
            *("llama3.1:8b", 4.9, "completion tools", 131_072),
            places=[_place("gpu-1", resident, 6.4), _place("gpu-2", absent)],
            family="llama",
            parameter_size="8.0B",
            quantization="Q4_K_M",
            memory=[
                need(num_ctx=8192, bytes=6_400_000_000, measured=True),
                need(num_ctx=32768, bytes=9_600_000_000),
            ],
            fits=True,
            use=use(requests=18_250, output_tokens=4_512_007, loads=31, idle_ms=2_000),
            aliases=["fast"],
            description="Meta's model for dialogue in many languages.",
        ),
        _model(
            *("nomic-embed-text:latest", 0.3, "embedding", 2048),
            places=[_place("gpu-2", resident, 0.6)],
            use=use(requests=91_400),
        ),
        _model(
            *("qwen3:8b", 5.2, "completion tools thinking", 40_960),
            places=[_place("gpu-1", absent), _place("gpu-2", absent)],
            use=use(requests=950),
        ),
        _model(
            *("tinyllama:latest", 0.6, "completion", 2048),
            places=[_place("gpu-1", absent)],
        ),
    ]
    return model_list_of(pb.ListResponse(models=models, total=len(models), changed_unix_ms=1))


class _Shelf:
    """A client that lists the same at all times."""

    address = "127.0.0.1:50434"

    async def watch_models(
        self, *, page_size: int, **wanted: Unpack[Wanted]
    ) -> AsyncGenerator[ModelList, None]:
        yield _catalogue()
        await asyncio.Event().wait()

    async def model(self, name: str) -> Model:
        return next(each for each in _catalogue().models if each.name == name)

    async def pull(self, name: str) -> AsyncGenerator[Pull, None]:
        raise NotImplementedError("nothing is downloaded while it is drawn")
        yield

    async def close(self) -> None:
        """There is no connection."""


async def drawn() -> str:
    """The screen, line by line."""
    app = Picker(_Shelf, asked=PickFilter(availability="all"))
    async with app.run_test(size=SIZE) as pilot:
        while not app.is_answered:
            await pilot.pause()
        await pilot.press(*KEYS)
        await pilot.pause()
        lines = [each.text.rstrip() for each in app.screen._compositor.render_strips()]
        await pilot.press("q")
    return "\n".join(lines) + "\n"


def renewed(page: str, screen: str) -> str:
    """The page with the screen as it is now."""
    return _BLOCK.sub(lambda _: screen, page)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(), asyncio.run(drawn())))
