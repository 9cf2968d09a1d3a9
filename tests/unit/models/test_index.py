"""The list of models answers as a plain search through all of them would."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import islice
from random import Random

import pytest

from bench.models_data import library_models
from broker.core.errors import InvalidRequest
from broker.core.library import LibraryModel, LibraryVariant
from broker.core.usage import ModelUse
from broker.models.index import Availability, ModelIndex, ModelQuery, Order
from broker.models.known import KnownModel, base_of
from broker.models.library_rows import LibraryModels, LibraryRows, library_rows
from broker.models.slices import at_once

SIZES = (0, 100_000_000, 4_000_000_000, 4_050_000_000, 39_900_000_000, 10**15)
SEARCHES = (
    "",
    "8b",
    "llama",
    "zzz",
    "coder Q4_K",
    "1:8b",
    ":latest",
    "a model of 2024",
    "a e 1",
    "/",
)


def rows_of(models: list[LibraryModel]) -> LibraryRows:
    return at_once(library_rows(models))


def local(name: str, **more: object) -> KnownModel:
    model = KnownModel(name=name, base=base_of(name), downloaded=True)
    return replace(model, **more)  # type: ignore[arg-type]


def everything(rows: LibraryRows, backends: list[KnownModel], named: set[str]) -> list[KnownModel]:
    there = {each.key for each in backends}
    others = [
        rows.known(row, is_dynamic=rows.key_at(row) not in named)
        for row in range(len(rows))
        if rows.key_at(row) not in there
    ]
    return [*backends, *others]


def holds(query: ModelQuery, model: KnownModel) -> bool:
    text = f"{model.name}\n{model.family}\n{model.description}".lower()
    wants = query.availability
    return (
        (wants is Availability.ALL or model.downloaded == (wants is Availability.DOWNLOADED))
        and query.capabilities <= model.capabilities
        and all(word in text for word in query.search.lower().split())
        and (not query.size_bytes_max or 0 < model.size_bytes <= query.size_bytes_max)
        and model.context_window >= query.context_min
        and not (query.exclude_guards and model.is_guard)
        and not (query.exclude_dynamic and model.is_dynamic)
        and (query.admits is None or query.admits(model))
    )


def drawn(random: Random) -> ModelQuery:
    return ModelQuery(
        search=random.choice(SEARCHES),
        availability=random.choice(list(Availability)),
        capabilities=frozenset(
            random.sample(("tools", "vision", "none"), random.choice((0, 0, 1)))
        ),
        size_bytes_max=random.choice(SIZES),
        context_min=random.choice((0, 0, 1, 8_192, 9_000, 10**6)),
        exclude_guards=random.random() < 0.3,
        exclude_dynamic=random.random() < 0.2,
        admits=random.choice((None, None, lambda model: "q" in model.name)),
    )


def pages(index: ModelIndex, query: ModelQuery, order: Order, size: int) -> list[KnownModel]:
    found: list[KnownModel] = []
    token = ""
    while True:
        page = index.page(query, order, token, size)
        assert len(page.models) <= size
        found += page.models
        token = page.next_token
        if not token:
            assert page.total == len(found)
            return found


@pytest.mark.parametrize("seed", range(6))
def test_a_list_is_what_a_plain_search_finds(seed: int) -> None:
    random = Random(seed)
    rows = rows_of(library_models(random.choice((1, 40, 90)), random.choice((1, 5, 12)), seed))
    wanted = random.sample(range(len(rows)), min(10, len(rows)))
    backends = [local(rows.name_at(row), size_bytes=row * 10**8, family="qwen3") for row in wanted]
    backends += [local("Mine:latest", context_window=9_000), local("hf.co/a/b:Q4_K_M")]
    named = {backends[0].name, rows.name_at(len(rows) - 1), "absent:latest"}
    uses = {each: random.randint(0, 4) for each in random.sample(range(len(rows)), 1)}
    used = {rows.key_at(row): ModelUse(requests=count) for row, count in uses.items()}
    used |= {backends[-1].key: ModelUse(requests=4), "gone:1b": ModelUse(requests=9)}
    index = ModelIndex(named)
    index.uses = lambda key: used.get(key, ModelUse())
    index.used = used.keys
    index.replace(1, library=rows)
    index.replace(2, local=backends)
    known = everything(rows, backends, {each.lower() for each in named})
    assert (index.downloaded, index.downloaded + index.downloadable) == (
        len(backends),
        len(known),
    )
    orders = {
        Order.NAME: lambda each: each.key,
        Order.SIZE: lambda each: (each.size_bytes or 1 << 62, each.key),
        Order.USE: lambda each: (-index.uses(each.key).requests, each.key),
    }
    for _ in range(40):
        query = drawn(random)
        means = [each for each in known if holds(query, each)]
        for order, key in orders.items():
            in_order = sorted(means, key=key)
            found = pages(index, query, order, random.choice((1, 7, 500)))
            assert [each.name for each in found] == [each.name for each in in_order]


def test_many_rows_in_order_of_their_sizes() -> None:
    """More than are sorted at once, so that they are taken bucket by bucket."""
    rows = rows_of(library_models(400, 20))
    index = ModelIndex()
    index.replace(1, library=rows)
    found = pages(index, ModelQuery(availability=Availability.ALL), Order.SIZE, 500)
    assert len(found) == len(rows) > 7_000
    assert found == sorted(found, key=lambda each: (each.size_bytes or 1 << 62, each.key))


def test_it_is_the_same_in_slices() -> None:
    index = ModelIndex()
    index.replace(1, library=rows_of(library_models(200, 20)))
    query = ModelQuery(
        search="q4", availability=Availability.ALL, admits=lambda model: model.size_bytes > 10**9
    )
    found = asyncio.run(index.page_in_slices(query, Order.NAME, "", 500))
    assert found == index.page(query, Order.NAME, "", 500)
    assert found.total > 100


def test_one_model_by_any_spelling_of_its_name() -> None:
    index = ModelIndex(("LLAMA3",))
    model = LibraryModel(
        name="llama3",
        variants=(
            LibraryVariant(name="llama3:8B", size_bytes=5),
            LibraryVariant(name="llama3:70b"),
        ),
    )
    index.replace(1, library=rows_of([model]), local=[local("llama3:latest", is_dynamic=False)])
    found = [index.get(each) for each in ("library/Llama3:8b", "llama3", "llama3:70B", "llama3:1b")]
    assert [each and (each.name, each.downloaded) for each in found] == [
        ("llama3:8B", False),
        ("llama3:latest", True),
        ("llama3:70b", False),
        None,
    ]
    assert index.nearest("llama3:7b")[0] in ("llama3:70b", "llama3:8B")
    assert ModelIndex().get("x") is None
    assert ModelIndex().nearest("x") == ()


def test_a_token_of_another_order_is_refused() -> None:
    index = ModelIndex()
    with pytest.raises(InvalidRequest, match="page_token"):
        index.page(ModelQuery(), Order.SIZE, "llama3:8b", 10)


def test_the_moment_of_a_change_grows_and_everybody_hears_of_it_once() -> None:
    index = ModelIndex()
    seen: list[tuple[int, int]] = []
    index.on_change(lambda: seen.append((index.changed_unix_ms, len(index))))
    index.replace(1_000, local=[local("a:1")])
    index.replace(400, local=[local("a:1"), local("b:1")])
    index.replace(2_000, local=[])
    assert seen == [(1_000, 1), (1_001, 2), (2_000, 0)]


def test_what_the_library_told_is_told_again() -> None:
    models = library_models(30, 7)
    known = LibraryModels(rows_of(models))
    assert {name: known[name] for name in known} == {
        each.name: LibraryModel(
            name=each.name,
            variants=tuple(sorted(each.variants, key=lambda variant: variant.name.lower())),
            capabilities=each.capabilities,
            description=each.description,
        )
        for each in models
    }
    with pytest.raises(KeyError):
        known["absent"]


def test_building_goes_in_small_steps() -> None:
    steps = library_rows(library_models(300, 20))
    assert sum(1 for _ in islice(steps, 300)) == 300
