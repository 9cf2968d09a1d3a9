"""The version of this client, which also travels to the broker in the metadata of each call."""

from __future__ import annotations

__version__ = "0.1.0"
