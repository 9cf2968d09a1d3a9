"""Model names: Ollama's grammar, its short form, and when two names are one model."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.backends.ollama_names import (
    HOST_CHARACTERS_MAX,
    PART_CHARACTERS_MAX,
    InvalidModelName,
    comparison_key,
    normalise,
    parse_name,
)

FIRST = string.ascii_letters + string.digits + "_"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("tiny-m", "tiny-m:latest"),
        ("tiny-m:latest", "tiny-m:latest"),
        ("Tiny-M:Q4", "Tiny-M:Q4"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("library/llama3.2", "llama3.2:latest"),
        ("registry.ollama.ai/library/llama3.2:1b", "llama3.2:1b"),
        ("REGISTRY.ollama.ai/Library/m", "m:latest"),
        ("user/m:q4", "user/m:q4"),
        ("registry.ollama.ai/user/m", "user/m:latest"),
        ("hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M"),
        ("https://hf.co/org/repo", "hf.co/org/repo:latest"),
        ("localhost:5000/org/repo", "localhost:5000/org/repo:latest"),
        ("localhost:5000/org/repo:x", "localhost:5000/org/repo:x"),
        ("_m:_t", "_m:_t"),
        ("m" * PART_CHARACTERS_MAX, "m" * PART_CHARACTERS_MAX + ":latest"),
    ],
)
def test_a_name_is_shown_as_ollama_lists_it(text: str, short: str) -> None:
    assert normalise(text) == short
    assert normalise(short) == short


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        ":tag",
        "m:",
        "/m",
        "m/",
        "a//m",
        "-m",
        ".m",
        "m:-t",
        "m@sha256:" + "a" * 64,
        "na.me/m",
        "a/b/c/d",
        "mödel",
        "m\n",
        "m" * (PART_CHARACTERS_MAX + 1),
        "m:" + "t" * (PART_CHARACTERS_MAX + 1),
        "h" * (HOST_CHARACTERS_MAX + 1) + "/n/m",
        "a:b:c",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidModelName):
        parse_name(text)


def test_names_match_whatever_their_case_and_defaults() -> None:
    assert comparison_key("TINY-M") == comparison_key("registry.ollama.ai/library/tiny-m:Latest")
    assert comparison_key("tiny-m") != comparison_key("tiny-m:v2")
    assert comparison_key("user/m") != comparison_key("m")


PART = st.builds(
    lambda first, rest: first + rest,
    st.sampled_from(FIRST),
    st.text(alphabet=FIRST + "-", max_size=PART_CHARACTERS_MAX - 1),
)


@given(PART, PART, PART, PART)
def test_the_short_form_means_the_same_model(host: str, space: str, model: str, tag: str) -> None:
    name = parse_name(f"{host}/{space}/{model}:{tag}")
    assert (name.host, name.namespace, name.model, name.tag) == (host, space, model, tag)
    assert parse_name(name.short).key == name.key
