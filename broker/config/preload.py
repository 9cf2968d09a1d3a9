"""The settings of loading models before anybody asks for them.

The rules of `schema.py` hold.
"""

from __future__ import annotations

from pydantic import Field

from broker.config.section import Section


class PreloadConfig(Section):
    """[preload]: which models are loaded before anybody asks, and when (docs/adr/0031)."""

    enabled: bool = False
    # Nothing is loaded that will probably not be used for so long.
    horizon_s: int = Field(default=900, ge=10, le=86_400)
    # Nor what is less likely than this to be used before it must make way for another.
    probability_min: float = Field(default=0.4, ge=0, le=1)
    # What makes way for it must be worth so many times less: the wait that is saved, if the one is
    # asked for first, against the wait that is made, if the other is.
    margin: float = Field(default=1.2, ge=1, le=100)
    # For so long nothing must have waited. Agents of a session come back within seconds.
    idle_s: float = Field(default=1.0, ge=0, le=3_600)
    # How many models' habits are kept, those asked for last.
    models_max: int = Field(default=64, ge=1, le=1_000)
    # A working day counts until so many others have come, a day of the weekend likewise.
    days: int = Field(default=7, ge=1, le=365)
