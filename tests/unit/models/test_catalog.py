"""The catalogue: what backends have, joined with what the operator says of it."""

from __future__ import annotations

from dataclasses import replace

from broker.core.ports import ModelFacts
from broker.models.catalog import NUM_CTX_MAX_DEFAULT, Catalog, ModelSettings, model_spec


def facts(name: str, *, runner: str = "", context: int = 0, embeds: bool = False) -> ModelFacts:
    return ModelFacts(
        name=name,
        runner=runner or f"blob-{name}",
        digest=f"digest-{name}",
        size_bytes=7,
        capabilities=frozenset({"embedding"} if embeds else {"completion"}),
        context_length_train=context,
    )


def test_a_model_without_settings_is_planned_as_the_backend_has_it() -> None:
    spec = model_spec(facts("a:latest", context=8192), ModelSettings(), slots_default=3)
    assert (spec.name, spec.runner, spec.size_bytes) == ("a:latest", "blob-a:latest", 7)
    assert (spec.slots, spec.num_ctx, spec.num_ctx_max) == (3, None, 8192)
    assert spec.capabilities == {"completion"}


def test_the_operators_word_counts_up_to_what_the_model_was_trained_for() -> None:
    settings = ModelSettings(num_ctx=2048, num_ctx_max=16_384, slots=5)
    spec = model_spec(facts("a:latest", context=8192), settings, slots_default=1)
    assert (spec.slots, spec.num_ctx, spec.num_ctx_max) == (5, 2048, 8192)
    untold = model_spec(facts("a:latest"), settings, slots_default=1)
    assert untold.num_ctx_max == 16_384


def test_a_ceiling_that_nobody_gave_is_moderate() -> None:
    spec = model_spec(facts("a:latest", context=10_000_000), ModelSettings(), slots_default=1)
    assert spec.num_ctx_max == NUM_CTX_MAX_DEFAULT
    assert model_spec(facts("a"), ModelSettings(), slots_default=1).num_ctx_max == spec.num_ctx_max


def test_an_embedding_model_has_one_slot_whatever_is_said() -> None:
    spec = model_spec(facts("e", embeds=True), ModelSettings(slots=4), slots_default=8)
    assert spec.slots == 1


def test_settings_are_found_by_any_spelling_of_the_name() -> None:
    catalog = Catalog({"Library/A": ModelSettings(slots=4)})
    (spec,) = catalog.learn("b", (facts("a:latest"),), slots_default=1)
    assert spec.slots == 4


def test_names_that_share_a_runner_share_its_settings() -> None:
    """Else they would restart it in turn. The first name that has any counts."""
    catalog = Catalog({"z": ModelSettings(num_ctx=1024), "m": ModelSettings(num_ctx=2048)})
    shared = (facts("z:latest", runner="r"), facts("a:latest", runner="r"), facts("m", runner="r"))
    specs = catalog.learn("b", (*shared, facts("other")), slots_default=1)
    assert [each.num_ctx for each in specs] == [2048, 2048, 2048, None]


def test_a_model_is_listed_once_with_its_runner_on_each_backend() -> None:
    catalog = Catalog({})
    catalog.learn("one", (facts("B:latest"), facts("a")), 1)
    catalog.learn("two", (facts("b", runner="other"),), 1)
    assert [(each.facts.name, dict(each.runners)) for each in catalog.entries()] == [
        ("a", {"one": "blob-a"}),
        ("B:latest", {"one": "blob-B:latest", "two": "other"}),
    ]
    found = catalog.get("library/b")
    assert found is not None
    assert found.facts.runner == "blob-B:latest"
    assert catalog.get("c") is None
    assert catalog.get("") is None


def test_what_a_backend_no_longer_has_is_forgotten() -> None:
    catalog = Catalog({})
    catalog.learn("one", (facts("a"), facts("b")), 1)
    catalog.learn("one", (facts("b"),), 1)
    assert [each.facts.name for each in catalog.entries()] == ["b"]


def test_three_names_are_near() -> None:
    catalog = Catalog({})
    assert catalog.nearest("x") == ()
    catalog.learn("one", tuple(facts(each) for each in ("aaa", "aab", "abb", "bbb")), 1)
    assert catalog.nearest("aaa:7b") == ("aaa", "aab", "abb")


def _contexts(*models: ModelFacts, **configured: ModelSettings) -> dict[str, int | None]:
    specs = Catalog(configured).learn("b", models, 1)
    return {each.name: each.num_ctx for each in specs}


def test_all_names_of_one_runner_carry_one_context_or_each_would_restart_it() -> None:
    plain = facts("plain", runner="w", context=8192)
    small = replace(facts("small", runner="w", context=8192), num_ctx_default=512)
    large = replace(facts("large", runner="w", context=8192), num_ctx_default=6000)
    assert _contexts(plain, facts("twin", runner="w")) == {"plain": None, "twin": None}
    assert _contexts(small) == {"small": 512}
    assert _contexts(plain, small) == {"plain": 4096, "small": 4096}
    assert _contexts(plain, small, large) == {"plain": 6000, "small": 6000, "large": 6000}
    assert _contexts(replace(small, num_ctx_default=9000)) == {"small": 8192}
    operator = ModelSettings(num_ctx=1024)
    assert _contexts(plain, small, small=operator) == {"plain": 1024, "small": 1024}


def test_a_model_that_is_confined_to_other_tags_is_none_of_a_backends_models() -> None:
    catalog = Catalog({"A": ModelSettings(backend_tags=frozenset({"large", "fast"}))})
    both = (facts("a:latest"), facts("b:latest"))
    assert [each.name for each in catalog.learn("one", both, 1)] == ["b:latest"]
    assert [each.name for each in catalog.learn("two", both, 1, frozenset({"fast", "x"}))] == [
        "a:latest",
        "b:latest",
    ]
    entry = catalog.get("a")
    assert entry is not None
    assert list(entry.runners) == ["two"]


def test_a_backend_that_was_taken_out_has_no_models() -> None:
    catalog = Catalog({})
    catalog.learn("one", (facts("a:latest"), facts("b:latest")), 1)
    catalog.learn("two", (facts("a:latest"),), 1)
    catalog.forget("one")
    catalog.forget("never there")
    assert [each.facts.name for each in catalog.entries()] == ["a:latest"]
