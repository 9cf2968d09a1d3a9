"""`python -m docs.simulated` runs the commands of docs/simulate.md anew and writes what they say.

Their figures are those of the engine as it decides today, so that they change when a rule does.
Commands without shown output are left alone; of output that ends with "..." the first part is
shown.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "simulate.md"
_BLOCK: Final = re.compile(r"^```\n\$ brokerctl (simulate .*)\n((?:(?!```).*\n)+)```$", re.M)
_CUT: Final = "...\n"


def renewed(page: str) -> str:
    """The page with the output of each command as it is now."""
    return _BLOCK.sub(_block, page)


def _block(found: re.Match[str]) -> str:
    words, shown = found[1], found[2]
    said = subprocess.run(
        [sys.executable, "-m", "brokerctl.main", *shlex.split(words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if shown.endswith(_CUT):
        said = said.partition("\n\n")[0] + "\n" + _CUT
    return f"```\n$ brokerctl {words}\n{said}```"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
