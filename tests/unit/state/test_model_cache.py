"""The list of models over a restart: what is written is read, by us and by the seeds' own readers;
whatever fails, there is a file that can be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker.core.kept_models import KeptBackend, KeptList, KeptModel, KeptTimes, KeptVariant
from broker.core.ports import ModelFacts
from broker.state.disk import RealDisk
from broker.state.model_cache import BROKEN_MAX, ModelCache
from tests.unit.state import seed_model_cache as seed

FACTS = ModelFacts(
    name="llama3:8b",
    runner="blob",
    digest="d1",
    size_bytes=4_700_000_000,
    capabilities=frozenset({"completion", "tools"}),
    parameter_size="8.0B",
    quantization="Q4_0",
    family="llama",
    context_length_train=8_192,
    num_ctx_default=4_096,
    modified_at="2025-01-02T03:04:05Z",
    parent="base:latest",
    blobs=("blob",),
    adapters=("adapter",),
    kv_bytes_per_token=131_072,
)
MODELS = (
    KeptModel(
        name="llama3",
        variants=(
            KeptVariant(
                name="llama3:8b",
                downloaded=True,
                size_bytes=4_700_000_000,
                context_window=8_192,
                modified_at="2025-01-02T03:04:05Z",
                digest="d1",
                backends={"b": FACTS, "c": replace(FACTS, runner="other")},
            ),
            KeptVariant(name="llama3:70b", size_bytes=40_000_000_000, context_window=8_192),
        ),
        capabilities=frozenset({"completion", "tools"}),
        description="It talks.",
        mark="v7",
    ),
    KeptModel(
        name="tiny",
        downloaded=True,
        variants=(KeptVariant(name="tiny:latest", downloaded=True, listed=False),),
    ),
)
TIMES = KeptTimes(library_unix_ms=123_456, backends={"b": KeptBackend(url="u", listed_unix_ms=7)})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model_cache.json"


def cache(file: Path, disk: RealDisk | None = None) -> ModelCache:
    return ModelCache(file, disk, sleep=lambda _: None)


def read(file: Path) -> KeptList:
    found = cache(file).read()
    assert found is not None
    return found


def in_order(models: Iterator[KeptModel]) -> list[KeptModel]:
    return sorted(models, key=lambda each: each.name)


async def test_what_was_written_is_read(file: Path) -> None:
    assert cache(file).read() is None
    assert await cache(file).write(iter(MODELS), TIMES)
    found = read(file)
    assert tuple(found.models) == MODELS
    assert found.times == TIMES
    assert [each.name for each in sorted(file.parent.iterdir())] == [
        "model_cache.json",
        "model_cache.meta.json",
    ]


async def test_the_seeds_read_it(file: Path) -> None:
    await cache(file).write(iter(MODELS), TIMES)
    found = seed.load_persistent_model_cache(file)
    assert set(found) == {"llama3", "tiny"}
    for base in found.values():
        assert set(base) >= {"downloaded", "variants"}
        for variant in base["variants"].values():
            wanted = {"downloaded", "size_str", "context_window", "modified_at"}
            assert set(variant) >= wanted
    asked = ("llama3:8b", "llama3:70b", "llama3", "tiny:latest", "tiny", "absent:1b")
    said = [seed.determine_download_status(each, found) for each in asked]
    assert said == [True, False, False, True, True, False]
    variants = found["llama3"]["variants"]
    assert [seed.format_model_status_with_size(True, variants["llama3:8b"])] == [
        "✓ Downloaded (4.7GB)"
    ]
    told = seed.format_model_status_with_size(False, variants["llama3:70b"])
    assert told == "⬇ Downloadable (40GB)"
    assert seed.format_model_status_with_size(True, found["tiny"]["variants"]["tiny:latest"]) == (
        "✓ Downloaded"
    )
    assert 0 <= seed.get_persistent_cache_age_hours(file) < 1


def test_what_the_seeds_wrote_is_read_and_is_as_old_as_its_file(file: Path) -> None:
    variant = {"size_str": "5.2GB", "context_window": 128_000, "modified_at": None}
    seed.save_persistent_model_cache(
        file,
        {
            "llama3": {
                "downloaded": True,
                "variants": {
                    "llama3:8b": {"downloaded": True, **variant},
                    "llama3:70b": {"downloaded": False, "size_str": "70B"},
                },
            },
            "empty": {"downloaded": False, "variants": {}},
        },
    )
    os.utime(file, (1_000, 2_000))
    found = read(file)
    assert found.times == KeptTimes(library_unix_ms=2_000_000)
    assert list(found.models) == [
        KeptModel(
            name="llama3",
            downloaded=True,
            variants=(
                KeptVariant(
                    name="llama3:8b",
                    downloaded=True,
                    size_bytes=5_200_000_000,
                    context_window=128_000,
                ),
                KeptVariant(name="llama3:70b"),
            ),
        ),
        KeptModel(name="empty", variants=()),
    ]


async def test_a_file_that_the_seeds_wrote_over_ours_is_as_old_as_it_looks(file: Path) -> None:
    await cache(file).write(iter(MODELS), TIMES)
    seed.save_persistent_model_cache(file, {"x": {"downloaded": True, "variants": {}}})
    os.utime(file, (1_000, 3_000))
    assert read(file).times == KeptTimes(library_unix_ms=3_000_000)


@pytest.mark.parametrize(
    "beside",
    [None, b"", b"[]", b'{"version":1}', b'{"version":2}', b"\xff", b'{"backends":{"\xff":1}}'],
)
async def test_nobody_knows_how_old_it_is_without_a_good_file_beside_it(
    file: Path, beside: bytes | None
) -> None:
    await cache(file).write(iter(MODELS), TIMES)
    meta = file.with_name("model_cache.meta.json")
    meta.unlink() if beside is None else meta.write_bytes(beside)
    found = read(file)
    assert found.times == KeptTimes()
    assert tuple(found.models) == MODELS


async def test_a_file_beside_it_of_another_version_is_not_believed(file: Path) -> None:
    await cache(file).write(iter(MODELS), TIMES)
    meta = file.with_name("model_cache.meta.json")
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "version": 2}))
    assert read(file).times == KeptTimes()


async def test_times_alone_are_brought_up_to_date(file: Path) -> None:
    kept = cache(file)
    assert not await kept.write_times(TIMES), "of nothing there is no age"
    await kept.write(iter(MODELS), TIMES)
    later = replace(TIMES, library_unix_ms=200_000)
    assert await kept.write_times(later)
    assert read(file).times == later
    again = cache(file)
    assert again.read() is not None
    assert await again.write_times(TIMES)
    assert read(file).times == TIMES


async def test_another_broker_that_shares_the_file_makes_it_no_younger(file: Path) -> None:
    one, other = cache(file), cache(file)
    await one.write(iter(MODELS), TIMES)
    await other.write(iter(MODELS[:1]), replace(TIMES, library_unix_ms=1))
    await one.write_times(replace(TIMES, library_unix_ms=999_999))
    found = read(file)
    assert tuple(found.models) == MODELS[:1]
    assert found.times == KeptTimes()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b'{"a": 1', b"\x00\xff", b'{"a":{}}x', b'{"\xff":{}}'),
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_a_broken_file_is_set_aside(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    for count in range(BROKEN_MAX + 2):
        file.write_bytes(content)
        with capture_logs() as logs:
            assert cache(file).read() is None
        assert [each["log_level"] for each in logs] == ["warning"]
        broken = list(file.parent.glob("*.broken"))
        assert len(broken) == min(count + 1, BROKEN_MAX)
        assert all(each.read_bytes() == content for each in broken)
        assert not file.exists()


def test_parts_that_make_no_sense_are_left_out(file: Path) -> None:
    file.parent.mkdir()
    good = {"downloaded": False, "variants": {"a:1": {"downloaded": True, "size": 5}}}
    file.write_text(
        json.dumps(
            {
                "a": good,
                "b": 7,
                "c": {"variants": 7},
                "d": {"variants": {"d:1": 7, "d:2": {"size": "big"}, "d:3": {}}},
            }
        )
    )
    with capture_logs() as logs:
        found = [(each.name, [one.name for one in each.variants]) for each in read(file).models]
    assert found == [("a", ["a:1"]), ("d", ["d:3"])]
    assert [each["count"] for each in logs] == [4]


def spoil(file: Path, part: bytes) -> None:
    """As a disk may, wherever this stands."""
    file.write_bytes(file.read_bytes().replace(part, b"\xff" + part[1:]))


@pytest.mark.parametrize(
    ("part", "left"),
    [
        (b"d1", ["llama3:70b", "tiny:latest"]),
        (b"2025-01", ["llama3:70b", "tiny:latest"]),
        (b"It talks", ["tiny:latest"]),
        (b"llama3:70b", ["tiny:latest"]),
        (b"tiny", None),
    ],
)
async def test_bytes_that_are_no_text_are_no_end(
    file: Path, part: bytes, left: list[str] | None
) -> None:
    await cache(file).write(iter(MODELS), TIMES)
    spoil(file, part)
    with capture_logs() as logs:
        found = cache(file).read()
        models = [] if found is None else list(found.models)
        names = found and [one.name for each in models for one in each.variants]
    assert names == left
    assert [each["log_level"] for each in logs] == ["warning"]
    assert bool(list(file.parent.glob("*.broken"))) == (left is None)
    assert {each.mark for each in models} <= {""}, "what is not whole is asked for again"


async def test_what_killed_writers_left_is_cleared_and_what_is_being_written_is_not(
    file: Path,
) -> None:
    file.parent.mkdir()
    for name in (".model_cache.json.aa.part", ".model_cache.meta.json.bb.part"):
        (file.parent / name).write_text("half")
    disk = RealDisk()
    living = disk.create(file.parent / ".model_cache.json.cc.part")
    try:
        assert cache(file).read() is None
        assert [each.name for each in file.parent.iterdir()] == [".model_cache.json.cc.part"]
        await cache(file).write(iter(MODELS), TIMES)
        assert tuple(read(file).models) == MODELS
    finally:
        disk.close(living)
    assert cache(file).read() is not None
    assert not list(file.parent.glob(".*"))


class Failing(RealDisk):
    """Fails at one of its steps, or, `dies`, at that one and all that follow."""

    def __init__(self, fails_at: int, *, dies: bool) -> None:
        self.steps: list[str] = []
        self._fails_at = fails_at
        self._dies = dies

    def _step(self, name: str) -> None:
        self.steps.append(name)
        count = len(self.steps) - 1
        if count == self._fails_at or (self._dies and count > self._fails_at):
            raise OSError(28, "No space left on device")

    def create(self, path: Path) -> int:
        self._step("create")
        return super().create(path)

    def write(self, file: int, content: bytes) -> None:
        if len(self.steps) == self._fails_at:
            super().write(file, content[: len(content) // 2])
        self._step("write")
        super().write(file, content)

    def sync(self, file: int) -> None:
        self._step("sync")
        super().sync(file)

    def replace(self, part: Path, target: Path) -> None:
        self._step("replace")
        super().replace(part, target)

    def sync_folder(self, folder: Path) -> None:
        self._step("sync_folder")
        super().sync_folder(folder)


ALL_STEPS = ["create", "write", "sync", "replace", "sync_folder"] * 2


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("fails_at", range(len(ALL_STEPS)))
async def test_whatever_fails_the_old_list_or_the_new_one_is_there(
    file: Path, fails_at: int, dies: bool
) -> None:
    await cache(file).write(iter(MODELS[:1]), TIMES)
    disk = Failing(fails_at, dies=dies)
    failing = cache(file, disk)
    newer = replace(TIMES, library_unix_ms=999)
    with capture_logs() as logs:
        assert not await failing.write(iter(MODELS), newer)
        assert not await failing.write(iter(MODELS), newer) or not dies
    assert disk.steps[: fails_at + 1] == ALL_STEPS[: fails_at + 1]
    assert len(logs) == 1, "a failure is told once while it lasts"
    found = read(file)
    models = tuple(found.models)
    if dies:
        was_replaced = fails_at > ALL_STEPS.index("replace")
        assert models == (MODELS if was_replaced else MODELS[:1])
        # The age is that of what is there, or unknown.
        meta_replaced = fails_at > len(ALL_STEPS) // 2 + ALL_STEPS.index("replace")
        expected = newer if meta_replaced else (KeptTimes() if was_replaced else TIMES)
        assert found.times == expected
    else:
        assert (models, found.times) == (MODELS, newer), "the second try went well"
    assert not list(file.parent.glob(".*.part"))


async def test_a_pipe_in_its_place_holds_nobody_up(file: Path) -> None:
    file.parent.mkdir()
    os.mkfifo(file)
    with capture_logs() as logs:
        assert cache(file).read() is None
    assert [each["log_level"] for each in logs] == ["warning"]


async def test_a_folder_that_cannot_be_made_is_no_end(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    kept = cache(tmp_path / "taken" / "model_cache.json")
    with capture_logs() as logs:
        assert kept.read() is None
        assert not await kept.write(iter(MODELS), TIMES)
        assert not await kept.write(iter(MODELS), TIMES)
    assert sum("cannot be kept" in each["event"] for each in logs) == 1


async def test_writing_rests_again_and_again(file: Path) -> None:
    moments = iter(range(1_000_000))
    rests: list[float] = []
    kept = ModelCache(file, sleep=rests.append, clock=lambda: float(next(moments)))
    await kept.write(iter(MODELS * 50), TIMES)
    assert len(rests) == 100
