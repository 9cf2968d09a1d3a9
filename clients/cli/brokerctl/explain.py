"""`brokerctl explain`: the story of one request, on a page."""

from __future__ import annotations

from typing import Final

import click

from broker_client import Attempt, Explanation, Overtaking
from brokerctl.call import Call, asking, print_json
from brokerctl.figures import counted, duration_text, span_text
from brokerctl.one_line import one_line

# What a state means for somebody who asks where the request is.
STATES: Final = {
    "admitted": "stands in the waiting room before the full queue",
    "queued": "waits",
    "requeued": "waits again",
    "dispatched": "was handed to a backend; no token yet",
    "streaming": "runs; tokens come",
    "cancelling": "was told to end; its slot is not free yet",
    "completed": "is complete",
    "failed": "failed",
    "refused": "was refused",
    "cancelled": "was cancelled",
    "expired": "was not done before its deadline",
    "shed": "was given up for the sake of the machine",
    "displaced": "gave its place to another agent's request",
}


@click.command()
@click.argument("request_id")
@click.option("--agent", "agent_id", default="", help="Whose, where several have this id.")
@asking
def explain(call: Call, request_id: str, agent_id: str) -> None:
    """Say why REQUEST_ID waits, or how it ended: its gates, who overtook it, what it waits for."""
    with call.client() as client:
        story = client.explain(request_id, agent_id=agent_id)
    if call.as_json:
        print_json(story)
    else:
        click.echo("\n".join(page(story)))


def page(story: Explanation) -> list[str]:
    """The whole story in lines, of which what a server said never makes more."""
    lines = [
        f"request {story.request_id} of agent {story.agent_id} {standing_text(story)}",
        f"  {plan_text(story)}",
        f"  {times_text(story)}",
        *(f"  {each}" for each in told_lines(story)),
        *(f"  {each}" for each in soft_lines(story)),
        *(f"  {each}" for each in bound_lines(story)),
        *(f"  {each}" for each in sharing_lines(story)),
        *(f"  {each}" for each in preemption_lines(story)),
        *([f"  chosen: {story.chosen_because}"] if story.chosen_because else []),
        *(f"  changed: {each}" for each in story.changes),
        *gate_lines(story),
        *attempt_lines(story),
        *overtaking_lines(story),
    ]
    return list(map(one_line, lines))


def plan_text(story: Explanation) -> str:
    """As what it counts; one that was refused came into no compartment."""
    model = f"model {story.model}" if story.model else "a model by its requirements"
    text = f"{model}, priority {story.priority}"
    return f"{text}, compartment {story.compartment}" if story.compartment else text


def standing_text(story: Explanation) -> str:
    """Where it stands, and what it waits for or why it ended so."""
    text = STATES.get(story.state, f"is {story.state}")
    if story.position:
        text += f" at position {story.position}"
    why = story.wait_detail or story.problem
    return f"{text}: {why}" if why else text


def times_text(story: Explanation) -> str:
    """When it came, how long it waited and ran."""
    waited = duration_text(story.queue_wait_ms)
    parts = [f"came {duration_text(story.age_ms)} ago"]
    if story.state == "refused" and not story.queue_wait_ms:
        return f"{parts[0]} and was told so at once"
    if story.run_ms is not None:
        runs = "has run" if story.ended_ago_ms is None else "ran"
        parts += [f"waited {waited}", f"{runs} {duration_text(story.run_ms)}"]
    elif story.ended_ago_ms is not None:
        tried = story.attempts[-1].number if story.attempts else 0
        stood = (
            f"was waiting again after {counted(tried, 'attempt')}" if tried else "was never started"
        )
        parts.append(f"{stood}, and given up after {waited}")
    if story.ended_ago_ms is not None:
        parts.append(f"ended {duration_text(story.ended_ago_ms)} ago")
    return ", ".join(parts)


def told_lines(story: Explanation) -> list[str]:
    """What it was told of its wait first, and what became of that."""
    if story.told_low_ms is None or story.told_high_ms is None:
        return []
    text = f"said {span_text(story.told_low_ms, story.told_high_ms)}"
    waited = duration_text(story.queue_wait_ms)
    has_started = story.run_ms is not None
    is_over = has_started or story.ended_ago_ms is not None
    verb = "waited" if has_started else "left after" if is_over else "has waited"
    return [f"{text}, {verb} {waited}"]


def soft_lines(story: Explanation) -> list[str]:
    """By when its answer would be liked, and whether it was there."""
    if story.soft_deadline_ms is None:
        return []
    met = {None: "", True: ": met", False: ": missed"}[story.soft_deadline_met]
    return [f"soft deadline {duration_text(story.soft_deadline_ms)} after it came{met}"]


