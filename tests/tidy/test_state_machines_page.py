"""The diagrams in the documentation are those of the tables in the code."""

from __future__ import annotations

from docs.diagrams import PAGE, page


def test_the_page_is_a_fresh_drawing_of_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m docs.diagrams"


def test_the_page_shows_every_way_that_a_request_and_a_model_can_go() -> None:
    drawn = page()
    assert "DISPATCHED --> REQUEUED: requeue" in drawn
    assert "UNLOADING --> RESIDENT: stayed" in drawn
    assert "    SHED --> [*]" in drawn
