"""What alerting asks for, and whom it tells."""

from __future__ import annotations

from dataclasses import replace

from structlog.testing import capture_logs

from broker.core.alert_rules import CLEAR_NS, AlertPolicy, FirstTokens
from broker.core.snapshot import Snapshot, take_snapshot
from broker.core.views import AlertView
from broker.observability.alerting import Alerting
from broker.runtime.observers import Observers
from tests.unit.core.scene import SECOND_NS, model, serving


class Listener(Observers):
    """Hears of alerts."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        super().__init__()
        self.told: list[list[str]] = []

    def alerts_changed(self, firing: tuple[AlertView, ...]) -> None:
        self.told.append([each.name for each in firing])


class Stage:
    """Alerting before an engine that stands still, with first tokens and a clock to turn."""

    def __init__(self) -> None:
        engine = serving(model("m")).engine
        self.sums = FirstTokens(count=0, ns_sum=0)
        self.now_ns = 0
        self.picture: Snapshot = take_snapshot(engine, 0)
        self.listener = Listener()
        self.alerting = Alerting(
            AlertPolicy(),
            lambda: replace(self.picture, at_ns=self.now_ns),
            lambda: engine.degradation.view(self.now_ns),
            lambda: self.sums,
            self.listener,
        )

    def firing(self) -> list[str]:
        return [each.name for each in self.alerting.firing()]


def test_what_fires_and_what_is_over_is_told_and_logged_once() -> None:
    stage = Stage()
    with capture_logs() as logged:
        stage.alerting.on_tick()
        assert stage.firing() == []
        stage.sums = FirstTokens(count=10, ns_sum=60 * SECOND_NS)
        for second in range(1, 4):
            stage.now_ns = second * SECOND_NS
            stage.alerting.on_tick()
            assert stage.firing() == ["HighRequestLatency"]
        stage.sums = FirstTokens(count=1_000, ns_sum=61 * SECOND_NS)
        stage.now_ns += CLEAR_NS
        stage.alerting.on_tick()
        assert stage.firing() == []
    assert stage.listener.told == [["HighRequestLatency"], []]
    assert [each["event"] for each in logged] == ["alert fires", "alert is over"]
    fired, over = logged
    assert fired["alert"] == over["alert"] == "HighRequestLatency"
    assert "6.0 s" in fired["summary"]
    assert "brokerctl" in fired["runbook"]
    assert (fired["log_level"], over["log_level"]) == ("warning", "info")


def test_a_second_alert_is_told_beside_the_first() -> None:
    stage = Stage()
    stage.sums = FirstTokens(count=10, ns_sum=60 * SECOND_NS)
    stage.alerting.on_tick()
    stage.picture = replace(stage.picture, queued=900)
    for _ in range(2):
        stage.now_ns += 10 * SECOND_NS
        stage.alerting.on_tick()
    both = ["HighRequestLatency", "QueueSaturation"]
    assert stage.listener.told == [["HighRequestLatency"], both]
    assert stage.firing() == both


def test_other_limits_hold_from_the_next_tick_on() -> None:
    stage = Stage()
    stage.picture = replace(stage.picture, queued=200)
    stage.alerting.on_tick()
    stage.alerting.configure(AlertPolicy(queue_share=0.1))
    for _ in range(2):
        stage.now_ns += 10 * SECOND_NS
        stage.alerting.on_tick()
    assert stage.firing() == ["QueueSaturation"]
