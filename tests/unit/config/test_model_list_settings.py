"""[model_list]: what of it contradicts itself, and what it means to who goes by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config.load import load
from broker.daemon.listing import cache_file, refresh_policy
from broker.models.refresh import HOUR_MS, RefreshPolicy
from tests.unit.config.problems import NO_ENVIRONMENT, problems_of


def written(folder: Path, text: str) -> Path:
    file = folder / "broker.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            "fresh_h = 24.5",
            "model_list.fresh_h: is 24.5; must be at most model_list.expired_h (24)",
        ),
        ("expired_h = 5.0", "model_list.fresh_h: is 6; must be at most model_list.expired_h (5)"),
        ("retry_s = 3_601", "model_list.retry_s: is 3601; must be at most model_list.retry_max_s"),
    ],
)
def test_what_contradicts_itself_is_named(tmp_path: Path, settings: str, problem: str) -> None:
    file = written(tmp_path, f"[model_list]\n{settings}\n")
    (told,) = problems_of(file)
    assert problem in told


def test_what_is_written_is_what_holds(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        [model_list]
        cache_file = "~/x/model_cache.json"
        fresh_h = 1.0
        expired_h = 2.0
        metered = true
        busy_percent_max = 50.0
        retry_s = 1
        retry_max_s = 2
        [library]
        source = "file"
        file = "models.json"
        """,
    )
    config = load(file, NO_ENVIRONMENT)
    assert refresh_policy(config) == RefreshPolicy(
        fresh_ms=HOUR_MS,
        expired_ms=2 * HOUR_MS,
        is_local=True,
        is_metered=True,
        busy_share=0.5,
        retry_ms=1_000,
        retry_max_ms=2_000,
    )
    assert cache_file(config) == Path("~/x/model_cache.json").expanduser()


def test_brokers_on_one_host_keep_lists_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = {
        cache_file(load(written(tmp_path, f'[server]\ngrpc_address = "{address}"'), NO_ENVIRONMENT))
        for address in ("127.0.0.1:1", "127.0.0.1:2", "[::1]:1")
    }
    assert len(files) == 3
    assert all(each.name == "model_cache.json" for each in files)
    assert all(each.parent.parent == tmp_path / "ollama-broker" for each in files)
