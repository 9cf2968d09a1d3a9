"""The books of the use of models, as a configuration wants them."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from broker.config.schema import Config
from broker.models.catalog import Catalog
from broker.models.usage import UsageRecorder
from broker.models.usage_books import UsageBooks
from broker.runtime.clock import Clock
from broker.state.usage_store import SqliteUsage, file_name


def usage_file(config: Config) -> Path:
    """Where the broker of this configuration keeps use."""
    if config.usage.file:
        return Path(config.usage.file).expanduser()
    folder = config.server.state_dir or platformdirs.user_state_dir("ollama-broker", False)
    return Path(folder) / file_name(config.server.grpc_address)


def usage_books(config: Config, catalog: Catalog, clock: Clock) -> UsageBooks | None:
    """None: none are to be kept."""
    wanted = config.usage
    if not wanted.enabled:
        return None
    return UsageBooks(
        UsageRecorder(
            lambda key: catalog.spelled(key) is not None, clock.unix_ns, wanted.agents_max
        ),
        SqliteUsage(usage_file(config), wanted.keep_days, wanted.rows_max),
        clock.unix_ns,
        clock.sleep,
        round(wanted.flush_interval_s * 1e9),
        wanted.rows_max,
    )
