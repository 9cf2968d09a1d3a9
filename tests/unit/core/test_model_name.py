"""Names of models by Ollama's rules. The table is that of reference/OLLAMA.md §5."""

from __future__ import annotations

import pytest

from broker.core.model_name import NAME_LENGTH_MAX, canonical, comparison_key, nearest


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("tiny", "tiny:latest"),
        ("llama3.2", "llama3.2:latest"),  # a dot belongs to the model
        ("llama3.2:3b", "llama3.2:3b"),
        ("library/llama3.2", "llama3.2:latest"),
        ("registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest"),
        ("https://registry.ollama.ai/library/x", "x:latest"),
        ("REGISTRY.ollama.ai/Library/X", "X:latest"),  # the caller's spelling is kept
        ("user/m:q4", "user/m:q4"),
        ("registry.ollama.ai/user/m:q4", "user/m:q4"),
        ("hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M"),
        ("localhost:5000/me/m", "localhost:5000/me/m:latest"),  # a host may have a port
        ("localhost:5000/library/m", "localhost:5000/library/m:latest"),
        ("_m-1.5_x:v-1.0_y", "_m-1.5_x:v-1.0_y"),
        ("m" * 80, "m" * 80 + ":latest"),
        ("h" * 350 + "/n/m", "h" * 350 + "/n/m:latest"),
    ],
)
def test_the_shortest_full_form_always_shows_the_tag(name: str, shown: str) -> None:
    assert canonical(name) == shown
    assert canonical(shown) == shown


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        "m:",
        ":tag",
        "/m",
        "a//m",
        "a/b/c/m",
        "-m",  # the first character is a letter, a digit or an underscore
        ".m",
        "m:-t",
        "m m",
        "m\n",
        "m:a:b",
        "user.name/m",  # a namespace has no dots
        "m@sha256:0123",  # digests are no longer accepted
        "modèle",
        "m" * 81,
        "m:" + "t" * 81,
        "n" * 81 + "/m",
        "h" * 351 + "/n/m",
        "m" * (NAME_LENGTH_MAX + 1),
    ],
)
def test_a_malformed_name_has_no_canonical_form(name: str) -> None:
    assert canonical(name) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("tiny", "tiny:latest", True),
        ("TINY:Latest", "tiny", True),
        ("library/tiny", "tiny", True),
        ("user/tiny", "tiny", False),
        ("tiny:q4", "tiny", False),
        ("hf.co/library/tiny", "tiny", False),
    ],
)
def test_names_are_compared_without_case_and_with_defaults(
    one: str, other: str, same: bool
) -> None:
    assert (comparison_key(one) == comparison_key(other)) is same


def test_a_malformed_name_still_has_a_key_that_no_model_has() -> None:
    assert comparison_key("Not A Name") == "not a name"


def test_the_nearest_names_come_first_three_at_most_and_as_they_are_spelled() -> None:
    names = ["Llama3.2:3b", "llama3.2:latest", "qwen2.5:latest", "mistral:latest", "phi4:latest"]
    found = nearest("lama3.2", names)
    assert found[0] == "llama3.2:latest"
    assert found[1] == "Llama3.2:3b"
    assert len(found) == 3
    assert nearest("anything", []) == ()


def test_the_nearest_names_do_not_depend_on_the_order_they_came_in() -> None:
    names = ["a:latest", "b:latest", "c:latest", "d:latest"]
    assert nearest("x", names) == nearest("x", list(reversed(names)))
