"""`brokerctl doctor --probe`: how many requests a model really runs at once.

The broker never sends a model more than its slots, so this can find that fewer run at once than
are configured (the first token of the later ones waits for the end of the earlier ones), and how
much faster all slots together are than one. That more than the slots might run at once it cannot
find, and says so.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from broker_client import BrokerError, Chunk, Client, Done, Model, ModelPlace
from brokerctl.figures import counted, duration_text
from brokerctl.finding import Finding, bad, good, odd
from brokerctl.model_choice import choose_model

PRIORITY: Final = 10  # whatever else comes goes first
TOKENS: Final = 48
SLOTS_MAX: Final = 32
PROBE_DEADLINE_S: Final = 120.0
# Together at least so much faster than one alone: else the slots only share what one had.
GAIN_WORTH: Final = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """When tokens came, on this machine's clock, and how many."""

    first_ns: int
    end_ns: int
    tokens: int


def probe(client: Client, name: str | None) -> list[Finding]:
    """One answer alone, then as many at once as there are slots. The first also loads the model."""
    models = client.models()
    model = client.model(name) if name is not None else choose_model(models)
    if model is None:
        return [bad("no model to probe", "get one with `ollama pull NAME` on a backend's host")]
    started_ns = time.monotonic_ns()
    try:
        ask(client, model.name, 0)  # loads it where it is not resident: not a part of the figures
        place = busiest_place(client.model(model.name))
        if place is None:
            return [odd(f"{model.name} left before it was probed", "probe again")]
        if place.running:
            return [
                odd(
                    f"{model.name} is at work, so a probe would measure that work as well",
                    "probe again when it is idle, or another one with --model",
                )
            ]
        slots = min(place.slots, SLOTS_MAX)
        alone = ask(client, model.name, 1)
        with ThreadPoolExecutor(slots) as pool:
            together = list(pool.map(lambda i: ask(client, model.name, 2 + i), range(slots)))
    except BrokerError as error:
        return [
            bad(
                f"{model.name} did not answer the probe: {error.message or error.code.name}",
                "`brokerctl queue` says what requests wait for; see the findings above",
            )
        ]
    tokens = alone.tokens + sum(each.tokens for each in together)
    took = duration_text((time.monotonic_ns() - started_ns) / 1e6)
    cost = f"(the probe took {2 + slots} requests, {counted(tokens, 'token')} and {took})"
    return [speed_finding(model.name, alone), slots_finding(model.name, alone, together, cost)]


def busiest_place(model: Model) -> ModelPlace | None:
    """Where it is resident; with several servers, the one with most slots."""
    resident = [each for each in model.places if each.state == "resident"]
    return max(resident, key=lambda each: each.slots, default=None)


def ask(client: Client, model: str, number: int) -> Answer:
    """One short answer. No prompt comes twice, so that none is answered for another, or out of
    what a model keeps of earlier ones."""
    first_ns = tokens = 0
    with client.stream(
        model=model,
        prompt=f"{secrets.token_hex(4)}: count upwards from {number}, one number to a line.",
        priority=PRIORITY,
        max_tokens=TOKENS,
        seed=number,
        deadline_s=PROBE_DEADLINE_S,
    ) as events:
        for event in events:
            if isinstance(event, Chunk):
                first_ns = first_ns or time.monotonic_ns()
            elif isinstance(event, Done):
                tokens = event.usage.output_tokens
    end_ns = time.monotonic_ns()
    return Answer(first_ns=first_ns or end_ns, end_ns=end_ns, tokens=tokens)


def most_at_once(answers: Sequence[Answer]) -> int:
    """How many gave tokens at the same time: at the middle of one of them, so that an end and a
    beginning that merely touch do not count."""
    middles = [(each.first_ns + each.end_ns) // 2 for each in answers]
    return max(
        (sum(each.first_ns <= at <= each.end_ns for each in answers) for at in middles), default=0
    )


def tokens_per_s(answers: Sequence[Answer]) -> float:
    """Of all together, from the first token of any to the last; 0 where that took no time."""
    length_ns = max(each.end_ns for each in answers) - min(each.first_ns for each in answers)
    return sum(each.tokens for each in answers) * 1e9 / length_ns if length_ns else 0.0


def speed_finding(model: str, alone: Answer) -> Finding:
    """That a token comes at all, and how fast."""
    if not alone.tokens:
        return odd(f"{model} answered without a token", "try `brokerctl generate --model` with it")
    return good(f"{model} answers, {tokens_per_s([alone]):.0f} tokens/s alone")


def slots_finding(model: str, alone: Answer, together: Sequence[Answer], cost: str) -> Finding:
    """Whether the slots are what the backend really runs at once, and whether they pay."""
    slots, at_once = len(together), most_at_once(together)
    if slots == 1:
        return good(
            f"{model} has 1 slot; whether it could run more at once is not seen from here, since "
            "the broker sends no more: raise OLLAMA_NUM_PARALLEL on the server and slots under "
            f"[[backends]] together, then probe again {cost}"
        )
    if at_once < slots:
        return odd(
            f"{model} has {slots} slots, but at most {counted(at_once, 'request')} ran at once "
            f"{cost}",
            f"set OLLAMA_NUM_PARALLEL={slots} on the server, or slots = {at_once} under "
            "[[backends]]: what waits in the backend is out of the broker's hands",
        )
    gain = tokens_per_s(together) / max(tokens_per_s([alone]), 1e-9)
    words = f"{model} runs {slots} requests at once, {gain:.1f} times as fast as one alone {cost}"
    if gain < GAIN_WORTH:
        return odd(words, "fewer slots would answer as much, each request sooner")
    return good(f"{words}; more may be possible, which only a larger slots would show")
