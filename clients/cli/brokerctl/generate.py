"""`brokerctl generate`: one prompt, its answer streamed to the terminal."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, Final, cast

import click

from broker_client import (
    BrokerError,
    Chunk,
    Client,
    Done,
    Event,
    Requeued,
    Requirements,
    Retrying,
    Started,
)
from broker_client.requests import Ask
from brokerctl.backend_steps import no_model_text
from brokerctl.call import Call, asking, fail, print_json
from brokerctl.duration import Duration
from brokerctl.exit_status import EXIT_SAID_NO
from brokerctl.explanation import error_document
from brokerctl.figures import counted, duration_text
from brokerctl.model_choice import choose_model
from brokerctl.phase_limits import PhaseLimit, timeouts_of
from brokerctl.requirement_options import requiring
from brokerctl.waiting_line import WaitingLine

# How events of two words are called on the wire.
WIRE_NAMES: Final = {"SlowDown": "slow_down"}
# Between text that became void on a terminal and what takes its place.
BEGINS_ANEW: Final = "--- begins anew ---"


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "--model",
    help="Which model, or an alias as fast or small.  [default: a resident one, else the smallest; "
    "with --need and the like the one that fits best]",
)
@requiring
@click.option("--system", help="A system text of your own.")
@click.option("--priority", type=int, default=5, show_default=True, help="1 (highest) to 10.")
@click.option("--agent", default="brokerctl", show_default=True, help="As whom to ask.")
@click.option("--max-tokens", type=int, help="Tokens to generate at most.")
@click.option("--temperature", type=float, help="Of sampling.")
@click.option("--seed", type=int, help="Makes sampling repeatable.")
@click.option("--think/--no-think", default=None, help="Thinking, for models that can.")
@click.option("--deadline", "deadline_s", type=float, help="Give up after so many seconds.")
@click.option(
    "--soft-deadline",
    "soft_deadline_s",
    type=Duration(),
    metavar="DURATION",
    help="By when the answer would be liked, as 30s; nothing ends it then.",
)
@click.option(
    "--timeout",
    "limits",
    type=PhaseLimit(),
    multiple=True,
    metavar="PHASE=DURATION",
    help="Give up where a phase takes longer: queue, load, first-token, token-gap or total, as "
    "first-token=5s. May be given for several.",
)
@click.option(
    "--on-interruption",
    type=click.Choice(["fail", "restart", "continue"]),
    help="When an attempt is lost after text has come: fail, begin anew, or go on from the text so "
    "far. Where text may become void it goes into a pipe or file only when it is whole.  "
    "[default: fail]",
)
@click.option(
    "--fallback",
    "fallback_models",
    multiple=True,
    metavar="MODEL",
    help="Answer with this model where the other cannot. May be given for several, the best first.",
)
@click.option(
    "--prefer-loaded",
    is_flag=True,
    default=None,
    help="Of these models let one answer that is loaded, rather than wait for a load.",
)
@click.option(
    "--accept-default",
    is_flag=True,
    default=None,
    help="Take the operator's default answer, if there is one, where no model gives one in time.",
)
@click.option(
    "--preemptible/--no-preemptible",
    default=None,
    help="May urgent work have its slot while it runs? It then waits again, and goes on or begins "
    "anew.  [default: from priority 8 on, but not where --on-interruption is fail]",
)
@click.option("--session", "session_id", help="The conversation or task that it is a part of.")
@click.option(
    "--expected-calls",
    type=click.IntRange(min=1),
    help="How many calls that will have in all: what is nearly done goes before what has begun.",
)
@click.option("--prompt-type", help="Kind of prompt, which chooses the operator's default answer.")
@asking
def generate(
    call: Call, prompt: str | None, requirements: Requirements | None, **given: Any
) -> None:
    """Ask for an answer to PROMPT; without PROMPT, or with -, it is read from standard input."""
    if prompt is None or prompt == "-":
        if prompt is None and sys.stdin.isatty():
            raise click.UsageError("no PROMPT; give one, or pipe it in")
        prompt = read_prompt()
    with call.client(given.pop("agent")) as client:
        model = given.pop("model") or ("" if requirements else default_model(client))
        timeouts = timeouts_of(given.pop("limits"))
        ask = {key: value for key, value in given.items() if value not in (None, ())}
        if timeouts is not None:
            ask["timeouts"] = timeouts
        if requirements is not None:
            ask["requirements"] = requirements
        may_turn_void = (
            ask.get("on_interruption", "fail") != "fail" or ask.get("preemptible") is True
        )
        if not may_turn_void:
            ask["preemptible"] = False  # else it could, where urgent work comes
        answer = Answer(may_turn_void=may_turn_void)
        show: Callable[[Event], None] = show_json if call.as_json else answer.show
        # The options above are a part of the keys that a call may have.
        request = cast("Ask", {"model": model, "prompt": prompt, **ask})
        with client.stream(**request) as events:
            backend = ""
            try:
                for event in events:
                    backend = backend_after(event, backend)
                    show(event)
            except BrokerError as error:
                answer.end()
                fail(call, error, events.request_id, backend)


def backend_after(event: Event, before: str) -> str:
    """The backend that has the request now."""
    if isinstance(event, Started):
        return event.backend
    return "" if isinstance(event, Requeued | Retrying) else before


def read_prompt() -> str:
    """All of standard input."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the prompt on standard input is not text: {error}") from error


