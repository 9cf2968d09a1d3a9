"""OLLAMA_HOST: the table of Ollama's own test (envconfig/config_test.go, TestHost), as a client."""

from __future__ import annotations

import pytest

from broker.backends.ollama_host import parse_host


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        ("localhost", "http://localhost:11434"),
        (":66000", "http://127.0.0.1:11434"),
        (":-1", "http://127.0.0.1:11434"),
        (":65535", "http://127.0.0.1:65535"),
        ("h:", "http://h:11434"),
        ("h:http", "http://h:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        (" 1.2.3.4 ", "http://1.2.3.4:11434"),
        ('"1.2.3.4"', "http://1.2.3.4:11434"),
        (' " 1.2.3.4 " ', "http://1.2.3.4:11434"),
        ("'1.2.3.4'", "http://1.2.3.4:11434"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("http://1.2.3.4:4321", "http://1.2.3.4:4321"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://1.2.3.4:4321", "https://1.2.3.4:4321"),
        ("https://1.2.3.4:99999", "https://1.2.3.4:443"),
        ("http://[::1]", "http://[::1]:80"),
        ("https://example.com/ollama", "https://example.com:443/ollama"),
        ("example.com:1234/a/b/", "http://example.com:1234/a/b"),
        ("http://example.com/", "http://example.com:80"),
        ("ollama.com", "https://ollama.com:443"),
        ("http://ollama.com", "http://ollama.com:80"),
        # What only a listener means becomes an address that a client can reach.
        (":1234", "http://127.0.0.1:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("[::]", "http://[::1]:11434"),
        ("[::]:1234", "http://[::1]:1234"),
        ("::", "http://[::1]:11434"),
    ],
)
def test_the_address_is_the_one_ollama_reads(text: str, url: str) -> None:
    assert parse_host(text).client_url == url


def test_all_interfaces_are_told_from_one() -> None:
    assert parse_host(":1234").host == ""
    assert parse_host("0.0.0.0").host == "0.0.0.0"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ftp://example.com", "neither http nor https"),
        ("://example.com", "neither http nor https"),
        ("a:b:c", "no host"),
        ("two words", "a character"),
        ("user@example.com", "a character"),
        ("http://example.com/a?b", "a character"),
    ],
)
def test_what_is_no_address_is_said(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_host(text)
