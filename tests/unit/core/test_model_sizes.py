"""Sizes as they are written and read, and what a loaded model takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.model_sizes import (
    NEEDS_TOLD_MAX,
    MemoryNeed,
    bytes_of,
    memory_needed,
    needs_of,
    size_str,
    spaced,
    status_text,
)
from broker.core.ports import ModelFacts

GB = 10**9


@pytest.mark.parametrize(
    ("size", "written"),
    [
        (0, ""),
        (999, ""),
        (1_000, "1KB"),
        (39_891, "40KB"),
        (2_065_234, "2.1MB"),
        (274_302_450, "274MB"),
        (999_499_999, "999MB"),
        (999_500_000, "1GB"),
        (1_321_098_329, "1.3GB"),
        (5_225_376_047, "5.2GB"),
        (9_949_999_999, "9.9GB"),
        (9_960_000_000, "10GB"),
        (42_520_413_916, "43GB"),
        (1_300_000_000_000, "1.3TB"),
        (10**15, ""),  # somebody's figures are wrong
        (-1, ""),
    ],
)
def test_a_size_is_written_as_the_library_writes_it(size: int, written: str) -> None:
    assert size_str(size) == written


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("5.2GB", 5_200_000_000),
        ("5.2 GB", 5_200_000_000),
        (" 4.7gb ", 4_700_000_000),
        ("274MB", 274_000_000),
        ("1.3TB", 1_300_000_000_000),
        ("40KB", 40_000),
        ("0.29GB", 290_000_000),
    ],
)
def test_a_written_size_is_read(written: str, size: int) -> None:
    assert bytes_of(written) == size


NO_SIZES = ["", "8B", "8b", "70b", "335M", "335m", "1.5T", "GB", "5,2GB", "5.2GiB", "-1GB"]
NO_SIZES += ["1e9GB", "٣GB", "5.2GB5", "5 . 2GB", "nanGB", "99999999GB", "120b-cloud"]


@pytest.mark.parametrize("written", NO_SIZES)
def test_parameters_and_other_words_are_no_size(written: str) -> None:
    assert bytes_of(written) is None
    assert spaced(written) == ""
    assert status_text(True, written) == "✓ Downloaded"


def test_the_status_is_as_the_seeds_write_it() -> None:
    assert status_text(True, "5.2GB") == "✓ Downloaded (5.2 GB)"
    assert status_text(False, "5.2 GB") == "⬇ Downloadable (5.2 GB)"
    assert status_text(False, "") == "⬇ Downloadable"
    assert status_text(False, "8B") == "⬇ Downloadable"


@given(st.integers(1_000, 10**15 - 10**12))
def test_what_is_written_is_near_what_it_was(size: int) -> None:
    written = size_str(size)
    read = bytes_of(written)
    assert read is not None
    assert abs(read - size) <= size * 0.05
    assert size_str(read) == written
    assert bytes_of(spaced(written)) == read


def facts(**changes: object) -> ModelFacts:
    told: dict[str, object] = {
        "name": "m:latest",
        "runner": "r",
        "digest": "d",
        "size_bytes": 5 * GB,
        "context_length_train": 131_072,
        "kv_bytes_per_token": 131_072,
    }
    return ModelFacts(**(told | changes))  # type: ignore[arg-type]


def test_what_was_measured_is_believed() -> None:
    assert memory_needed(facts(), 4_096, 1, {4_096: 7 * GB}) == 7 * GB


def test_from_what_was_measured_only_the_cache_differs() -> None:
    measured = {4_096: 7 * GB, 65_536: 20 * GB}
    per_token = 131_072
    assert memory_needed(facts(), 8_192, 1, measured) == 7 * GB + per_token * 4_096
    assert memory_needed(facts(), 8_192, 4, measured) == 7 * GB + 4 * per_token * 4_096
    assert memory_needed(facts(), 60_000, 1, measured) == 20 * GB - per_token * 5_536
    # It never takes less than its weights.
    assert memory_needed(facts(), 1, 8, {131_072: 8 * GB}) == 5 * GB


def test_with_figures_alone_it_takes_its_file_and_its_cache() -> None:
    assert memory_needed(facts(), 32_768, 1) == 5 * GB + 32_768 * 131_072
    assert memory_needed(facts(), 32_768, 2) == 5 * GB + 2 * 32_768 * 131_072
    assert memory_needed(facts(), 1_024, 1) == 6 * GB  # no less than a model usually does


def test_without_figures_a_larger_context_is_a_bound() -> None:
    plain = facts(kv_bytes_per_token=0)
    assert memory_needed(plain, 4_096, 1) == 6 * GB
    assert memory_needed(plain, 4_096, 1, {8_192: 8 * GB}) == 8 * GB
    assert memory_needed(plain, 16_384, 1, {8_192: 8 * GB}) == 8 * GB  # the best that is known
    assert memory_needed(plain, 16_384, 1, {8_192: 1 * GB}) == 6 * GB


def test_a_context_beyond_its_training_is_that_of_its_training() -> None:
    one = facts(context_length_train=2_048)
    assert memory_needed(one, 100_000, 1, {2_048: 7 * GB}) == 7 * GB


def test_of_what_nothing_is_known_nothing_is_said() -> None:
    unknown = facts(size_bytes=0, kv_bytes_per_token=0, context_length_train=0)
    assert memory_needed(unknown, 4_096, 1) == 0
    assert memory_needed(facts(size_bytes=0), 4_096, 1) == 0
    assert needs_of(unknown, 1) == ()


def test_the_usual_context_is_told_first_and_then_others_and_measured_ones() -> None:
    needs = needs_of(facts(context_length_train=32_768), 1, {5_000: 7 * GB}, usual=8_192)
    assert [each.num_ctx for each in needs] == [8_192, 4_096, 5_000, 16_384, 32_768]
    assert [each.num_ctx for each in needs if each.measured] == [5_000]
    assert needs[2] == MemoryNeed(num_ctx=5_000, memory_bytes=7 * GB, measured=True)
    others = [each.memory_bytes for each in needs[1:]]
    assert others == sorted(others)


def test_the_usual_context_is_what_the_model_asks_for_and_no_more_than_it_can() -> None:
    assert needs_of(facts(num_ctx_default=8_192), 1)[0].num_ctx == 8_192
    assert needs_of(facts(), 1)[0].num_ctx == 4_096
    assert needs_of(facts(context_length_train=512), 1)[0].num_ctx == 512
    assert needs_of(facts(context_length_train=512), 1, usual=8_192)[0].num_ctx == 512


def test_without_figures_needs_are_told_for_one_context() -> None:
    [need] = needs_of(facts(kv_bytes_per_token=0, context_length_train=512), 1)
    assert (need.num_ctx, need.memory_bytes) == (512, 6 * GB)


@given(
    st.integers(0, 10**13),
    st.integers(0, 10**8),
    st.integers(0, 10**7),
    st.integers(0, 64),
    st.dictionaries(st.integers(1, 10**7), st.integers(1, 10**13), max_size=8),
    st.integers(0, 10**7),
)
def test_needs_are_few_and_in_order(
    size: int, train: int, per_token: int, slots: int, measured: dict[int, int], usual: int
) -> None:
    told = facts(size_bytes=size, context_length_train=train, kv_bytes_per_token=per_token)
    needs = needs_of(told, slots, measured, usual=usual)
    contexts = [each.num_ctx for each in needs]
    assert contexts[1:] == sorted(set(contexts[1:]))
    assert contexts[0] not in contexts[1:] if contexts else not size
    assert len(contexts) <= NEEDS_TOLD_MAX
    for each in needs:
        assert each.memory_bytes > 0
        assert not train or each.num_ctx <= train
        assert each.measured == (each.num_ctx in measured)
        if each.measured:
            assert each.memory_bytes == measured[each.num_ctx]
