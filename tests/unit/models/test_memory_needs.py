"""What models take of memory: as backends measured it, else by their own figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from broker.backends import ollama_inventory
from broker.core.model_sizes import MemoryNeed
from broker.core.ports import ModelFacts, Resident
from broker.models.catalog import Catalog, ModelSettings
from broker.models.known import KnownModel
from broker.models.memory_needs import CONTEXTS_MAX, RUNNERS_MAX, MemoryNeeds
from broker.sim.ollama_asked import ShowAsked
from broker.sim.ollama_catalogue import recorded_catalogue
from broker.sim.ollama_inventory import show_document

GB = 10**9
RECORDED = Path(__file__).resolve().parents[2] / "data" / "recorded"

FACTS = ModelFacts(
    name="m:latest",
    runner="r",
    digest="d",
    size_bytes=5 * GB,
    context_length_train=32_768,
    kv_bytes_per_token=100_000,
)


def known(facts: ModelFacts | None = FACTS, *backends: str, size_bytes: int = 0) -> KnownModel:
    return KnownModel(
        name="m:latest",
        base="m",
        downloaded=facts is not None,
        facts=facts,
        size_bytes=size_bytes,
        runners=dict.fromkeys(backends, facts.runner) if facts else {},
    )


def held(num_ctx: int, memory_bytes: int, name: str = "m:latest") -> Resident:
    return Resident(
        name=name, digest="d", memory_bytes=memory_bytes, gpu_memory_bytes=0, num_ctx=num_ctx
    )


def by_context(needs: tuple[MemoryNeed, ...]) -> dict[int, int]:
    return {each.num_ctx: each.memory_bytes for each in needs}


def test_before_it_was_ever_held_its_figures_tell() -> None:
    catalog = Catalog({})
    catalog.learn("one", (FACTS,), slots_default=2)
    needs = catalog.memory_needs(known(FACTS, "one"))
    assert not any(each.measured for each in needs)
    assert by_context(needs) == {
        4_096: 6 * GB,
        16_384: 5 * GB + 2 * 16_384 * 100_000,
        32_768: 5 * GB + 2 * 32_768 * 100_000,
    }


def test_what_a_backend_measured_is_told_and_the_rest_follows_from_it() -> None:
    catalog = Catalog({})
    catalog.learn("one", (FACTS,), slots_default=1)
    model = known(FACTS, "one")
    assert catalog.memory_needs(model)[0].num_ctx == 4_096
    catalog.saw("one", (held(8_192, 7 * GB), held(4_096, 9 * GB, name="other:latest")))
    needs = catalog.memory_needs(model)
    # The server decides which context it has, and this is what it did.
    assert needs[0] == MemoryNeed(num_ctx=8_192, memory_bytes=7 * GB, measured=True)
    assert by_context(needs)[16_384] == 7 * GB + 8_192 * 100_000
    assert [each.measured for each in needs[1:]] == [False] * (len(needs) - 1)
    catalog.saw("one", (held(8_192, 8 * GB),))
    assert catalog.memory_needs(model)[0].memory_bytes == 8 * GB


def test_a_configured_context_is_the_usual_one() -> None:
    catalog = Catalog({"m": ModelSettings(num_ctx=16_384)})
    catalog.learn("one", (FACTS,), slots_default=1)
    catalog.saw("one", (held(8_192, 7 * GB),))
    needs = catalog.memory_needs(known(FACTS, "one"))
    assert [each.num_ctx for each in needs] == [16_384, 4_096, 8_192, 32_768]


def test_two_names_of_one_runner_are_measured_as_one() -> None:
    catalog = Catalog({})
    other = replace(FACTS, name="alias:latest", digest="e")
    catalog.learn("one", (FACTS, other), slots_default=1)
    catalog.saw("one", (held(8_192, 7 * GB, name="alias:latest"),))
    assert catalog.memory_needs(known(FACTS, "one"))[0].memory_bytes == 7 * GB


def test_of_several_backends_the_most_is_told() -> None:
    catalog = Catalog({})
    for name, memory_bytes in (("one", 7 * GB), ("two", 8 * GB)):
        catalog.learn(name, (FACTS,), slots_default=1)
        catalog.saw(name, (held(8_192, memory_bytes),))
    assert catalog.memory_needs(known(FACTS, "one", "two"))[0].memory_bytes == 8 * GB
    catalog.forget("two")
    assert catalog.memory_needs(known(FACTS, "one"))[0].memory_bytes == 7 * GB


def test_what_could_be_downloaded_is_estimated_by_its_file() -> None:
    catalog = Catalog({})
    assert catalog.memory_needs(known(None)) == ()
    assert catalog.memory_needs(known(None, size_bytes=5 * GB)) == (
        MemoryNeed(num_ctx=4_096, memory_bytes=6 * GB, measured=False),
    )


@pytest.mark.parametrize("row", [held(0, 7 * GB), held(4_096, 0)])
def test_a_figure_that_is_not_told_is_no_measurement(row: Resident) -> None:
    catalog = Catalog({})
    catalog.learn("one", (FACTS,), slots_default=1)
    catalog.saw("one", (row,))
    assert not any(each.measured for each in catalog.memory_needs(known(FACTS, "one")))


def test_only_so_much_is_remembered() -> None:
    needs = MemoryNeeds()
    for number in range(CONTEXTS_MAX + 3):
        needs.saw("one", "r", 1_000 + number, GB)
    assert list(needs.measured({"one": "r"})) == [1_003 + n for n in range(CONTEXTS_MAX)]
    for number in range(RUNNERS_MAX):
        needs.saw("one", f"r{number}", 1_000, GB)
    assert len(needs) == RUNNERS_MAX
    assert needs.measured({"one": "r"}) == {}


def recorded(name: str) -> bytes:
    answer = json.loads((RECORDED / f"{name}.json").read_text())["response"]
    return "".join(text for _, text in answer["chunks"]).encode()


def measured_of(name: str, recording: str) -> Resident:
    return next(
        each for each in ollama_inventory.residents(recorded(recording)) if each.name == name
    )


def test_a_real_server_measures_what_the_figures_say() -> None:
    """The same model with one slot and with two, as a real server told it: between them lies what
    the figures of its /api/show say of its cache."""
    one = measured_of("tiny-m:latest", "11_ps_three")
    two = measured_of("tiny-m:latest", "68_ps_while_frozen")
    assert one.num_ctx == two.num_ctx == 1_024
    model = recorded_catalogue().find("tiny-m")
    assert model is not None
    shown = ollama_inventory.shown(show_document(ShowAsked(model=model, verbose=False, system="")))
    per_token = (two.memory_bytes - one.memory_bytes) / 1_024
    assert per_token == pytest.approx(shown.kv_bytes_per_token, rel=0.02)
