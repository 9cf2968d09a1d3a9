"""Whatever stands in the kept list of models, a broker starts with it and keeps a good one."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.models.gathering import Gathering
from broker.models.index import Availability, ModelIndex, ModelQuery, Order
from broker.state.model_cache import ModelCache

NAMES = st.sampled_from(
    ["llama3", "llama3:8b", "LLAMA3:8B", "a/b", "h:1/n/m:t", "", ":", "x:", "bad name", "é", "\x00"]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "5.2GB", "8B", "2024-01-01T00:00:00Z", "x" * 2_000]),
    NAMES,
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)


def with_keys(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these keys, with anything in them."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, VALUES))


FACTS = with_keys("name", "runner", "digest", "size_bytes", "capabilities", "context_length_train")
VARIANT = st.builds(
    lambda plain, backends: {**plain, **({} if backends is None else {"backends": backends})},
    with_keys(
        "downloaded", "size_str", "context_window", "modified_at", "size", "digest", "listed"
    ),
    st.none() | st.dictionaries(st.sampled_from(["a", "b", ""]), FACTS | VALUES, max_size=2),
)
BASE = st.builds(
    lambda plain, variants: {**plain, "variants": variants},
    with_keys("downloaded", "capabilities", "description", "mark"),
    st.dictionaries(NAMES, VARIANT | VALUES, max_size=4) | VALUES,
)
DOCUMENTS = st.dictionaries(NAMES, BASE | VALUES, max_size=5) | VALUES


@given(document=DOCUMENTS, cut=st.integers(0, 40), beside=VALUES)
def test_whatever_is_kept_a_list_comes_of_it(document: Any, cut: int, beside: Any) -> None:
    content = json.dumps(document)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model_cache.json"
        file.write_text(content[: len(content) - cut] if cut < 5 else content)
        file.with_name("model_cache.meta.json").write_text(json.dumps(beside))
        index = ModelIndex()
        gathering = Gathering(index, lambda: {"a": "u"}, lambda: 1_000)
        kept = ModelCache(file).read()
        if kept is not None:
            gathering.begin_with(kept)
        query = ModelQuery(availability=Availability.ALL)
        names = [each.name for each in index.page(query, Order.NAME, "", 500).models]
        assert len(names) == len(set(names)) == len(index)
        cache = ModelCache(file, sleep=lambda _: None)
        assert asyncio.run(cache.write(*gathering.to_keep()))
        again = ModelCache(file).read()
        assert again is not None
        later = ModelIndex()
        Gathering(later, lambda: {"a": "u"}, lambda: 1_000).begin_with(again)
        found = later.page(query, Order.NAME, "", 500).models
        assert [(each.name, each.downloaded) for each in found] == [
            (each.name, each.downloaded) for each in index.page(query, Order.NAME, "", 500).models
        ]
