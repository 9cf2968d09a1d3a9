"""What is said where no model is what a request calls for."""

from __future__ import annotations

from typing import Final, NamedTuple

from broker.core.errors import BrokerError


class RejectedModel(NamedTuple):
    """A model that was not chosen, and why, in words."""

    name: str
    because: str


class NoModelFits(BrokerError):
    """No model is what the request calls for, or the one that it names is not. `rejected` are those
    that come nearest, and why not; `able` would do, where one was named."""

    reason = "NO_MODEL_FITS"
    TOLD_MAX: Final = 3

    def __init__(self, rejected: tuple[RejectedModel, ...], able: tuple[str, ...] = ()) -> None:
        told = "; ".join(f"{each.name} {each.because}" for each in rejected[: self.TOLD_MAX])
        words = f"no model fits: {told}" if told else "no model fits: there is none"
        if able:
            words = f"it does not fit: {told}; nearest that does: {', '.join(able)}"
        super().__init__(words)
        self.rejected, self.able = rejected, able

    @property
    def nearest(self) -> tuple[str, ...]:
        """Names, those that would do before those that would not."""
        return self.able or tuple(each.name for each in self.rejected[: self.TOLD_MAX])
