"""`python -m brokerctl.demo`, which is what `make run` runs."""

from __future__ import annotations

from brokerctl.demo.command import demo

if __name__ == "__main__":
    demo(prog_name="brokerctl demo")
