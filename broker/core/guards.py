"""Models that judge texts instead of answering: they are never chosen where none was named.

Known by their names, as nothing else tells them from those that answer: the families of Ollama's
library, and what others call such models.
"""

from __future__ import annotations

import re
from typing import Final

# The families, as the last part of a name without its tag begins with them.
GUARD_FAMILIES: Final = (
    "llama-guard",
    "llamaguard",
    "shieldgemma",
    "shieldlm",
    "shieldstral",
    "guardreasoner",
    "granite3-guardian",
    "granite-guardian",
    "wildguard",
    "aegis-ai-content-safety",
    "nemoguard",
    "prompt-guard",
    "qwen3guard",
    "gpt-oss-safeguard",
)

# "bielik-guard" and "mylab/safety-guardian" are such models too; "guardrails-chat" answers.
_JUDGES: Final = re.compile(r"(?:^|[-_.])(?:guard|guardian|safeguard)\d*(?=$|[-_.:])")


def is_guard(name: str, family: str = "") -> bool:
    """Does the model of this name judge texts? `family` is what its own file says, if anything."""
    return _is_guard(name) or _is_guard(family)


def _is_guard(name: str) -> bool:
    base = name.lower().rsplit("/", 1)[-1].partition(":")[0]
    return base.startswith(GUARD_FAMILIES) or _JUDGES.search(base) is not None
