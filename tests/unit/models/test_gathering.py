"""What backends, the library and the last run say of the same models is one list."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from broker.core.kept_models import KeptBackend, KeptList, KeptModel, KeptTimes, KeptVariant
from broker.core.library import LibraryModel, LibraryVariant
from broker.core.ports import ModelFacts
from broker.models.gathering import Gathering
from broker.models.index import Availability, ModelIndex, ModelQuery, Order
from broker.models.slices import at_once

GB = 10**9


def facts(name: str, **more: object) -> ModelFacts:
    plain = ModelFacts(name=name, runner=f"r-{name}", digest=f"d-{name}", size_bytes=GB)
    return replace(plain, **more)  # type: ignore[arg-type]


class Stage:
    """A list of the models of backends "a" and "b"."""

    def __init__(self, *backends: str, named: tuple[str, ...] = ()) -> None:
        self.urls = {each: f"http://{each}" for each in backends or ("a", "b")}
        self.now_ms = 1_000_000
        self.index = ModelIndex(named)
        self.gathering = Gathering(self.index, lambda: self.urls, lambda: self.now_ms)
        self.told = 0
        self.changes = 0
        self.gathering.on_gathered(self._tell)
        self.index.on_change(self._change)

    def _tell(self) -> None:
        self.told += 1

    def _change(self) -> None:
        self.changes += 1

    def library(self, *models: LibraryModel) -> None:
        at_once(self.gathering.library(models))

    def names(self, availability: Availability = Availability.DOWNLOADED) -> list[str]:
        query = ModelQuery(availability=availability)
        return [each.name for each in self.index.page(query, Order.NAME, "", 500).models]

    def where(self) -> dict[str, list[str]]:
        return {each.name: list(each.runners) for each in self.index.local()}

    def texts(self, name: str) -> tuple[str, str, str]:
        model = self.index.get(name)
        assert model is not None
        return model.modified_at, model.digest, model.description

    def kept(self) -> KeptList:
        models, times = self.gathering.to_keep()
        return KeptList(models=list(models), times=times)


def library(name: str, *tags: str, **more: object) -> LibraryModel:
    variants = tuple(
        LibraryVariant(name=f"{name}:{tag}", size_bytes=2 * GB, context_window=4_096)
        for tag in tags
    )
    return replace(LibraryModel(name=name, variants=variants), **more)  # type: ignore[arg-type]


def test_a_model_is_downloaded_only_where_that_very_variant_is() -> None:
    stage = Stage()
    stage.library(library("llama3", "latest", "8b", "70b"))
    stage.gathering.listed("a", [facts("llama3:8b")])
    assert stage.names() == ["llama3:8b"]
    assert stage.names(Availability.DOWNLOADABLE) == ["llama3:70b", "llama3:latest"]
    (kept,) = stage.kept().models
    assert not kept.downloaded, "the flag of the base speaks of llama3:latest"
    assert [(each.name, each.downloaded) for each in kept.variants] == [
        ("llama3:70b", False),
        ("llama3:8b", True),
        ("llama3:latest", False),
    ]
    stage.gathering.listed("b", [facts("llama3")])
    assert stage.names() == ["llama3", "llama3:8b"], "as the server itself calls it"
    (kept,) = stage.kept().models
    assert kept.downloaded


def test_names_are_the_same_as_ollama_compares_them() -> None:
    stage = Stage()
    stage.library(library("llama3", "8B"))
    stage.gathering.listed("a", [facts("Llama3:8b"), facts("registry.ollama.ai/library/LLAMA3:8b")])
    stage.gathering.listed("b", [facts("library/llama3:8B")])
    assert stage.names(Availability.ALL) == ["Llama3:8b"]
    assert stage.where() == {"Llama3:8b": ["a", "b"]}


def test_what_one_source_leaves_open_another_tells() -> None:
    stage = Stage()
    bare = facts("x:1b", digest="same", size_bytes=0)
    stage.gathering.listed("a", [bare, facts("copy:1b", digest="same", size_bytes=0)])
    told = facts(
        "x:1b",
        digest="same",
        family="fam",
        capabilities=frozenset({"tools"}),
        context_length_train=8,
        parameter_size="1B",
    )
    stage.gathering.listed("b", [told])
    stage.library(library("copy", "1b", description="A copy."), library("y", "1b"))
    model, copy = stage.index.get("x:1b"), stage.index.get("copy:1b")
    assert model is not None
    assert copy is not None
    assert (model.family, model.size_bytes, model.size_str) == ("fam", GB, "1GB")
    assert (model.capabilities, model.context_window) == (frozenset({"tools"}), 8)
    assert (copy.family, copy.parameter_size, copy.description) == ("fam", "1B", "A copy.")
    assert copy.facts is not None
    assert (copy.facts.name, copy.facts.family) == ("copy:1b", "fam")
    stage.gathering.listed("b", [])
    model = stage.index.get("copy:1b")
    assert model is not None
    assert (model.family, model.size_bytes, model.context_window) == ("", 2 * GB, 4_096)


def test_a_listing_takes_the_place_of_the_one_before_and_of_no_other() -> None:
    stage = Stage()
    stage.gathering.listed("a", [facts("x:1b"), facts("y:1b")])
    stage.gathering.listed("b", [facts("y:1b"), facts("z:1b")])
    stage.gathering.listed("a", [facts("x:1b")])
    assert stage.where() == {"x:1b": ["a"], "y:1b": ["b"], "z:1b": ["b"]}
    stage.gathering.forget("b")
    assert stage.where() == {"x:1b": ["a"]}
    stage.gathering.forget("b")
    stage.gathering.listed("a", [])
    assert stage.names(Availability.ALL) == []


def test_what_is_the_same_again_is_no_change() -> None:
    stage = Stage()
    stage.gathering.listed("a", [facts("x:1b")])
    stage.library(library("x", "1b", "2b"))
    before = (stage.index.changed_unix_ms, stage.changes, stage.told)
    stage.now_ms += 5_000
    stage.gathering.listed("a", [facts("x:1b")])
    stage.library(library("x", "1b", "2b"))
    assert (stage.index.changed_unix_ms, stage.changes, stage.told) == before
    assert stage.gathering.listed_unix_ms("a") == stage.now_ms
    assert stage.gathering.library_unix_ms == stage.now_ms
    stage.library(library("x", "1b", "2b", description="New."))
    stage.gathering.listed("b", [facts("x:1b")])
    assert (stage.changes, stage.told) == (before[1] + 2, before[2] + 2)


def test_a_backend_that_has_what_it_had_is_as_old_as_that_and_changes_nothing() -> None:
    stage = Stage()
    stage.gathering.same("b")
    assert stage.gathering.listed_unix_ms("b") is None, "it has told nothing yet"
    stage.gathering.listed("b", [facts("m:latest")])
    changes, told = stage.changes, stage.told
    stage.now_ms += 5_000
    stage.gathering.same("b")
    assert stage.gathering.listed_unix_ms("b") == stage.now_ms
    assert (stage.changes, stage.told) == (changes, told)


def test_nothing_of_the_library_changes_before_all_of_it_is_there() -> None:
    stage = Stage()
    stage.library(library("old", "1b"))
    steps = stage.gathering.library([library("new", "1b"), library("other", "1b")])
    for _ in steps:
        assert stage.names(Availability.ALL) == ["old:1b"]
    assert stage.names(Availability.ALL) == ["new:1b", "other:1b"]


def test_the_next_run_begins_with_all_that_was_known() -> None:
    stage = Stage(named=("x:1b",))
    full = facts("x:1b", capabilities=frozenset({"tools"}), family="f", parent="p", blobs=("1",))
    stage.gathering.listed("a", [full, facts("mine", context_length_train=5)])
    stage.gathering.listed("b", [replace(full, runner="elsewhere")])
    stage.library(library("x", "1b", "2b", description="It is.", mark="m"))
    later = Stage(named=("x:1b",))
    later.gathering.begin_with(stage.kept())
    assert later.index.local() == stage.index.local()
    assert later.names(Availability.ALL) == ["mine", "x:1b", "x:2b"]
    assert later.gathering.library_unix_ms == stage.gathering.library_unix_ms
    assert later.gathering.listed_unix_ms("b") == 1_000_000
    assert not later.gathering.was_heard("b")
    assert list(later.kept().models) == list(stage.kept().models)


def test_a_backend_that_answers_takes_the_place_of_what_the_last_run_knew_of_it() -> None:
    stage = Stage()
    stage.gathering.listed("a", [facts("x:1b"), facts("y:1b")])
    stage.gathering.listed("b", [facts("z:1b")])
    later = Stage()
    later.gathering.begin_with(stage.kept())
    later.gathering.listed("a", [facts("y:1b")])
    assert later.where() == {"y:1b": ["a"], "z:1b": ["b"]}
    assert (later.gathering.was_heard("a"), later.gathering.was_heard("b")) == (True, False)


def test_a_backend_that_is_another_now_or_gone_has_nothing_of_the_last_run() -> None:
    stage = Stage()
    stage.gathering.listed("a", [facts("x:1b")])
    stage.gathering.listed("b", [facts("y:1b")])
    moved = Stage("a")
    moved.urls["a"] = "http://elsewhere"
    moved.gathering.begin_with(stage.kept())
    assert moved.names(Availability.ALL) == []
    assert moved.gathering.listed_unix_ms("a") is None


def test_what_the_seeds_wrote_is_known_until_all_backends_have_answered() -> None:
    seeds = KeptList(
        models=[
            KeptModel(
                name="llama3",
                downloaded=True,
                variants=(
                    KeptVariant(name="llama3:8b", downloaded=True, size_bytes=5 * GB),
                    KeptVariant(name="llama3:70b"),
                ),
            ),
            KeptModel(name="x", downloaded=True, variants=(KeptVariant(name="x:latest"),)),
        ],
        times=KeptTimes(library_unix_ms=5),
    )
    stage = Stage()
    stage.gathering.begin_with(seeds)
    assert stage.where() == {"llama3:8b": [], "llama3:latest": [], "x:latest": []}
    assert stage.names(Availability.DOWNLOADABLE) == ["llama3:70b"]
    stage.gathering.listed("a", [facts("llama3:8b")])
    assert stage.where() == {"llama3:8b": ["a"], "llama3:latest": [], "x:latest": []}
    stage.gathering.listed("b", [])
    assert stage.where() == {"llama3:8b": ["a"]}
    assert stage.names(Availability.DOWNLOADABLE) == ["llama3:70b", "x:latest"]


@pytest.mark.parametrize(
    "odd",
    [
        facts("\x1bx:1b"),
        facts("x" * 600),
        facts(""),
        facts("good:1b", size_bytes=-1),
        facts("good:1b", size_bytes=10**18),
        facts("good:1b", context_length_train=-5),
        facts("good:1b", context_length_train=10**12),
        facts("good:1b", capabilities=frozenset({""})),
        facts("good:1b", capabilities=frozenset({"w" * 100})),
        facts("good:1b", capabilities=frozenset(str(each) for each in range(100))),
        facts("good:1b", capabilities=frozenset({"to\x1bols"})),
        facts("good:1b", family="f" * 3_000_000),
        facts("good:1b", quantization="\x1b]0;owned\x07"),
        facts("good:1b", parameter_size="one\nline"),
        facts("good:1b", modified_at="\u202e2024"),
    ],
)
def test_what_cannot_be_so_is_left_out_and_told_once(odd: ModelFacts) -> None:
    stage = Stage()
    with capture_logs() as logs:
        stage.gathering.listed("a", [odd])
        stage.gathering.listed("a", [odd, facts("more:1b")])
    assert [(each["source"], each["count"]) for each in logs] == [("a", 1)]
    model = stage.index.get("good:1b")
    assert (model is None) == (odd.name != "good:1b")
    if model is not None:
        assert 0 <= model.size_bytes <= 10**14
        assert 0 <= model.context_window < 2**31
        assert len(model.capabilities) <= 32
        texts = (model.family, model.quantization, model.parameter_size, model.modified_at)
        assert all(len(each) < 600 and each.isprintable() for each in texts)
        assert all(each.isprintable() for each in model.capabilities)
    with capture_logs() as logs:
        stage.gathering.listed("a", [facts("good:1b")])
        stage.gathering.listed("a", [odd])
    assert len(logs) == 1, "it was well in between"


def test_of_the_library_what_cannot_be_pulled_is_left_out() -> None:
    stage = Stage()
    odd = LibraryModel(
        name="x",
        variants=(
            LibraryVariant(name="x:1b", size_bytes=-3, context_window=2**40),
            LibraryVariant(name="X:1B", size_bytes=9),
            LibraryVariant(name="y:1b"),
            LibraryVariant(name="x: bad"),
            LibraryVariant(name="library/x:2b", modified_at="2024\n", digest="d" * 5_000),
        ),
        description="d" * 5_000,
    )
    loud = replace(library("z", "1b"), description="\x1b[2J")
    with capture_logs() as logs:
        stage.library(odd, library("X", "9b"), library("bad name", "1b"), library("", "1b"), loud)
    assert stage.names(Availability.ALL) == ["x:1b", "x:2b", "z:1b"]
    assert [stage.texts(each) for each in ("x:2b", "z:1b")] == [("", "", "d" * 1_000), ("", "", "")]
    model = stage.index.get("x:1b")
    assert model is not None
    assert (model.size_bytes, model.context_window, len(model.description)) == (0, 0, 1_000)
    assert [each["count"] for each in logs] == [9]


def test_a_name_that_only_a_backend_would_give_is_listed_and_kept() -> None:
    stage = Stage()
    stage.gathering.listed("a", [facts("org/model@main with words"), facts("h:1/n/m:t")])
    assert stage.names() == ["h:1/n/m:t", "org/model@main with words"]
    later = Stage()
    later.gathering.begin_with(stage.kept())
    assert later.index.local() == stage.index.local()


def test_who_asks_later_sees_what_was_when_it_was_asked_for() -> None:
    stage = Stage()
    stage.gathering.listed("a", [facts("x:1b")])
    models, times = stage.gathering.to_keep()
    stage.gathering.listed("a", [facts("y:1b")])
    stage.library(library("z", "1b"))
    assert [each.name for each in models] == ["x"]
    assert times.backends == {"a": KeptBackend(url="http://a", listed_unix_ms=1_000_000)}


def test_a_model_is_dynamic_unless_the_configuration_names_it() -> None:
    stage = Stage(named=("X:1B",))
    stage.gathering.listed("a", [facts("x:1b"), facts("y:1b")])
    assert {each.name: each.is_dynamic for each in stage.index.local()} == {
        "x:1b": False,
        "y:1b": True,
    }


def test_what_the_configuration_names_may_change() -> None:
    stage = Stage()
    stage.library(library("x", "1b", "2b"))
    stage.gathering.listed("a", [facts("x:1b"), facts("y:1b")])
    changes = stage.changes
    stage.gathering.name(["Y:1b", "x:2b"])
    names = ("x:1b", "x:2b", "y:1b")
    found = [stage.index.get(each) for each in names]
    assert [each and each.is_dynamic for each in found] == [True, False, False]
    assert stage.changes == changes + 1
    query = ModelQuery(availability=Availability.ALL, exclude_dynamic=True)
    page = stage.index.page(query, Order.NAME, "", 10)
    assert [each.name for each in page.models] == ["x:2b", "y:1b"]
    stage.gathering.name(["y:1b", "x:2b"])
    assert stage.changes == changes + 1
    stage.gathering.name(["y:1b"])
    page = stage.index.page(query, Order.NAME, "", 10)
    assert [each.name for each in page.models] == ["y:1b"]
    assert stage.changes == changes + 2
