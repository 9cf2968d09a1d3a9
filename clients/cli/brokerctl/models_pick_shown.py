"""What the picker shows: the list that the broker told last, narrowed by what is asked for since.
Pure."""

from __future__ import annotations

from dataclasses import replace

from broker_client import Model, ModelList
from brokerctl.figures import counted
from brokerctl.models_pick_filter import PickFilter
from brokerctl.models_sources import source_lines


class Shown:
    """`models` are shown, by name and in the order of the list. `lost`: why no list comes."""

    def __init__(self, asked: PickFilter) -> None:
        self.asked = asked
        self.told: ModelList | None = None
        self.models: dict[str, Model] = {}
        self.lost = ""
        self._told_for = asked

    @property
    def changed_unix_ms(self) -> int:
        """When what is known last changed, as the broker says; 0: nothing is known."""
        return self.told.changed_unix_ms if self.told is not None else 0

    @property
    def is_loading(self) -> bool:
        """Does the broker itself not know yet?"""
        return self.told is not None and self.told.loading

    def take(self, asked: PickFilter, told: ModelList) -> bool:
        """A list takes the place of the one before. False where that changes nothing."""
        told = replace(told, changes=())
        is_same = not self.lost and asked == self._told_for and told == self.told
        self.lost = ""
        if is_same:
            return False
        self.told, self._told_for = told, asked
        self._narrow()
        return True

    def ask(self, asked: PickFilter) -> bool:
        """Asks for others: of these what is known is shown. False where that is no change."""
        if asked == self.asked:
            return False
        self.asked = asked
        self._narrow()
        return True

    def _narrow(self) -> None:
        models = self.told.models if self.told is not None else ()
        self.models = {
            each.name: each for each in models if self.is_answered or self.asked.holds_for(each)
        }

    @property
    def is_answered(self) -> bool:
        """Is the list that was told the one that is asked for? Then it needs no judge here."""
        return self.told is not None and self._told_for == self.asked

    def count_text(self) -> str:
        """How many, and how many more the broker has."""
        shown = len(self.models)
        if self.told is None or not self.is_answered:
            return f"{counted(shown, 'model')} so far"
        if self.told.total > shown:
            return f"{shown:,} of {self.told.total:,}; / finds the rest"
        return counted(shown, "model")

    def news(self) -> list[str]:
        """What is wrong with the list."""
        if self.lost:
            return [f"{self.lost}; what is shown is old, trying again"]
        return source_lines(self.told) if self.told is not None else []
