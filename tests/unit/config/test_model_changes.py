"""[pulls] and [model_access]: what they mean, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config.load import load
from broker.config.schema import Config
from broker.core.pull_hours import Hours
from broker.daemon.changing import allowed, model_folders, pull_policy
from broker.models.pulls import PullPolicy
from broker.services.model_access import ModelChange
from tests.unit.config.problems import problems_of


def test_what_nobody_says_is_as_the_product_has_it() -> None:
    assert pull_policy(Config()) == PullPolicy()
    assert allowed(Config()) == dict.fromkeys(ModelChange, ())
    assert model_folders(Config()) == {"ollama": ""}


def test_what_is_said_holds(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(
        '[pulls]\nconcurrent_max = 3\nhours = ["22:00-06:00"]\ndisk_reserve_gb = 0.5\n'
        "stop_when_unheard = true\n"
        '[model_access]\npull = ["type:opus", "puller-*"]\n'
        '[[backends]]\nname = "here"\nmodels_folder = "/models"\n'
        '[[backends]]\nname = "far"\nurl = "gpu.example:11434"\n'
    )
    config = load(file, {})
    policy = pull_policy(config)
    assert (policy.concurrent_max, policy.hours) == (3, Hours.parse(("22:00-06:00",)))
    assert (policy.reserve_bytes, policy.stops_unheard) == (500_000_000, True)
    assert allowed(config)[ModelChange.PULL] == ("type:opus", "puller-*")
    assert model_folders(config) == {"here": "/models"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[pulls]\nhours = ["22-6"]',
            'pulls.hours[0]: is "22-6"; must be a window of hours, as "22:00-06:00" is one',
        ),
        (
            '[pulls]\nhours = ["08:00-08:00"]',
            'pulls.hours[0]: is "08:00-08:00"; must not be an empty window; without any, all day '
            "is meant",
        ),
        (
            "[pulls]\nretry_s = 400",
            "pulls.retry_s: is 400; must be at most pulls.retry_max_s (300), as waits grow up to "
            "it",
        ),
        (
            '[model_access]\nload = ["type:opuss"]',
            'model_access.load[0]: is "type:opuss"; there is no such type; did you mean opus?',
        ),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    assert problems_of(file) == [problem]
