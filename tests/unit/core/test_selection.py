"""Which of many models is chosen: the rules, one by one, and what holds of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.model_errors import NoModelFits, RejectedModel
from broker.core.requests import RequestKind
from broker.core.requirements import Preference, Requirements
from broker.core.selection import (
    ALTERNATIVES_MAX,
    JUDGED_AT_ONCE,
    REJECTED_MAX,
    Known,
    Selection,
    Stage,
    Standing,
    Wish,
    by_size,
    first_of,
    lacks,
    select,
)

GB = 1_000_000_000
ANSWER = Wish(
    kind=RequestKind.GENERATE,
    needs=frozenset({"completion"}),
    num_ctx=0,
    wants=Requirements(),
)
VECTORS = replace(ANSWER, kind=RequestKind.EMBED, needs=frozenset({"embedding"}))
FREE = Standing(Stage.FREE, "resident on gpu0", 10.0)


def known(
    name: str,
    *can: str,
    gb: float = 1,
    context: int = 4096,
    is_guard: bool = False,
    tells: bool = True,
) -> Known:
    return Known(
        key=name,
        name=name,
        size_bytes=int(gb * GB),
        capabilities=frozenset(can or ("completion",)) if tells else frozenset(),
        context_max=context,
        is_guard=is_guard,
    )


def wanting(wish: Wish = ANSWER, **wants: object) -> Wish:
    return replace(wish, wants=Requirements(**wants))  # type: ignore[arg-type]


def chosen(*models: Known, wish: Wish = ANSWER, at: dict[str, Standing] | None = None) -> Selection:
    """As the engine has it: what fits is asked first. Memory is a fifth more than the file."""
    fits, rejected = list[Known](), list[RejectedModel]()
    for each in models:
        found = lacks(each, wish, int(each.size_bytes * 1.2))
        if found:
            rejected.append(RejectedModel(each.name, ", ".join(found)))
        else:
            fits.append(each)
    judged = keyed(by_size(fits, wish.prefer))
    return select(judged, rejected, wish, lambda each: (at or {}).get(each.name, FREE))


def keyed(models: Iterable[Known]) -> dict[str, Known]:
    return {each.key: each for each in models}


@pytest.mark.parametrize(
    ("model", "wish", "why"),
    [
        (known("m"), wanting(capabilities=frozenset({"tools"})), ["lacks tools"]),
        (
            known("m"),
            replace(ANSWER, needs=frozenset({"completion", "vision|audio"})),
            ["lacks vision or audio"],
        ),
        (known("e", "embedding"), ANSWER, ["lacks completion"]),
        (known("m"), VECTORS, ["lacks embedding"]),
        (known("g", is_guard=True), ANSWER, ["judges texts and answers none"]),
        (
            known("m"),
            wanting(context_min=8192),
            ["may have 4096 tokens of context, not 8192"],
        ),
        (
            known("m"),
            replace(ANSWER, num_ctx=9000),
            ["may have 4096 tokens of context, not 9000"],
        ),
        (known("m", gb=39), wanting(size_bytes_max=10 * GB), ["has 39 GB, more than 10 GB"]),
        (known("m", gb=10), wanting(memory_bytes_max=10 * GB), ["takes 12 GB, more than 10 GB"]),
        (known("m", gb=0), wanting(size_bytes_max=10 * GB), ["has an unknown number of bytes"]),
        (known("m", tells=False), ANSWER, []),
        (
            known("m", tells=False),
            wanting(capabilities=frozenset({"tools"})),
            ["is on a backend that does not tell what it can do"],
        ),
        (
            known("m", tells=False),
            VECTORS,
            ["is on a backend that does not tell what it can do"],
        ),
        (known("text-embed-3", tells=False), ANSWER, ["embeds, by its name"]),
        (known("m"), ANSWER, []),
    ],
)
def test_what_a_model_lacks_is_said_in_words(model: Known, wish: Wish, why: list[str]) -> None:
    assert lacks(model, wish, int(model.size_bytes * 1.2)) == why


def test_everything_that_it_lacks_is_said() -> None:
    wish = wanting(capabilities=frozenset({"tools"}), context_min=8192, size_bytes_max=GB)
    assert len(lacks(known("m", gb=2), wish, 0)) == 3


def test_who_is_named_may_judge_and_is_believed() -> None:
    assert lacks(known("g", is_guard=True), ANSWER, 0, was_named=True) == []
    assert lacks(known("m", tells=False), VECTORS, 0, was_named=True) == []


# The three preferences


def test_fast_is_a_free_slot_before_a_busy_one_before_a_load() -> None:
    at = {
        "free": Standing(Stage.FREE, "resident on gpu0", 50.0),
        "busy": Standing(Stage.HERE, "resident on gpu0 and busy", 30.0),
        "away": Standing(Stage.AWAY, "to be loaded on gpu0", 20.0),
    }
    models = [known(name) for name in at]
    selection = chosen(*models, at=at)
    assert selection.model.name == "free"
    assert [each.name for each in selection.alternatives] == ["away", "busy"]  # by their answers


def test_fast_is_the_soonest_answer_of_those_with_a_free_slot() -> None:
    at = {"slow": FREE._replace(answer_ns=9.0), "quick": FREE._replace(answer_ns=3.0)}
    assert chosen(known("slow"), known("quick"), at=at).model.name == "quick"


@pytest.mark.parametrize(("prefer", "expected"), [(Preference.SMALL, "s"), (Preference.LARGE, "l")])
def test_small_and_large_go_by_the_file(prefer: Preference, expected: str) -> None:
    models = (known("m", gb=5), known("l", gb=9), known("s", gb=2), known("unknown", gb=0))
    selection = chosen(*models, wish=wanting(prefer=prefer))
    assert selection.model.name == expected
    assert selection.alternatives[-1].name == "unknown"


@pytest.mark.parametrize("prefer", list(Preference))
def test_of_what_is_alike_the_first_by_name_is_chosen(prefer: Preference) -> None:
    models = [known(name) for name in ("b", "c", "a")]
    assert chosen(*models, wish=wanting(prefer=prefer)).model.name == "a"


def test_what_may_not_start_or_answer_now_is_chosen_last() -> None:
    at = {
        "broken": FREE._replace(barred="calls of broken have failed too often lately"),
        "large": FREE._replace(suits=False),
    }
    models = [known("broken"), known("large"), known("ready", gb=50)]
    for prefer in Preference:
        selection = chosen(*models, wish=wanting(prefer=prefer), at=at)
        assert (selection.model.name, selection.is_ready) == ("ready", True)
        assert dict(selection.rejected) == {
            "broken": "calls of broken have failed too often lately",
            "large": "is no small model, and at this level only these answer",
        }
    assert not chosen(known("broken"), known("large"), at=at).is_ready


def test_an_embedding_is_chosen_by_what_stays_the_same() -> None:
    """Vectors of two models mean nothing beside each other."""
    models = [known("large", "embedding", gb=3), known("small", "embedding", gb=1)]
    at = {"small": Standing(Stage.AWAY, "to be loaded on gpu0", 1e12, barred="it is being cured")}
    selection = chosen(*models, wish=VECTORS, at=at)
    assert (selection.model.name, selection.is_ready) == ("small", False)


def test_of_many_what_is_in_memory_is_looked_at_first_however_large() -> None:
    models = [known(f"m{number:03}", gb=1) for number in range(100)] + [known("large", gb=90)]
    at = {each.name: Standing(Stage.AWAY, "to be loaded on gpu0", 1.0) for each in models}
    at["large"] = FREE
    looked = list[str]()

    def judge(model: Known) -> Standing:
        looked.append(model.name)
        return at[model.name]

    near = models[-1:]
    selection = select(keyed(by_size(models, Preference.FAST)), (), ANSWER, judge, near)
    assert selection.model.name == "large"
    assert len(looked) == 1 + JUDGED_AT_ONCE


@pytest.mark.parametrize("prefer", list(Preference))
def test_as_many_are_looked_at_as_it_takes_until_one_is_ready(prefer: Preference) -> None:
    models = [known(f"m{number:03}", gb=1) for number in range(5 * JUDGED_AT_ONCE)]
    last = models[-1].name
    barred = FREE._replace(barred="it is being cured")
    wish = wanting(prefer=prefer)
    selection = select(
        keyed(by_size(models, prefer)), (), wish, lambda each: FREE if each.name == last else barred
    )
    assert (selection.model.name, selection.is_ready) == (last, True)


def test_each_is_judged_once_and_where_nothing_may_start_only_a_few_are() -> None:
    """While all backends are away hundreds may ask again and again."""
    models = by_size([known(f"m{number:03}") for number in range(300)], Preference.FAST)
    looked = list[str]()

    def judge(model: Known) -> Standing:
        looked.append(model.name)
        return FREE._replace(barred="no backend that has it answers")

    selection = select(keyed(models), (), ANSWER, judge)
    assert len(looked) == len(set(looked)) == 300
    looked.clear()
    again = select(keyed(models), (), ANSWER, judge, may_start=False)
    assert len(looked) == JUDGED_AT_ONCE
    assert (again.model, again.is_ready) == (selection.model, False)


# The order of an operator


def test_a_list_is_in_order_and_skips_what_cannot_answer_now() -> None:
    models = [known("one"), known("two"), known("three")]
    at = {"one": FREE._replace(barred="one is being cured")}
    selection = first_of(keyed(models), (), ANSWER, lambda each: at.get(each.name, FREE))
    assert selection.model.name == "two"
    assert [each.name for each in selection.alternatives] == ["three"]
    assert selection.rejected == (RejectedModel("one", "one is being cured"),)


# What is told


def test_the_sentence_says_why_and_why_not_others() -> None:
    selection = chosen(
        known("qwen3:8b", "completion", "tools", gb=5),
        known("llama3:8b", "completion", "tools", gb=4),
        known("llama3:70b", "completion", "tools", gb=40),
        wish=wanting(capabilities=frozenset({"tools"}), size_bytes_max=10 * GB),
        at={"qwen3:8b": FREE._replace(answer_ns=1.0)},
    )
    assert selection.because == (
        "qwen3:8b: the soonest answer of 2 that fit, resident on gpu0, has tools; "
        "llama3:70b has 40 GB, more than 10 GB"
    )


def test_nothing_that_fits_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(NoModelFits) as raised:
        chosen(known("m"), wish=wanting(capabilities=frozenset({"vision"})))
    assert raised.value.message == "no model fits: m lacks vision"
    assert raised.value.nearest == ("m",)
    with pytest.raises(NoModelFits, match="there is none"):
        chosen()


def test_what_is_told_is_bounded() -> None:
    models = [known(f"m{number:03}") for number in range(50)]
    large = [known(f"l{number:03}", gb=99) for number in range(50)]
    selection = chosen(*models, *large, wish=wanting(size_bytes_max=GB))
    assert len(selection.alternatives) == ALTERNATIVES_MAX
    assert len(selection.rejected) == REJECTED_MAX


# What holds of all

CAPABILITIES = ("completion", "embedding", "tools", "vision")
MODELS = st.lists(
    st.builds(
        known,
        st.sampled_from([f"m{number}" for number in range(12)]),
        *(st.sampled_from(CAPABILITIES) for _ in range(3)),
        gb=st.integers(0, 9),
        context=st.sampled_from([2048, 8192, 32768]),
        is_guard=st.booleans(),
        tells=st.booleans(),
    ),
    max_size=10,
    unique_by=lambda each: each.name,
)
WANTS = st.builds(
    Requirements,
    capabilities=st.frozensets(st.sampled_from(("tools", "vision"))),
    context_min=st.sampled_from([0, 4096, 16384]),
    size_bytes_max=st.sampled_from([0, 2 * GB, 6 * GB]),
    memory_bytes_max=st.sampled_from([0, 3 * GB, 8 * GB]),
    prefer=st.sampled_from([None, *Preference]),
)
WISHES = st.builds(
    lambda wish, wants: replace(wish, wants=wants), st.sampled_from([ANSWER, VECTORS]), WANTS
)
STANDINGS = st.builds(
    Standing,
    st.sampled_from(Stage),
    st.just("somewhere"),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.sampled_from(["", "", "it is being cured"]),
    st.booleans(),
)


def tried(models: list[Known], wish: Wish, at: dict[str, Standing]) -> Selection | None:
    try:
        return chosen(*models, wish=wish, at=at)
    except NoModelFits:
        return None


def fits(model: Known, wish: Wish) -> bool:
    return not lacks(model, wish, int(model.size_bytes * 1.2))


@given(MODELS, WISHES, st.data())
def test_what_is_chosen_and_what_would_do_as_well_is_as_was_wanted(
    models: list[Known], wish: Wish, data: st.DataObject
) -> None:
    at = {each.name: data.draw(STANDINGS) for each in models}
    selection = tried(models, wish, at)
    if selection is None:
        assert not any(fits(each, wish) for each in models)
        return
    for each in (selection.model, *selection.alternatives):
        assert fits(each, wish)
        assert not each.is_guard
        assert not each.capabilities or wish.needs <= each.capabilities
    told = {selection.model.name, *(each.name for each in selection.alternatives)}
    assert told.isdisjoint(each.name for each in selection.rejected)
    if wish.kind is RequestKind.GENERATE:
        ready = [x for x in models if fits(x, wish) and at[x.name].suits and not at[x.name].barred]
        assert selection.is_ready is bool(ready)


@given(MODELS, WISHES, st.data())
def test_the_order_in_which_models_are_known_decides_nothing(
    models: list[Known], wish: Wish, data: st.DataObject
) -> None:
    at = {each.name: data.draw(STANDINGS) for each in models}
    one, other = tried(models, wish, at), tried(data.draw(st.permutations(models)), wish, at)
    assert (one and (one.model, one.alternatives)) == (other and (other.model, other.alternatives))


@given(MODELS, WISHES, WANTS, st.data())
def test_a_stricter_wish_never_yields_what_the_looser_would_not_take(
    models: list[Known], wish: Wish, more: Requirements, data: st.DataObject
) -> None:
    at = {each.name: data.draw(STANDINGS) for each in models}
    stricter = replace(wish, wants=wish.wants.joined(more))
    selection = tried(models, stricter, at)
    if selection is not None:
        assert fits(selection.model, wish)
        assert tried(models, wish, at) is not None


@given(WANTS, WANTS, MODELS)
def test_joined_requirements_hold_where_both_do(
    one: Requirements, other: Requirements, models: list[Known]
) -> None:
    both = replace(ANSWER, wants=one.joined(other))
    for each in models:
        holds = fits(each, replace(ANSWER, wants=one)) and fits(each, replace(ANSWER, wants=other))
        assert fits(each, both) is holds
