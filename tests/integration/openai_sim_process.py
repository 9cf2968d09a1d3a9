"""A real `openai-sim` in a process of its own; it is asked, told and ended as `ollama-sim` is."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.integration.ollama_sim_process import ROOT, Simulator

LISTENING = re.compile(rb"openai-sim listening on http://(\S+):(\d+) \(simulated (\S+):")


def start_openai_simulator(*arguments: str) -> Simulator:
    """Starts `openai-sim` on a free port and waits for its line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "broker.sim.openai_sim", "--port", "0", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = LISTENING.match(line)
    if found is None:
        process.kill()
        raise AssertionError(f"openai-sim did not start: {line!r}")
    return Simulator(process, int(found.group(2)))
