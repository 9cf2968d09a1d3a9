"""The adapter that a backend of the configuration calls for."""

from __future__ import annotations

import os
from collections.abc import Mapping

import structlog

from broker.backends.connections import TransportLimits
from broker.backends.ollama import OllamaBackend
from broker.backends.openai_compatible import OpenAiBackend
from broker.config.serving import BackendConfig
from broker.core.ports import Backend

_log = structlog.get_logger(__name__)


def make_backend(config: BackendConfig, environment: Mapping[str, str] | None = None) -> Backend:
    """The adapter of this backend's kind; it opens no connection yet.

    A key that is named and not there is only warned of: the server may do without one.
    """
    limits = TransportLimits(connect_timeout_s=config.connect_timeout_ms / 1000)
    if config.kind == "ollama":
        return OllamaBackend(name=config.name, host=config.url, limits=limits)
    environment = os.environ if environment is None else environment
    key = environment.get(config.api_key_env, "").strip() if config.api_key_env else ""
    if config.api_key_env and not key:
        _log.warning(
            "the key of a backend is not set", backend=config.name, variable=config.api_key_env
        )
    return OpenAiBackend(
        name=config.name,
        host=config.url,
        api_key=key,
        api_key_env=config.api_key_env,
        limits=limits,
    )