def default_model(client: Client) -> str:
    """The model for those who name none; says which."""
    found = client.models()
    chosen = choose_model(found)
    if chosen is None:
        why = no_model_text(client.status().backends, lists_any=bool(found))
        click.echo(f"brokerctl: {why}", err=True)
        sys.exit(EXIT_SAID_NO)
    return chosen.name


class Answer:
    """Prints an answer: text to standard output, everything about it to standard error.

    Text that may become void cannot be taken back from whoever reads a pipe, and is held back until
    it is whole; on a terminal a line says where the answer begins anew.
    """

    def __init__(self, *, may_turn_void: bool = False, is_terminal: bool | None = None) -> None:
        is_terminal = sys.stdout.isatty() if is_terminal is None else is_terminal
        self._held: list[Chunk] | None = [] if may_turn_void and not is_terminal else None
        self._waiting = WaitingLine()
        self._is_line_open = False
        self._is_thinking = False
        self._has_shown = False

    def show(self, event: Event) -> None:
        """Prints one event."""
        if isinstance(event, Chunk):
            self._waiting.clear()
            if self._held is not None:
                self._held.append(event)
            else:
                self._show_chunk(event)
            return
        if isinstance(event, Done):
            self._show_held()
        if isinstance(event, Done | Requeued):
            self._end_line()
        self._waiting.show(event)
        if isinstance(event, Requeued) and event.discard_before_seq:
            self._begin_anew()
        if isinstance(event, Done):
            click.secho(done_text(event), err=True, dim=True)

    def end(self) -> None:
        """No more comes. What was held back stays so: it is not whole."""
        self._waiting.clear()
        self._end_line()
        if self._is_thinking:
            click.echo(err=True)
            self._is_thinking = False

    def _begin_anew(self) -> None:
        if self._held is not None:
            self._held.clear()
        if self._has_shown:
            click.secho(BEGINS_ANEW, bold=True)
        self._has_shown = self._is_thinking = False

    def _show_held(self) -> None:
        for chunk in self._held or ():
            self._show_chunk(chunk)

    def _show_chunk(self, chunk: Chunk) -> None:
        self._has_shown = True
        if chunk.thinking:
            click.secho(chunk.thinking, err=True, dim=True, nl=False)
            self._is_thinking = True
        if chunk.text:
            if self._is_thinking:
                click.echo("\n", err=True)
                self._is_thinking = False
            click.echo(chunk.text, nl=False)
            sys.stdout.flush()
            self._is_line_open = not chunk.text.endswith("\n")
        for each in chunk.tool_calls:
            self._end_line()
            click.echo(f"{each.name}({each.arguments_json})")

    def _end_line(self) -> None:
        if self._is_line_open:
            click.echo()
            self._is_line_open = False


def done_text(done: Done) -> str:
    """What it took, in one line."""
    timings = done.timings
    parts = [
        f"{counted(done.usage.output_tokens, 'token')} from {done.model}",
        f"waited {duration_text(timings.queue_wait_ms)}",
        f"first token after {duration_text(timings.first_token_ms)}",
    ]
    if timings.per_token_ms:
        parts.append(f"{1000 / timings.per_token_ms:.0f} tokens/s")
    if done.soft_deadline_met is not None:
        parts.append(f"soft deadline {'met' if done.soft_deadline_met else 'missed'}")
    if done.finish_reason == "length":
        parts.append("cut at the token limit")
    return ", ".join(parts)


def show_json(event: Event) -> None:
    """Prints one event as a line of JSON."""
    print_json(event_document(event))


def event_document(event: Event) -> dict[str, Any]:
    """An event for programs: its kind under "event", its fields beside it."""
    if isinstance(event, Retrying):
        return {
            "event": "retrying",
            "delay_s": event.delay_s,
            **error_document(event.error, ""),
        }
    name = type(event).__name__
    return {"event": WIRE_NAMES.get(name, name.lower()), **dataclasses.asdict(event)}
