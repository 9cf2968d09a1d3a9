"""From TOML and the environment to one configuration, or to everything that is wrong with them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.config.load import FILE_BYTES_MAX, ConfigProblems, load
from broker.config.schema import AgentsConfig, Config, LimitsConfig, ServerConfig
from tests.unit.config.problems import NO_ENVIRONMENT, problems_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "broker.toml"


def test_no_file_is_an_empty_file(file: Path) -> None:
    file.write_text("")
    assert load(None, NO_ENVIRONMENT) == load(file, NO_ENVIRONMENT) == Config()


def test_settings_are_taken_from_the_file(file: Path) -> None:
    file.write_text(
        """
        [server]
        grpc_address = "[::1]:0"
        [agents]
        default_type = ""
        types = [{name = "cat", match = ["cat-*", "kitten-?"]}]
        [[backends]]
        name = "big"
        url = "http://gpu.local:11434/ollama"
        slots = 4
        memory_gb = 80
        [models."llama3:8b"]
        num_ctx = 8192
        """
    )
    config = load(file, NO_ENVIRONMENT)
    assert config.server.grpc_address == "[::1]:0"
    assert config.server.http_address == ServerConfig().http_address
    assert config.agents.types[0].match == ("cat-*", "kitten-?")
    assert [(each.name, each.slots, each.memory_gb) for each in config.backends] == [("big", 4, 80)]
    assert config.models["llama3:8b"].num_ctx == 8192


def test_every_problem_is_reported_at_once(file: Path) -> None:
    file.write_text(
        """
        bogus = 1
        [server]
        grpc_adress = "127.0.0.1:1"
        log_level = "loud"
        [limits]
        queued_max = 0
        deadline_max_s = "7"
        prompt_bytes_max = 9000000
        [[agents.types]]
        name = "A b"
        match = []
        [[backends]]
        url = "ftp://x"
        slots = true
        [[backends]]
        url = "b"
        name = "same"
        [[backends]]
        url = "c"
        name = "same"
        [models]
        "llama3:8b" = {num_ctx = 5, num_ctx_max = 3}
        "x" = {num_ctx_mx = 5}
        "y" = 5
        "bad name" = {}
        """
    )
    assert sorted(problems_of(file)) == sorted(
        [
            f"bogus: is no setting; known are {', '.join(Config.model_fields)}",
            "server.grpc_adress: is no setting; did you mean grpc_address?",
            "server.log_level: is \"loud\"; must be one of 'debug', 'info', 'warning' or 'error'",
            "limits.queued_max: is 0; must be at least 1",
            'limits.deadline_max_s: is "7"; must be a whole number',
            "limits.prompt_bytes_max: is 9000000; must be less than limits.request_bytes_max "
            "(8388608), as a request holds more than its text",
            'agents.types[0].name: is "A b"; must match ^[a-z0-9][a-z0-9_.-]{0,62}$',
            "agents.types[0].match: must not be empty",
            'backends[0].url: is "ftp://x"; must have the scheme http or https, or none',
            "backends[0].slots: is true; must be a whole number",
            'backends[2].name: is "same" a second time; names of backends must differ',
            'models."llama3:8b".num_ctx: is 5; must be at most num_ctx_max (3)',
            "models.x.num_ctx_mx: is no setting; did you mean num_ctx_max?",
            "models.y: must be a table",
            'models."bad name": is no name that a model can have',
        ]
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a = ", "is not TOML: Invalid value (at end of document)"),
        (b"a = 1\nb = [", "is not TOML: Invalid value (at end of document)"),
        (b"[server]\nx == 1\n", "is not TOML: Invalid value (at line 2, column 4)"),
        (b"a = 1\nb = '\xff'\n", "is not UTF-8 (at line 2)"),
        (b"a = " + b"[" * 100_000, "is not TOML: its arrays or tables are nested too deeply"),
        (b"#" * (FILE_BYTES_MAX + 1), f"is larger than {FILE_BYTES_MAX} bytes"),
    ],
    ids=["no value", "open array", "stray", "not text", "deep", "large"],
)
def test_a_file_that_is_no_toml_is_one_problem(file: Path, text: bytes, problem: str) -> None:
    file.write_bytes(text)
    assert problems_of(file) == [problem]


def test_a_number_of_thousands_of_digits_is_a_problem(file: Path) -> None:
    file.write_text("[limits]\nqueued_max = " + "9" * 5_000)
    (problem,) = problems_of(file)
    assert problem.startswith("is not TOML: ")


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "absent") == ["cannot be read: No such file or directory"]
    assert problems_of(tmp_path) == ["cannot be read: Is a directory"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[server]\nmessage_bytes_max = 8388608", "server.message_bytes_max"),
        ("[limits]\nprompt_bytes_max = 8388608", "limits.prompt_bytes_max"),
        ("[limits]\nqueued_max = 20_000", "limits.queued_max"),
        ("[limits]\ndeadline_default_s = 90_000", "limits.deadline_default_s"),
        ("[limits]\nqueued_per_agent_max = 1_001", "limits.queued_per_agent_max"),
        ("[queue]\nroom_max = 10_001", "queue.room_max"),
        ("[queue]\nprompt_token_cost = 0\noutput_token_cost = 0", "queue.prompt_token_cost"),
        (
            "[queue]\nroom_priority_worst = 4\n[agents]\ndefault_type = ''\n"
            "types = [{name = 'a', match = ['x'], priority_best = 5}]",
            "queue.room_priority_worst",
        ),
        ("[agents]\nrequests_burst = 3", "agents.requests_burst"),
        ("[agents]\ntokens_burst = 3", "agents.tokens_burst"),
        ("[server]\nhttp_address = '127.0.0.1:50434'", "server.http_address"),
        ("[agents]\ndefault_type = 'cat'", "agents.default_type"),
        ("[agents]\ndefault_type = 'system'\ntypes = []", "agents.default_type"),
        (
            "[agents]\ndefault_type = 'a'\ntypes = [{name = 'a', match = ['x']}, "
            "{name = 'a', match = ['y']}]",
            "agents.types[1].name",
        ),
        ("[[backends]]\nname = 'a'\n[[backends]]\nname = 'b'", "backends[1].url"),
        (
            "[[backends]]\nname = 'a'\nurl = 'h:1/'\n[[backends]]\nname = 'b'\nurl = 'H:1'",
            "backends[1].url",
        ),
        ("[models]\ntiny = {}\n'Tiny:latest' = {}", 'models."Tiny:latest"'),
    ],
)
def test_a_contradiction_is_a_problem(file: Path, text: str, path: str) -> None:
    file.write_text(text)
    (problem,) = problems_of(file)
    assert problem.startswith(f"{path}: is ")


def test_a_wrong_value_is_not_also_a_contradiction(file: Path) -> None:
    file.write_text("[limits]\nrequest_bytes_max = 1\nprompt_bytes_max = 500_000_000")
    assert problems_of(file) == ["limits.request_bytes_max: is 1; must be at least 4096"]


def test_both_addresses_may_take_any_free_port(file: Path) -> None:
    file.write_text("[server]\nhttp_address = '127.0.0.1:0'\ngrpc_address = '127.0.0.1:0'")
    assert load(file, NO_ENVIRONMENT).server.http_address == "127.0.0.1:0"


def test_the_environment_gives_the_defaults_of_the_local_backend() -> None:
    env = {
        "OLLAMA_HOST": ' "0.0.0.0:4" ',
        "OLLAMA_NUM_PARALLEL": "'4'",
        "OLLAMA_MAX_LOADED_MODELS": "2",
        "BROKER_ADDRESS": "elsewhere:1",
    }
    config = load(None, env)
    (backend,) = config.backends
    assert (backend.url, backend.slots, backend.resident_max) == ("0.0.0.0:4", 4, 2)
    assert config.server == ServerConfig()


def test_the_environment_does_not_speak_of_a_backend_with_a_url(file: Path) -> None:
    file.write_text("[[backends]]\nurl = 'other:1'\n[[backends]]\nname = 'here'\nslots = 2")
    env = {"OLLAMA_HOST": "h:1", "OLLAMA_NUM_PARALLEL": "8", "OLLAMA_MAX_LOADED_MODELS": "3"}
    other, here = load(file, env).backends
    assert (other.url, other.slots, other.resident_max) == ("other:1", 1, 1)
    assert (here.url, here.slots, here.resident_max) == ("h:1", 2, 3)


@pytest.mark.parametrize("unset", ["", " ", "0"])
def test_what_ollama_reads_as_unset_is_unset(unset: str) -> None:
    env = {"OLLAMA_NUM_PARALLEL": unset, "OLLAMA_MAX_LOADED_MODELS": unset}
    assert load(None, env) == Config()
    assert load(None, {"OLLAMA_HOST": ""}) == Config()


def test_a_wrong_variable_is_blamed_by_name() -> None:
    env = {
        "OLLAMA_HOST": "ftp://x",
        "OLLAMA_NUM_PARALLEL": "many",
        "OLLAMA_MAX_LOADED_MODELS": "65",
    }
    assert problems_of(None, env) == [
        'environment: OLLAMA_NUM_PARALLEL: is "many"; must be a whole number from 0 to 256',
        'environment: OLLAMA_MAX_LOADED_MODELS: is "65"; must be a whole number from 0 to 64',
        'environment: OLLAMA_HOST: is "ftp://x"; must have the scheme http or https, or none',
    ]


def test_a_long_value_is_shown_short(file: Path) -> None:
    file.write_text(f"[server]\ngrpc_address = '{'x' * 1000}'")
    (problem,) = problems_of(file)
    assert len(problem) < 200


def test_defaults_keep_to_their_own_limits() -> None:
    """validate_default is on; were a default out of its range, this would raise."""
    assert Config.model_validate({}) == Config()
    assert LimitsConfig().prompt_bytes_max < LimitsConfig().request_bytes_max
    assert AgentsConfig().default_type in [each.name for each in AgentsConfig().types]


SECTIONS = st.sampled_from([*Config.model_fields, "other"])
KEYS = st.sampled_from(
    ["name", "url", "queued_max", "types", "match", "num_ctx", "memory_gb", "bulkhead", "weight"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=st.dictionaries(SECTIONS, VALUES, max_size=4))
def test_no_document_breaks_the_loader(
    document: dict[str, object], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever TOML can hold either is a configuration or gives problems, each with its path."""
    file.write_text("")
    with monkeypatch.context() as patched:
        patched.setattr(tomllib, "loads", lambda text: document)
        try:
            found: tuple[object, ...] = load(file, {"OLLAMA_NUM_PARALLEL": "2"}).backends
        except ConfigProblems as raised:
            found = raised.problems if all(p.path and p.text for p in raised.problems) else ()
        assert found


def test_a_bad_entry_of_a_list_is_named_like_any_setting(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('[[backends]]\ntags = ["BAD TAG"]\nrestart_command = [""]\nslots = 0')
    found = problems_of(file)
    assert [each.partition(":")[0] for each in found] == [
        "backends[0].tags[0]",
        "backends[0].restart_command[0]",
        "backends[0].slots",
    ]
