"""What models are made of, and what comes of deleting one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.model_name import comparison_key
from broker.core.ports import ModelFacts
from broker.models.dependencies import (
    TWINS_MAX,
    Consequences,
    Freed,
    Node,
    consequences,
    family,
    nodes,
)

LLAMA, QWEN, PROJECTOR, ADAPTER = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


def facts(name: str, *blobs: str, size: int = 1_000, **other: Any) -> ModelFacts:
    fields: dict[str, Any] = {
        "name": name,
        "runner": blobs[0] if blobs else f"digest-{name}",
        "digest": f"digest-{name}",
        "size_bytes": size,
        "blobs": blobs,
        **other,
    }
    return ModelFacts(**fields)


BASE = facts("llama3:8b", LLAMA, size=4_700)
CHILD = facts("mario:latest", LLAMA, size=4_704, parent="llama3:8b")
GRANDCHILD = facts("lawyer:latest", LLAMA, size=4_900, parent="mario", adapters=(ADAPTER,))
ORPHAN = facts("orphan:1b", QWEN, size=800, parent="gone:1b")
ALONE = facts("tiny:latest", "e" * 64, size=300)


def by_name(*those: ModelFacts) -> dict[str, Node]:
    return {each.facts.name: each for each in nodes("b", those)}


def test_each_stands_behind_what_it_was_made_from() -> None:
    order = [each.facts.name for each in nodes("b", (GRANDCHILD, ORPHAN, CHILD, ALONE, BASE))]
    assert order == ["llama3:8b", "mario:latest", "lawyer:latest", "orphan:1b", "tiny:latest"]


def test_parents_and_children_are_found_by_whatever_spelling() -> None:
    found = by_name(BASE, facts("x:1", LLAMA, parent="registry.ollama.ai/library/LLAMA3:8b"))
    assert found["x:1"].parent == "llama3:8b"
    assert not found["x:1"].is_parent_missing
    assert found["llama3:8b"].children == ("x:1",)


def test_what_says_it_was_made_from_itself_says_nothing() -> None:
    node = by_name(facts("x:1", LLAMA, parent="X:1"))["x:1"]
    assert (node.parent, node.is_parent_missing, node.children) == ("", False, ())


def test_a_parent_that_is_not_there_is_named_and_marked() -> None:
    orphan = by_name(ORPHAN, ALONE)["orphan:1b"]
    assert (orphan.parent, orphan.is_parent_missing) == ("gone:1b", True)


@pytest.mark.parametrize("path", [f"/models/blobs/sha256-{LLAMA}", f"sha256:{LLAMA}"])
def test_a_parent_that_is_told_as_a_file_is_the_model_of_that_file(path: str) -> None:
    found = by_name(BASE, facts("x:1", LLAMA, parent=path))
    assert (found["x:1"].parent, found["x:1"].is_parent_missing) == ("llama3:8b", False)
    assert found["llama3:8b"].children == ("x:1",)


def test_of_a_file_that_is_no_models_nobody_knows_whether_it_is_there() -> None:
    for path in ("/home/a/weights.gguf", f"/blobs/sha256-{QWEN}"):
        node = by_name(BASE, facts("x:1", LLAMA, parent=path))["x:1"]
        assert (node.parent, node.is_parent_missing) == (path, False)


def test_of_very_many_names_of_the_same_weights_the_first_are_told() -> None:
    many = [facts(f"m{each:04}:latest", LLAMA) for each in range(4_000)]
    found = nodes("b", many)
    assert len(found) == len(many)
    names = [each.facts.name for each in found]
    assert found[0].twins == tuple(names[1 : TWINS_MAX + 1])
    assert found[50].twins == (*names[:50], *names[51 : TWINS_MAX + 1])
    assert found[-1].twins == tuple(names[:TWINS_MAX])


def test_names_of_the_same_weights_are_twins() -> None:
    found = by_name(BASE, CHILD, GRANDCHILD, ALONE)
    assert found["llama3:8b"].twins == ("lawyer:latest", "mario:latest")
    assert found["tiny:latest"].twins == ()
    shares_projector = by_name(facts("x:1", LLAMA, PROJECTOR), facts("y:1", QWEN, PROJECTOR))
    assert shares_projector["x:1"].twins == ()


def test_weights_that_are_not_told_one_by_one_are_known_by_the_runner() -> None:
    told = facts("x:1", runner=LLAMA), facts("y:1", runner=LLAMA)
    assert by_name(*told)["x:1"].twins == ("y:1",)
    untold = facts("x:1"), facts("y:1")
    assert by_name(*untold)["x:1"].twins == ()


# What is freed


def test_what_shares_nothing_frees_all_of_it() -> None:
    assert by_name(BASE, ALONE)["tiny:latest"].freed == Freed(bytes=300)


def test_another_name_for_the_same_manifest_frees_nothing() -> None:
    copy = facts("copy:latest", LLAMA, size=4_700, digest=BASE.digest)
    assert by_name(BASE, copy)["copy:latest"].freed == Freed()
    assert by_name(BASE, copy)["llama3:8b"].freed == Freed()


def test_where_weights_are_shared_only_what_is_beyond_them_is_sure() -> None:
    found = by_name(BASE, CHILD, GRANDCHILD)
    assert found["llama3:8b"].freed == Freed(bytes=0, is_bound=True)
    assert found["mario:latest"].freed == Freed(bytes=4, is_bound=True)
    assert found["lawyer:latest"].freed == Freed(bytes=200, is_bound=True)


def test_files_that_are_shared_with_several_bound_it_together() -> None:
    both = facts("both:1", LLAMA, PROJECTOR, size=1_000)
    one, other = facts("one:1", LLAMA, size=600), facts("other:1", QWEN, PROJECTOR, size=250)
    assert by_name(both, one, other)["both:1"].freed == Freed(bytes=150, is_bound=True)


def test_of_what_is_made_of_files_that_are_not_told_family_may_share_them() -> None:
    base, child = facts("a:1", size=500), facts("b:1", size=510, parent="a:1")
    alone = facts("c:1", size=90)
    found = by_name(base, child, alone)
    assert found["a:1"].freed == found["b:1"].freed == Freed(is_bound=True)
    assert found["c:1"].freed == Freed(bytes=90)


def test_consequences_are_summed_over_backends() -> None:
    those = {
        "gpu0": (BASE, CHILD, GRANDCHILD, ALONE),
        "gpu1": (BASE, facts("Other:1", LLAMA, size=4_800, parent="llama3:8b")),
        "gpu2": (BASE,),
        "gpu3": (ALONE,),
    }
    assert consequences(those, "Llama3:8B") == Consequences(
        freed_bytes=4_700, is_bound=True, breaks=("mario:latest", "Other:1")
    )
    assert consequences(those, "tiny") == Consequences(freed_bytes=600)
    assert consequences(those, "mario").breaks == ("lawyer:latest",)
    assert consequences(those, "absent") == Consequences()


def test_a_family_is_what_it_was_made_from_and_what_was_made_from_it() -> None:
    sibling = facts("sibling:1", PROJECTOR, parent="llama3:8b")
    found = nodes("b", (BASE, CHILD, GRANDCHILD, ORPHAN, ALONE, sibling))

    def names(name: str) -> list[str]:
        return [each.facts.name for each in family(found, name)]

    assert names("MARIO") == ["llama3:8b", "mario:latest", "lawyer:latest"]
    assert names("sibling:1") == ["llama3:8b", "sibling:1"]  # as both say; they share no weights
    assert names("tiny") == ["tiny:latest"]
    assert names("absent") == []


NAMES = tuple("abcdef")
ANY_FACTS = st.lists(
    st.builds(
        facts,
        st.sampled_from([f"{each}:1" for each in NAMES]),
        st.sampled_from([LLAMA, QWEN]),
        size=st.integers(0, 100),
        digest=st.sampled_from(["one", "two", "three", ""]),
        parent=st.sampled_from(["", *(f"{each}:1" for each in NAMES), "gone:1", f"sha256:{LLAMA}"]),
        adapters=st.sampled_from([(), (ADAPTER,)]),
    ),
    unique_by=lambda each: comparison_key(each.name),
    max_size=6,
)


@given(ANY_FACTS)
def test_circles_and_whatever_else_is_said_do_no_harm(those: list[ModelFacts]) -> None:
    found = nodes("b", those)
    assert sorted(each.facts.name for each in found) == sorted(each.name for each in those)
    named = {each.facts.name: each for each in found}
    for each in found:
        assert 0 <= each.freed.bytes <= each.facts.size_bytes
        assert each.facts.name not in (each.parent if each.parent in named else "", *each.twins)
        assert all(named[child].parent == each.facts.name for child in each.children)
        own = family(found, each.facts.name)
        assert each in own
        assert {*each.children} <= {one.facts.name for one in own}
        told = consequences({"b": those}, each.facts.name)
        assert told.freed_bytes == each.freed.bytes
        assert told.breaks == each.children
