"""A configuration read again: what holds at once, what after a restart, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config.load import ConfigProblems, load
from broker.config.reload import LIVE, Reload, plan_reload
from broker.config.schema import Config, LimitsConfig
from broker.config.section import Section
from tests.unit.config.problems import NO_ENVIRONMENT

STARTED_WITH = """
[limits]
queued_max = 100
[[backends]]
name = "a"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "broker.toml"


@pytest.fixture
def running(file: Path) -> Config:
    """What a broker that was started with `file` runs with."""
    file.write_text(STARTED_WITH)
    return load(file, NO_ENVIRONMENT)


def reread(file: Path, running: Config, text: str) -> Reload:
    file.write_text(text)
    return plan_reload(running, file, NO_ENVIRONMENT)


def test_the_same_file_changes_nothing(file: Path, running: Config) -> None:
    plan = plan_reload(running, file, NO_ENVIRONMENT)
    assert plan == Reload(config=running, changed=(), needs_restart=())


def test_live_settings_change_and_others_wait(file: Path, running: Config) -> None:
    plan = reread(
        file,
        running,
        """
        [server]
        log_level = "debug"
        drain_timeout_s = 5
        [limits]
        queued_max = 200
        queued_per_agent_max = 20
        streams_max = 20_000
        [queue]
        agent_order = "deadline"
        [agents]
        remembered_max = 500
        [bulkheads]
        batch = 2
        [[backends]]
        name = "a"
        slots = 4
        url = "gpu:1"
        [models.tiny]
        num_ctx = 4_096
        [placement]
        keep_alive_s = 60
        slot_grace_ms = 50
        """,
    )
    assert plan.changed == (
        "server.drain_timeout_s: 30 -> 5",
        "limits.queued_max: 100 -> 200",
        'queue.agent_order: "size" -> "deadline"',
        "agents.remembered_max: 10000 -> 500",
        "bulkheads.opus: 10 -> unset",
        "bulkheads.sonnet: 20 -> unset",
        "bulkheads.critical: 5 -> unset",
        "bulkheads.batch: 15 -> 2",
        "backends.a.slots: 1 -> 4",
        "placement.slot_grace_ms: 300 -> 50",
        "limits.queued_per_agent_max: unset -> 20",
    )
    assert plan.needs_restart == (
        'server.log_level: "info" -> "debug"',
        "limits.streams_max: 10000 -> 20000",
        'backends.a.url: "127.0.0.1:11434" -> "gpu:1"',
        "placement.keep_alive_s: 600 -> 60",
        "models.tiny.num_ctx: unset -> 4096",
        "models.tiny.backend_tags: unset -> []",
    )
    assert plan.config.limits == LimitsConfig(queued_max=200, queued_per_agent_max=20)
    assert plan.config.server == running.server.model_copy(update={"drain_timeout_s": 5})
    assert plan.config.backends == (running.backends[0].model_copy(update={"slots": 4}),)
    assert plan.config.models == {}
    assert plan.config.bulkheads == {"batch": 2}


def test_types_are_told_by_their_place_in_the_file(file: Path, running: Config) -> None:
    plan = reread(
        file,
        running,
        STARTED_WITH
        + """
        [[agents.types]]
        name = "opus"
        match = ["opus-*", "lead"]
        weight = 2
        [[agents.types]]
        name = "system"
        match = ["system-*"]
        requests_per_minute = 50
        """,
    )
    assert plan.changed == (
        'agents.types[0].match: ["opus-*"] -> ["opus-*", "lead"]',
        "agents.types[0].weight: 1.0 -> 2.0",
        "agents.types[0].requests_per_minute: 10.0 -> unset",
        'agents.types[1].name: "sonnet" -> "system"',
        'agents.types[1].match: ["sonnet-*"] -> ["system-*"]',
        "agents.types[1].requests_per_minute: 20.0 -> 50.0",
        'agents.types[2].name: "system" -> unset',
        'agents.types[2].match: ["system-*"] -> unset',
        "agents.types[2].weight: 1.0 -> unset",
        "agents.types[2].requests_per_minute: 50.0 -> unset",
        "agents.types[2].priority_best: 1 -> unset",
        "agents.types[2].may_be_critical: true -> unset",
        'agents.types[2].bulkhead: "" -> unset',
    )


def test_what_needs_a_restart_is_said_each_time(file: Path, running: Config) -> None:
    text = STARTED_WITH.replace("100", "200") + "url = 'gpu:2'\n"
    first = reread(file, running, text)
    again = plan_reload(first.config, file, NO_ENVIRONMENT)
    assert first.changed == ("limits.queued_max: 100 -> 200",)
    assert again.changed == ()
    url = 'backends.a.url: "127.0.0.1:11434" -> "gpu:2"'
    assert again.needs_restart == first.needs_restart == (url,)
    assert again.config == first.config


