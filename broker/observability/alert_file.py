"""The alerts in the words of Prometheus: `python -m broker.observability.alert_file` prints the
file that is shipped as packaging/broker.rules.yml.

The broker judges these rules itself as well; the file is for those whose alerts all come from one
place. It adds the one thing that a broker cannot tell: that it is gone.

It asks for Prometheus 2.42, which knows `keep_firing_for`.
"""

from __future__ import annotations

import json
from typing import Final

from broker.core.alert_rules import FIRST_TOKENS_MIN, RETRY_WINDOW_NS, RULES, AlertPolicy
from broker.core.vanishings import CONTESTED_MIN, WINDOW_NS

_S: Final = 1_000_000_000
_EACH: Final = "by (instance, job)"

HEAD: Final = """\
# Alerts of the broker for Prometheus, with the thresholds of a broker without a configuration, by
#   python -m broker.observability.alert_file
# The broker judges the same rules itself: brokerctl status shows those that fire.
groups:
  - name: ollama-broker
    interval: 5s
    rules:
"""


def expressions(policy: AlertPolicy) -> dict[str, str]:
    """What each rule asks of Prometheus."""
    window = f"[{policy.window_ns // _S}s]"
    first_token = "broker_request_first_token_seconds"
    return {
        "HighRequestLatency": (
            f"sum {_EACH} (rate({first_token}_sum{window}))"
            f" / sum {_EACH} (rate({first_token}_count{window}))"
            f" > {policy.first_token_ns_mean / _S:g}"
            f" and sum {_EACH} (increase({first_token}_count{window})) >= {FIRST_TOKENS_MIN}"
        ),
        "QueueSaturation": (
            f"sum {_EACH} (broker_queue_depth) / sum {_EACH} (broker_queue_limit)"
            f" > {policy.queue_share:g}"
        ),
        "NoBackend": f"max {_EACH} (broker_backend_up) == 0",
        "CircuitBreakerOpen": "broker_circuit_breaker_state == 2",
        "ExcessiveRetries": (
            f"sum {_EACH} (increase(broker_retries_total[{RETRY_WINDOW_NS // _S}s]))"
            f" > {policy.retries_per_minute:g}"
        ),
        "BackendWedged": "broker_backend_health >= 2",
        "ModelsContested": (
            f"increase(broker_models_vanished_total[{WINDOW_NS // _S}s]) >= {CONTESTED_MIN}"
        ),
        "SensorFailing": "broker_sensor_up == 0",
        "LevelCritical": "broker_level == 3",
    }


def rules_file(policy: AlertPolicy) -> str:
    """The whole file."""
    asked = expressions(policy)
    rules = [
        _rule(
            rule.name,
            asked[rule.name],
            hold_s=rule.hold_ns // _S,
            clear_s=rule.clear_ns // _S,
            severity=rule.severity,
            summary=rule.meaning,
            runbook=rule.runbook,
        )
        for rule in RULES
    ]
    gone = _rule(
        "BrokerGone",
        "absent(broker_level)",
        hold_s=60,
        clear_s=0,  # a broker that is there again is there
        severity="critical",
        summary="No broker is scraped: it has ended, or cannot be reached.",
        runbook="systemctl status brokerd and journalctl -u brokerd say whether it runs and why it "
        "does not.",
    )
    return HEAD + "".join((*rules, gone))


def _rule(
    name: str,
    expression: str,
    *,
    hold_s: int,
    clear_s: int,
    severity: str,
    summary: str,
    runbook: str,
) -> str:
    clears = f"        keep_firing_for: {clear_s}s\n" if clear_s else ""
    # A string of JSON is one of YAML.
    return (
        f"      - alert: {name}\n"
        f"        expr: {json.dumps(expression)}\n"
        f"        for: {hold_s}s\n"
        f"{clears}"
        "        labels:\n"
        f"          severity: {severity}\n"
        "        annotations:\n"
        f"          summary: {json.dumps(summary)}\n"
        f"          runbook: {json.dumps(runbook)}\n"
    )


if __name__ == "__main__":
    print(rules_file(AlertPolicy()), end="")
