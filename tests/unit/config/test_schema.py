"""What a configuration says of itself, and which addresses it takes."""

from __future__ import annotations

import pytest

from broker.backends.ollama_host import parse_host
from broker.config.address import check_backend_url, check_listen_address
from broker.config.schema import Config, QueueConfig
from broker.config.serving import ModelConfig


def test_the_digest_tells_settings_apart() -> None:
    other = Config(queue=QueueConfig(announce_interval_ms=999))
    assert Config().digest() == Config().digest()
    assert Config().digest() != other.digest()


def test_a_description_marks_what_was_set() -> None:
    config = Config(
        queue=QueueConfig(announce_interval_ms=999), models={"llama3:8b": ModelConfig(num_ctx=4096)}
    )
    lines = config.describe().splitlines()
    assert "queue.announce_interval_ms = 999  # set" in lines
    assert "queue.handicap_ms_per_priority = 5000" in lines
    assert 'models."llama3:8b".num_ctx = 4096  # set' in lines
    assert 'agents.types[0].match = ["opus-*"]' in lines


def test_each_of_several_backends_and_types_has_the_defaults_of_its_kind() -> None:
    backends = [{"name": name, "url": f"http://{name}:1", "slots": 3} for name in "abc"]
    types = [{"name": name, "match": ["*"], "weight": 2.0} for name in "abcd"]
    lines = Config.model_validate({"backends": backends, "agents": {"types": types}}).describe()
    marked = [each for each in lines.splitlines() if each.endswith("  # set")]
    assert 'backends[2].url = "http://c:1"  # set' in marked
    assert "backends[2].slots = 3  # set" in marked
    assert "agents.types[3].weight = 2.0  # set" in marked
    assert "backends[2].retry_interval_ms = 2000" in lines.splitlines()
    assert {each.partition("].")[2].split(" ")[0] for each in marked if each[0] == "b"} == {
        *("name", "url", "slots"),
    }


@pytest.mark.parametrize("text", ["127.0.0.1:0", "localhost:65535", "[::1]:50434", "0.0.0.0:80"])
def test_addresses_to_listen_on(text: str) -> None:
    assert check_listen_address(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        ":80",
        "h:",
        "h:65536",
        "h:-1",
        "h:x",
        "::1:80",
        "[::g]:80",
        "[h]:1",
        "a b:1",
    ],
)
def test_no_addresses_to_listen_on(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be HOST:PORT|is no IPv6 address"):
        check_listen_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "h",
        "h:1",
        "http://h",
        "https://h:1/p",
        "[::1]:1",
        "::1",
        "ollama.com",
        "h:99999",
        ":1",
        "'h'",
    ],
)
def test_urls_of_backends_are_those_that_the_backend_reads(text: str) -> None:
    assert check_backend_url(text) == text
    parse_host(text)


@pytest.mark.parametrize("text", ["ftp://h", "h h", "http://a@b", "h?x", "a:b:c", "h%"])
def test_urls_that_no_backend_reads(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|is no IPv6"):
        check_backend_url(text)
    with pytest.raises(ValueError, match=r"scheme|character|IPv6"):
        parse_host(text)
