"""The file that says which models the broker had loaded: what is believed of it, what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog.testing

from broker.state.owned_models import FILE_BYTES_MAX, OwnedModels, file_name

HERE, THERE = "http://127.0.0.1:11434", "http://gpu:11434"
KEEP_ALIVE_S = 600.0
PATIENCE_S = 30.0


class Wall:
    """The clock on the wall, which a test sets."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "owned.json"


def broker(file: Path, wall: Wall, keep_alive_s: float = KEEP_ALIVE_S) -> OwnedModels:
    """One that has just started."""
    owned = OwnedModels(file, keep_alive_s, wall)
    owned.read()
    return owned


@asynccontextmanager
async def writing(owned: OwnedModels) -> AsyncIterator[None]:
    task = asyncio.ensure_future(owned.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - it is another thread's
            await asyncio.sleep(0.01)


async def until_written(file: Path, text: str) -> None:
    await until(lambda: file.exists() and text in file.read_text())


def servers(file: Path) -> dict[str, float]:
    """When each was seen, as it is written."""
    found = json.loads(file.read_text())["servers"]
    return {url: each["seen_unix_s"] for url, each in found.items()}


async def kept(file: Path, wall: Wall, **servers: tuple[str, ...]) -> None:
    """A broker has run that had these at HERE and THERE."""
    owned = broker(file, wall)
    async with writing(owned):
        for name, runners in servers.items():
            owned.own(HERE if name == "here" else THERE, runners)
        await until_written(file, next(iter(servers.values()))[0])


async def test_the_next_broker_knows_what_was_owned(file: Path, wall: Wall) -> None:
    await kept(file, wall, here=("blob-a", "blob-b"), there=("blob-c",))
    owned = broker(file, wall)
    assert (owned.owned(HERE), owned.owned(THERE)) == (("blob-a", "blob-b"), ("blob-c",))
    assert owned.owned("http://elsewhere:1") == ()
    assert [each.name for each in file.parent.iterdir()] == ["owned.json"]


@pytest.mark.parametrize("later_s", [KEEP_ALIVE_S + 1, -KEEP_ALIVE_S - 1])
async def test_it_is_believed_for_a_keep_alive(file: Path, wall: Wall, later_s: float) -> None:
    """A clock that was set back makes it as doubtful as time that has passed."""
    await kept(file, wall, here=("blob-a",))
    wall.now_s += later_s
    assert broker(file, wall).owned(HERE) == ()


async def test_what_lasts_is_written_again_and_what_is_left_is_not(file: Path, wall: Wall) -> None:
    owned = broker(file, wall, keep_alive_s=0.125)
    async with writing(owned):
        owned.own(HERE, ("blob-a",))
        owned.own(THERE, ("blob-c",))
        await until_written(file, "1000000.0")
        owned.leave(THERE)
        wall.now_s += 0.0625
        await until_written(file, "1000000.0625")
        assert servers(file) == {HERE: 1_000_000.0625, THERE: 1_000_000.0}
        wall.now_s += 0.125
        await until_written(file, "1000000.1875")
    assert servers(file) == {HERE: 1_000_000.1875}


async def test_what_has_left_is_forgotten(file: Path, wall: Wall) -> None:
    owned = broker(file, wall)
    async with writing(owned):
        owned.own(HERE, ("blob-a",))
        await until_written(file, "blob-a")
        owned.own(HERE, ())
        await until_written(file, '"servers":{}')
    assert broker(file, wall).owned(HERE) == ()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"version":2,"servers":{}}', '{"version":1}'),
        *("x" * (FILE_BYTES_MAX + 1), '{"version":1,"servers":{"\xff":1}}'),
    ],
    ids=["empty", "torn", "list", "version", "missing", "large", "no text"],
)
def test_a_file_that_makes_no_sense_is_set_aside(file: Path, wall: Wall, text: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode("latin-1"))
    with structlog.testing.capture_logs() as logged:
        assert broker(file, wall).owned(HERE) == ()
    assert [each["log_level"] for each in logged] == ["warning"]
    assert [each.name for each in file.parent.iterdir()] == ["owned.broken"]


async def test_a_folder_that_cannot_be_is_told_once(tmp_path: Path, wall: Wall) -> None:
    (tmp_path / "file").write_text("")
    owned = OwnedModels(tmp_path / "file" / "owned.json", 0.02, wall)
    with structlog.testing.capture_logs() as logged:
        async with writing(owned):
            owned.own(HERE, ("blob-a",))
            await until(lambda: bool(logged))
            beats = owned.beats
            await until(lambda: owned.beats >= beats + 3)
    assert len(logged) == 1
    assert logged[0]["log_level"] == "warning"


def test_brokers_of_one_host_have_files_of_their_own() -> None:
    names = {file_name(each) for each in ("127.0.0.1:50434", "127.0.0.1:50435", "[::1]:50434")}
    assert len(names) == 3
    assert all("/" not in each and ":" not in each for each in names)
