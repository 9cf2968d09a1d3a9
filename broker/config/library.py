"""The settings of the library: whether, where and how it is read what could be downloaded.

The rules of `schema.py` hold.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from broker.config.address import check_backend_url
from broker.config.section import MIB, Section

LIBRARY_URL = "https://ollama.com/library"


def _check_url(text: str) -> str:
    check_backend_url(text)
    if not text.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return text


class LibraryConfig(Section):
    """[library]: what could be downloaded. Off, no connection is made and nothing is read."""

    source: Literal["off", "web", "file"] = "off"
    # Of its list; the tags of a model are at URL/NAME/tags.
    url: Annotated[str, Field(max_length=2_048), AfterValidator(_check_url)] = LIBRARY_URL
    # In the seeds' shape, JSON or, by its name, TOML.
    file: str = Field(default="", max_length=4_096)
    # Of one refresh. The whole of ollama.com was some 250 when this was written.
    pages_max: int = Field(default=2_000, ge=2, le=100_000)
    page_bytes_max: int = Field(default=8 * MIB, ge=1_024, le=256 * MIB)
    # At once. It is somebody else's machine.
    concurrency: int = Field(default=2, ge=1, le=16)
    connect_timeout_s: float = Field(default=10.0, ge=0.1, le=600)
    page_timeout_s: float = Field(default=30.0, ge=0.1, le=3_600)
    refresh_timeout_s: float = Field(default=900.0, ge=1, le=86_400)
