"""Streams one answer: the first model that completes text, one prompt, one agent."""

import asyncio

from broker_client import AsyncClient


async def main() -> None:
    async with AsyncClient(agent_id="opus-1") as broker:
        if not (models := [each.name for each in await broker.models() if each.may_generate]):
            raise SystemExit("no model that generates text; `brokerctl doctor` says why")
        async for text in broker.text(model=models[0], prompt="Why is the sky blue?", priority=3):
            print(text, end="", flush=True)
    print()


asyncio.run(main())