def bound_lines(story: Explanation) -> list[str]:
    """Within which time it starts at most, as was stated when it came, or why that was not."""
    if story.bound_ms is None:
        return [f"no bound on its wait: {story.bound_why}"] if story.bound_why else []
    bound = duration_text(story.bound_ms)
    if story.run_ms is None:
        verb = "starts" if story.ended_ago_ms is None else "was to start"
        return [f"{verb} within {bound} at most, as stated when it came"]
    kept = "" if story.queue_wait_ms <= story.bound_ms else ", which it did not"
    return [f"was to start within {bound} at most, as stated when it came{kept}"]


def sharing_lines(story: Explanation) -> list[str]:
    """What its session gave it, and what its prompt has in common with others."""
    lines = []
    if story.session_credit_ms:
        credit = duration_text(story.session_credit_ms)
        lines.append(f"counted as {credit} older, for the part of its session that was done")
    if story.preloaded_because:
        lines.append(f"its model was loaded ahead of need: {story.preloaded_because}")
    if story.known_prompt_bytes:
        known = story.known_prompt_bytes // 1024
        lines.append(f"the first {known} KiB of its prompt had probably been read before")
    return lines


def preemption_lines(story: Explanation) -> list[str]:
    """How often urgent work had its slot, and whether it may again."""
    may = "may be set aside for urgent work"
    if not story.preemptions:
        return [may] if story.preemptible else []
    text = f"was set aside for urgent work {counted(story.preemptions, 'time')}"
    return [f"{text}, and may be again" if story.preemptible else f"{text}, and is not again"]


def gate_lines(story: Explanation) -> list[str]:
    """Each gate with its numbers."""
    if not story.gates:
        return []
    width = max(len(each.name) for each in story.gates)
    lines = ["gates on its way in:"]
    for each in story.gates:
        verdict = "passed" if each.passed else "said no"
        lines.append(f"  {verdict:7}  {each.name:{width}}  {each.detail}".rstrip())
    return lines


def attempt_lines(story: Explanation) -> list[str]:
    """Its calls to backends, in columns; none where the only one goes well, for that is said."""
    attempts = story.attempts
    if not attempts or (len(attempts) == 1 and not attempts[0].reason):
        return []
    rows = [
        (
            str(each.number),
            each.backend,
            each.model,
            duration_text(each.run_ms),
            "" if each.first_token_ms is None else duration_text(each.first_token_ms),
            str(each.pieces),
        )
        for each in attempts
    ]
    titles = ("no", "backend", "model", "ran", "first piece", "pieces")
    widths = [max(len(row[i]) for row in (titles, *rows)) for i in range(len(titles))]
    left = (1, 2)  # names; all else is figures
    lines = ["attempts, the last ones:" if attempts[0].number > 1 else "attempts:"]
    for cells, came_to in zip(
        (titles, *rows), ("came to", *map(attempt_text, attempts)), strict=True
    ):
        padded = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append(f"  {'  '.join(padded)}  {came_to}")
    return lines


def attempt_text(attempt: Attempt) -> str:
    """What it came to, and what was waited before the next."""
    parts = ["from the text so far"] if attempt.continued else []
    if not attempt.reason:
        parts.append("no failure")
    else:
        parts.append(f"{attempt.reason}: {attempt.problem}" if attempt.problem else attempt.reason)
    if attempt.backoff_ms:
        parts.append(f"then {duration_text(attempt.backoff_ms)} of waiting")
    return "; ".join(parts)


def overtaking_lines(story: Explanation) -> list[str]:
    """Who came later and was started earlier, by which rule; who never stood in line has none."""
    if not story.overtakings:
        if story.state == "refused":
            return []
        return ["nobody overtook it" if story.complete else "who overtook it is forgotten"]
    total = sum(each.count for each in story.overtakings)
    at_least = "" if story.complete else "at least "
    overtakers = f"{at_least}{counted(total, 'request')}"
    lines = [f"overtaken by {overtakers} that came later and started earlier, by this rule:"]
    width = max(len(str(each.count)) for each in story.overtakings)
    for each in story.overtakings:
        lines.append(f"  {each.count:{width}}  {each.rule}{examples_text(each)}")
    return lines


def examples_text(overtaking: Overtaking) -> str:
    """A few of them by name."""
    names = ", ".join(f"{each.request_id} of {each.agent_id}" for each in overtaking.examples)
    if not names:
        return ""
    return f" (lately {names})" if overtaking.count > len(overtaking.examples) else f" ({names})"
