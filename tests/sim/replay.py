"""`python -m tests.sim.replay SEED`: plays the world of one seed and prints what became of it."""

from __future__ import annotations

import argparse

from tests.sim.play import play
from tests.sim.scenario import SECOND_NS, draw


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.sim.replay", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--digest", action="store_true", help="print nothing but the digest")
    asked = parser.parse_args()
    if asked.digest:
        print(play(asked.seed).digest)
        return
    scenario = draw(asked.seed)
    print(f"{len(scenario.tasks)} tasks, calm at {scenario.calm_ns / SECOND_NS:.0f} s")
    for site in scenario.sites:
        slots = site.settings.num_parallel
        print(f"{site.policy}, {slots} slots: {', '.join(each.name for each in site.models)}")
    for fault in scenario.faults:
        print(fault)
    print(scenario.policy.queue, scenario.policy.agents, sep="\n")
    for at_ns, order in scenario.orders:
        print(f"{at_ns / SECOND_NS:.3f} s: {order}")
    played = play(asked.seed)
    endings = ", ".join(f"{count} {outcome.value}" for outcome, count in played.outcomes.items())
    print(f"{endings}; {played.loads} loads; over at {played.ended_ns / SECOND_NS:.0f} s")
    print(played.digest)


if __name__ == "__main__":
    main()
