"""The alerts as Prometheus judges them: the file that is shipped, and promtool's own word on it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from broker.core.alert_rules import FIRST_TOKENS_MIN, RULES, AlertPolicy
from broker.observability.alert_file import expressions, rules_file
from tests.tidy.sources import ROOT

RULES_FILE = ROOT / "packaging" / "broker.rules.yml"


def test_the_file_of_rules_is_the_table_of_rules() -> None:
    assert RULES_FILE.read_text() == rules_file(AlertPolicy())
    assert set(expressions(AlertPolicy())) == {rule.name for rule in RULES}


def test_the_file_of_rules_fires_and_clears_as_the_broker_does() -> None:
    rules = RULES_FILE.read_text().split("- alert: ")[1:]
    assert [each.partition("\n")[0] for each in rules] == [*(r.name for r in RULES), "BrokerGone"]
    for rule, written in zip(RULES, rules, strict=False):
        assert f"\n        for: {rule.hold_ns // 10**9}s\n" in written
        clears = f"\n        keep_firing_for: {rule.clear_ns // 10**9}s\n"
        assert (clears in written) == (rule.clear_ns > 0)
    # As in the broker, a mean of fewer says nothing.
    count = "increase(broker_request_first_token_seconds_count[300s])"
    enough = f"and sum by (instance, job) ({count}) >= {FIRST_TOKENS_MIN}"
    assert expressions(AlertPolicy())["HighRequestLatency"].endswith(f" > 5 {enough}")


RULE_TESTS = """\
rule_files: [{rules}]
evaluation_interval: 5s
tests:
  - interval: 5s
    input_series:
      - series: broker_request_first_token_seconds_sum{{job="few"}}
        values: 0 0+27x60
      - series: broker_request_first_token_seconds_count{{job="few"}}
        values: 0 3x60
      - series: broker_request_first_token_seconds_sum{{job="many"}}
        values: 0 0+27x60
      - series: broker_request_first_token_seconds_count{{job="many"}}
        values: 0 0+3x60
      - series: broker_backend_up
        values: 0x4 1x60
    alert_rule_test:
      - eval_time: 2m
        alertname: HighRequestLatency
        exp_alerts:
          - exp_labels: {{job: many, severity: warning}}
            exp_annotations: {{summary: {summary}, runbook: {runbook}}}
      - eval_time: 30s
        alertname: NoBackend
        exp_alerts:
          - exp_labels: {{severity: critical}}
            exp_annotations: {{summary: {none}, runbook: {doctor}}}
      - eval_time: 60s
        alertname: NoBackend
        exp_alerts: []
"""


def test_prometheus_judges_by_the_file_as_the_broker_does(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here (Debian: prometheus)")
    named = {rule.name: rule for rule in RULES}
    latency, none = named["HighRequestLatency"], named["NoBackend"]
    told = RULE_TESTS.format(
        rules=RULES_FILE,
        summary=json.dumps(latency.meaning),
        runbook=json.dumps(latency.runbook),
        none=json.dumps(none.meaning),
        doctor=json.dumps(none.runbook),
    )
    file = tmp_path / "rules.test.yml"
    file.write_text(told)
    tested = subprocess.run(
        [promtool, "test", "rules", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_promtool_accepts_the_file_of_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here (Debian: prometheus)")
    checked = subprocess.run(
        [promtool, "check", "rules", "--lint-fatal", str(RULES_FILE)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(RULES) + 1} rules found" in checked.stdout
