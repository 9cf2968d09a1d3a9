"""python -m tests.integration.killed_writer FOLDER: writers of the list of models that are killed
with SIGKILL, each at another point, and what is found of the file after each: a line of JSON each.

The points are all steps of a write, at its beginning and in the middle of the bytes; then moments
that chance chooses, while a large list is written.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from broker.core.kept_models import KeptModel, KeptTimes, KeptVariant
from broker.state.disk import RealDisk
from broker.state.model_cache import ModelCache

STEPS = 10  # create, write, sync, replace, sync of the folder: of the list, and of its age
BY_CHANCE = 25
MODELS = 3_000
VARIANTS = 10


def models(generation: int, count: int) -> Iterator[KeptModel]:
    """A list by which one knows who wrote it."""
    for index in range(count):
        name = f"m{index}"
        yield KeptModel(
            name=name,
            description=str(generation),
            variants=tuple(KeptVariant(name=f"{name}:{each}b") for each in range(VARIANTS)),
        )


class Killing(RealDisk):
    """Ends this process at one of its steps."""

    def __init__(self, dies_at: int) -> None:
        self._left = dies_at

    def _step(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1

    def create(self, path: Path) -> int:
        self._step()
        return super().create(path)

    def write(self, file: int, content: bytes) -> None:
        if self._left == 0:
            super().write(file, content[: len(content) // 2])
        self._step()
        super().write(file, content)

    def sync(self, file: int) -> None:
        self._step()
        super().sync(file)

    def replace(self, part: Path, target: Path) -> None:
        self._step()
        super().replace(part, target)

    def sync_folder(self, folder: Path) -> None:
        self._step()
        super().sync_folder(folder)


def in_child(work: Callable[[], None]) -> int:
    """Its process."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def write(file: Path, disk: RealDisk, generation: int, count: int) -> None:
    kept = ModelCache(file, disk)
    asyncio.run(kept.write(models(generation, count), KeptTimes(library_unix_ms=generation)))


def found(file: Path) -> dict[str, object]:
    """What a broker that starts now would know."""
    kept = ModelCache(file).read()
    if kept is None:
        return {"generations": [], "models": 0}
    all_models = list(kept.models)
    return {
        "generations": sorted({int(each.description) for each in all_models}),
        "models": len(all_models),
        "variants": sum(len(each.variants) for each in all_models),
        "age_of": kept.times.library_unix_ms,
        "left": sorted(each.name for each in file.parent.iterdir() if each.name[0] == "."),
        "broken": len(list(file.parent.glob("*.broken"))),
    }


def main(folder: Path) -> None:
    file = folder / "model_cache.json"
    write(file, RealDisk(), 1, 20)
    for step in range(STEPS):
        generation = step + 2

        def killed(step: int = step, generation: int = generation) -> None:
            write(file, Killing(step), generation, 20)

        _, status = os.waitpid(in_child(killed), 0)
        told = {"wrote": generation, "signal": os.WTERMSIG(status), **found(file)}
        print(json.dumps(told), flush=True)
    chance = Random(0)
    for generation in range(100, 100 + BY_CHANCE):

        def large(generation: int = generation) -> None:
            write(file, RealDisk(), generation, MODELS)

        child = in_child(large)
        time.sleep(chance.random() * 0.4)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(json.dumps({"wrote": generation, **found(file)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
