"""A broker that is killed while it writes the list of models leaves one that can be read."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.integration.killed_writer import BY_CHANCE, STEPS, VARIANTS

ROOT = Path(__file__).resolve().parents[2]
REPLACE, META_REPLACE = 3, 8  # the steps from whose end on the new list, and its age, are there
PATIENCE_S = 120.0


async def test_the_list_can_be_read_wherever_its_writer_was_killed(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.killed_writer", str(tmp_path)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        told, _ = await process.communicate()
    assert process.returncode == 0
    lines: list[dict[str, Any]] = [json.loads(each) for each in told.splitlines()]
    assert len(lines) == STEPS + BY_CHANCE
    before = 1
    for step, line in enumerate(lines[:STEPS]):
        assert line["signal"] == 9
        if step > REPLACE:
            before = line["wrote"]
        assert line["generations"] == [before]
        # Its age is known, or, killed between the two files, not; it is never that of another list.
        is_known = step <= REPLACE or step > META_REPLACE
        assert line["age_of"] == (before if is_known else None)
    for line in lines[STEPS:]:
        assert len(line["generations"]) == 1, "half of one list and half of another"
        before = line["wrote"] if line["generations"] == [line["wrote"]] else before
        assert line["generations"] == [before]
        assert line["age_of"] in (before, None)
    for line in lines:
        assert line["variants"] == line["models"] * VARIANTS > 0
        assert (line["left"], line["broken"]) == ([], 0)
