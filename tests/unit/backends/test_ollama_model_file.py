"""What /api/show tells of files and of the cache: only what is surely meant is believed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.backends.ollama_model_file import FILES_MAX, Files, files, kv_bytes_per_token

A, B, C = "a" * 64, "b" * 64, "c" * 64


def lines(*texts: str) -> str:
    return "\n".join(texts) + "\n"


def test_weights_adapters_and_projectors_are_told_apart() -> None:
    modelfile = lines(
        "# FROM m:latest",
        f"# FROM /root/sha256-{C}",
        "",
        f"FROM /root/.ollama/models/blobs/sha256-{A}",
        f"ADAPTER /root/.ollama/models/blobs/sha256-{B}",
        f"FROM C:\\Users\\An Other\\blobs\\sha256-{C}",
        "TEMPLATE {{ .Prompt }}",
    )
    assert files(modelfile) == Files(weights=(A, C), adapters=(B,))


def test_a_text_that_looks_like_a_line_of_files_is_none() -> None:
    modelfile = lines(
        f"FROM /m/sha256-{A}", 'SYSTEM """', f"FROM /m/sha256-{B}", f"ADAPTER /m/sha256-{C}", '"""'
    )
    assert files(modelfile) == Files(weights=(A,))


@pytest.mark.parametrize(
    "first",
    ["FROM model:latest", "FROM /m/sha256-abc", f"FROM /m/sha256-{'A' * 64}", "FROM ", f"FROM {A}"],
)
def test_a_model_of_several_tensors_files_has_no_blob(first: str) -> None:
    assert files(lines(first, f"FROM /m/sha256-{B}")).weights == ()


def test_only_so_many_files_are_remembered() -> None:
    many = [f"FROM /m/sha256-{number:064x}" for number in range(FILES_MAX + 10)]
    assert len(files(lines(*many)).weights) == FILES_MAX


def test_a_file_that_is_named_twice_is_one() -> None:
    assert files(lines(f"FROM /m/sha256-{A}", f"FROM /m/sha256-{A}")).weights == (A,)


def info(**figures: object) -> dict[str, Any]:
    told: dict[str, Any] = {
        "general.architecture": "l",
        "l.block_count": 32,
        "l.embedding_length": 4096,
        "l.attention.head_count": 32,
        "l.attention.head_count_kv": 8,
    }
    told.update({f"l.{name.replace('__', '.')}": value for name, value in figures.items()})
    return told


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, 131_072),  # llama 3.1 8b: 2 · 32 · 8 · 128 · 2
        ({"attention__key_length": 64, "attention__value_length": 64}, 65_536),
        ({"attention__key_length": 192, "attention__value_length": 128}, 163_840),
        ({"attention__head_count_kv": [8] * 32}, 131_072),
        ({"attention__head_count_kv": [8] * 8 + [0] * 24}, 32_768),
        ({"attention__head_count_kv": [8] * 31}, 0),  # of another number of layers
        ({"attention__head_count_kv": None}, 0),  # an array that was not told
        ({"attention__head_count_kv": []}, 0),
        ({"attention__head_count_kv": "8"}, 0),
        ({"full_attention_interval": 4}, 32_768),
        ({"full_attention_interval": 0}, 131_072),
        ({"attention__causal": False}, 0),
        ({"block_count": 0}, 0),
        ({"block_count": 100_000}, 0),
        ({"embedding_length": 10**8}, 0),  # beyond belief
        ({"attention__head_count": 0}, 0),
    ],
)
def test_what_a_token_of_context_takes(figures: dict[str, object], expected: int) -> None:
    assert kv_bytes_per_token(info(**figures)) == expected


def test_without_its_own_figure_every_head_has_a_cache() -> None:
    told = info()
    del told["l.attention.head_count_kv"]
    assert kv_bytes_per_token(told) == 4 * 131_072


def test_a_model_that_tells_nothing_has_no_figure() -> None:
    assert kv_bytes_per_token({}) == 0


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=40),
    max_leaves=40,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "block_count": ODD,
            "embedding_length": ODD,
            "attention__head_count": ODD,
            "attention__head_count_kv": ODD,
            "attention__key_length": ODD,
            "full_attention_interval": ODD,
        },
    )
)
def test_no_figures_make_it_fail(figures: dict[str, object]) -> None:
    assert 0 <= kv_bytes_per_token(info(**figures)) <= 64 * 1024 * 1024


@given(st.text(max_size=200))
def test_no_modelfile_makes_it_fail(text: str) -> None:
    told = files(text)
    assert all(len(each) == 64 for each in (*told.weights, *told.adapters))
