"""What is to be done when something fails, broken: rows of `bad_fields.py`."""

from __future__ import annotations

from google.protobuf.message import Message

from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.integration.wire_requests import embed, generate

_DAY_MS = 86_400_000
_PHASES = ("queue_ms", "load_ms", "first_token_ms", "token_gap_ms", "total_ms")
_GOES_ON = pb.ON_INTERRUPTION_CONTINUE


def _timeouts(name: str, limit_ms: int) -> pb.Timeouts:
    return pb.Timeouts(**{name: limit_ms})


FAILING: tuple[tuple[str, Message, str, str], ...] = (
    (
        "GenerateRequest.resume_from_seq",
        generate(resume_from_seq=-1),
        "resume_from_seq",
        "negative",
    ),
    *(
        (
            f"Timeouts.{name}",
            make(timeouts=_timeouts(name, limit_ms)),
            f"timeouts.{name}",
            f"is {limit_ms}; must be 1 to {_DAY_MS}",
        )
        for name in _PHASES
        for limit_ms in (0, -1, _DAY_MS + 1)
        for make in (generate, embed)
    ),
    *(
        (
            f"{type(made).__name__}.soft_deadline_ms",
            made,
            "soft_deadline_ms",
            f"is {soft_ms}; must be 1 to {_DAY_MS}",
        )
        for soft_ms in (0, -1, _DAY_MS + 1)
        for made in (generate(soft_deadline_ms=soft_ms), embed(soft_deadline_ms=soft_ms))
    ),
    *(
        (
            "GenerateRequest.on_interruption",
            generate(on_interruption=number),
            "on_interruption",
            f"is {number}, which is none of its values",
        )
        for number in (4, -1)
    ),
    (
        "GenerateRequest.on_interruption",
        generate(on_interruption=_GOES_ON, format=pb.Format(json=True)),
        "on_interruption",
        "cannot be CONTINUE with format",
    ),
    (
        "GenerateRequest.on_interruption",
        generate(on_interruption=_GOES_ON, prompt=pb.Prompt(text="a", suffix="b")),
        "on_interruption",
        "cannot be CONTINUE with prompt.suffix",
    ),
    (
        "GenerateRequest.on_interruption",
        generate(on_interruption=_GOES_ON, prompt=pb.Prompt(text="a", raw=True)),
        "on_interruption",
        "cannot be CONTINUE with prompt.raw",
    ),
    *(
        (
            "GenerateRequest.prompt_type",
            generate(prompt_type=bad),
            "prompt_type",
            "1 to 64 characters of [A-Za-z0-9._:/@-]",
        )
        for bad in ("x" * 65, "two words", "ü", "line\n")
    ),
)
