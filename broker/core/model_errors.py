"""What is said where no model is what a request calls for."""

from __future__ import annotations

from typing import Final, NamedTuple

from broker.core.errors import BrokerError


class RejectedModel(NamedTuple):
    """A model that was not chosen, and why, in words."""

    name: str
    because: str


class NoModelFits(BrokerError):
    """No model is what the request calls for. `rejected` are those that come nearest, and why
    not."""

    reason = "NO_MODEL_FITS"
    TOLD_MAX: Final = 3

    def __init__(self, rejected: tuple[RejectedModel, ...]) -> None:
        told = "; ".join(f"{each.name} {each.because}" for each in rejected[: self.TOLD_MAX])
        super().__init__(f"no model fits: {told}" if told else "no model fits: there is none")
        self.rejected = rejected

    @property
    def nearest(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.rejected[: self.TOLD_MAX])