def test_a_setting_that_is_no_longer_given_goes_back_to_its_default(
    file: Path, running: Config
) -> None:
    plan = reread(file, running, '[[backends]]\nname = "a"\n')
    assert plan.changed == ("limits.queued_max: 100 -> 1000",)


def test_every_problem_is_named_and_nothing_is_planned(file: Path, running: Config) -> None:
    with pytest.raises(ConfigProblems) as raised:
        reread(file, running, "[limits]\nqueued_max = 0\n[agents]\nrequests_burst = 3\n")
    assert [each.path for each in raised.value.problems] == [
        "limits.queued_max",
        "agents.requests_burst",
    ]
    assert all(each.source == str(file) for each in raised.value.problems)


def test_a_file_that_is_gone_is_a_problem(file: Path, running: Config) -> None:
    file.unlink()
    with pytest.raises(ConfigProblems, match="cannot be read: No such file"):
        plan_reload(running, file, NO_ENVIRONMENT)


def test_what_only_a_restart_would_make_fit_is_refused(file: Path, running: Config) -> None:
    """The file is good, but not with the streams_max that stays until a restart."""
    with pytest.raises(ConfigProblems) as raised:
        reread(file, running, "[limits]\nqueued_max = 20_000\nstreams_max = 30_000\n")
    (problem,) = raised.value.problems
    assert str(problem) == (
        f"{file}: limits.queued_max: is 20000; must be at most limits.streams_max (10000), as each "
        "request that waits has a stream. This is so until a restart, which other changes in the "
        "file need"
    )


def test_the_environment_is_read_as_at_the_start(file: Path) -> None:
    file.write_text("")
    env = {"OLLAMA_HOST": "gpu:1", "OLLAMA_NUM_PARALLEL": "4"}
    running = load(file, env)
    assert plan_reload(running, file, env).needs_restart == ()
    plan = plan_reload(running, file, NO_ENVIRONMENT)
    assert plan.needs_restart == ('backends.ollama.url: "gpu:1" -> "127.0.0.1:11434"',)
    assert plan.changed == ("backends.ollama.slots: 4 -> 1",)


def test_backends_come_and_go_by_their_names(file: Path, running: Config) -> None:
    plan = reread(
        file,
        running,
        """
        [limits]
        queued_max = 100
        [[backends]]
        name = "b"
        url = "b:1"
        kind = "openai"
        """,
    )
    assert plan.changed == ("backends.a: removed", "backends.b: added")
    assert plan.needs_restart == ()
    assert plan.config.backends == load(file, NO_ENVIRONMENT).backends


def test_the_order_of_backends_is_the_files(file: Path, running: Config) -> None:
    a, b = '[[backends]]\nname = "a"\n', '[[backends]]\nname = "b"\nurl = "b:1"\n'
    both = reread(file, running, f"[limits]\nqueued_max = 100\n{a}{b}weight = 2.0\n").config
    plan = reread(file, both, f"[limits]\nqueued_max = 100\n{b}weight = 3.0\n{a}")
    assert plan.changed == (
        "backends.b.weight: 2.0 -> 3.0",
        'backends: ["a", "b"] -> ["b", "a"]',
    )
    assert [each.name for each in plan.config.backends] == ["b", "a"]


def test_a_model_confined_to_tags_that_no_backend_has_is_refused(
    file: Path, running: Config
) -> None:
    text = STARTED_WITH + 'tags = ["large"]\n[models.tiny]\nbackend_tags = ["large", "huge"]\n'
    with pytest.raises(ConfigProblems) as raised:
        reread(file, running, text)
    assert [str(each) for each in raised.value.problems] == [
        f'{file}: models.tiny.backend_tags: no backend has tag "huge"; known are large'
    ]


def test_a_long_value_is_shown_short(file: Path, running: Config) -> None:
    globs = [f"agent-{number}-*" for number in range(100)]
    plan = reread(
        file,
        running,
        STARTED_WITH + f"[[agents.types]]\nname = 'system'\nmatch = {globs}\n",
    )
    assert max(map(len, plan.changed)) < 200


def test_what_is_live_exists() -> None:
    for name, live in LIVE.items():
        section = Config().backends[0] if name == "backends" else getattr(Config(), name)
        if live is not None:
            assert isinstance(section, Section)
            assert live <= set(type(section).model_fields)
