"""Traces as people have them: what is read, and how each malformed line is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from broker.core.requests import Outcome
from broker.observability.request_log import RequestLog
from broker.sim.trace import LINE_BYTES_MAX, parse_trace, read_trace
from broker.sim.trace_row import Trace, TraceKind
from broker.sim.workload_problem import PROBLEMS_MAX, WorkloadProblems
from tests.tidy.sources import ROOT
from tests.unit.observability.ended import refused, report

AZURE_10_MIN = ROOT / "bench" / "data" / "azure_llm_2023_conv_10min.csv"
# The first two requests of the trace as Microsoft publishes it, and of Mooncake's conversations.
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:15:46.6805900,374,44\r
2023-11-16 18:15:50.9951690,396,109\r
"""
MOONCAKE = """{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14, 15]}
"""


def problems(content: str | bytes) -> list[str]:
    with pytest.raises(WorkloadProblems) as found:
        parse_trace(content.encode() if isinstance(content, str) else content, "t")
    return [str(each) for each in found.value.problems]


def outcome(content: bytes) -> Trace | WorkloadProblems:
    """Whatever else is raised fails the test."""
    try:
        return parse_trace(content, "t")
    except WorkloadProblems as found:
        return found


def test_the_azure_trace_as_the_benchmarks_have_it() -> None:
    trace = read_trace(AZURE_10_MIN)
    assert trace.kind is TraceKind.CSV
    assert len(trace.rows) == 2867
    first, second = trace.rows[:2]
    assert (first.arrival_ns, first.prompt_tokens, first.output_tokens) == (0, 374, 44)
    assert (second.arrival_ns, second.line) == (4_315_000_000, 3)


def test_the_azure_trace_as_it_was_published() -> None:
    first, second = parse_trace(AZURE.encode(), "t").rows
    assert first.arrival_ns == 0
    assert second.arrival_ns == 4_314_579_000
    assert (second.prompt_tokens, second.output_tokens) == (396, 109)


def test_the_mooncake_trace_names_the_blocks_of_each_prompt() -> None:
    trace = parse_trace(MOONCAKE.encode(), "t")
    assert trace.kind is TraceKind.JSON_LINES
    assert [each.blocks for each in trace.rows] == [(0, 1, 2), (0, 14, 15)]
    assert trace.rows[1].arrival_ns == 3_000_000_000


def test_columns_in_any_order_quotes_and_who_asked() -> None:
    trace = parse_trace(
        b"agent, prompt_tokens,arrival_ms ,output_tokens,model,priority,session\n"
        b'"night, ""two""",10,1500.5,20,"llama3.2:3b",3,s1\n'
        b",11,1000,21,,,\n",
        "t",
    )
    early, late = trace.rows  # in the order of arrival, not of the lines
    assert (early.agent, early.model, early.priority, early.session) == ("", "", None, "")
    assert (late.agent, late.model) == ('night, "two"', "llama3.2:3b")
    assert (late.priority, late.session) == (3, "s1")
    assert late.arrival_ns - early.arrival_ns == 500_500_000


def test_a_log_counts_from_arrivals_and_skips_what_is_no_request() -> None:
    ended = {"event": "request ended", "agent": "opus-1", "model": "a:1b", "priority": 2}
    lines = [
        {"event": "broker listening", "timestamp": "2026-01-01T00:00:00Z"},
        {
            **ended,
            "timestamp": "2026-01-01T00:00:09.5Z",
            "total_ms": 7500.0,
            "prompt_tokens": 40,
            "output_tokens": 90,
            "backend": "gpu-0",
            "outcome": "completed",
        },
        {**ended, "timestamp": "2026-01-01T00:00:10Z", "outcome": "failed", "output_tokens": 7},
        {**ended, "timestamp": "2026-01-01T00:00:01Z", "outcome": "refused", "model": ""},
    ]
    trace = parse_trace("\n".join(map(json.dumps, lines)).encode(), "t")
    assert trace.kind is TraceKind.REQUEST_LOG
    assert trace.skipped == 1
    refused, answered, failed = trace.rows
    assert failed.output_tokens is None  # it broke off: how many it wanted is not known
    assert (refused.prompt_tokens, refused.output_tokens, refused.model) == (None, None, "")
    assert answered.arrival_ns - refused.arrival_ns == 1_000_000_000
    assert (answered.agent, answered.prompt_tokens, answered.output_tokens) == ("opus-1", 40, 90)


def test_the_lines_that_a_broker_writes_are_a_trace() -> None:
    with capture_logs() as logged:
        log = RequestLog()
        of_time = {"allowed_ns": 60_000_000_000, "soft_ns": 30_000_000_000}
        log.request_ended(report(session_id="s1", expected_calls=4, **of_time))
        log.request_ended(report(outcome=Outcome.FAILED, reason="BACKEND_FAILED"))
        log.request_ended(refused())
    lines = [{**each, "timestamp": "2026-01-01T00:00:01Z"} for each in logged]
    trace = parse_trace("\n".join(map(json.dumps, lines)).encode(), "t")
    assert trace.kind is TraceKind.REQUEST_LOG
    done, failed, late = trace.rows
    assert (done.agent, done.model, done.priority, done.session) == ("opus-1", "m:latest", 5, "s1")
    assert (done.prompt_tokens, done.output_tokens, done.expected_calls) == (7, 50, 4)
    assert done.deadline_ns == 60_000_000_000
    assert done.soft_deadline_ns == 30_000_000_000
    assert (failed.output_tokens, failed.deadline_ns, failed.soft_deadline_ns) == (None, 0, 0)
    assert late.arrival_ns - done.arrival_ns == 800_000_000  # refused at once, the others took that


def test_all_malformed_lines_are_named_together_with_their_columns() -> None:
    assert problems(
        "arrival_ms,prompt_tokens,output_tokens,agent\n"
        "1,2,3,\n"
        "1,many,3,\n"
        "1,2\n"
        '1,2,3,"a\n'
        '1,2,3,"a"b\n'
        "1,2,3,4,5\n"
        "-1,2,3,\n"
        "1,  2.5,3,\n"
    ) == [
        "t:3:3: prompt_tokens is 'many'; must be a whole number from 0 to 10000000",
        "t:4:4: output_tokens is missing",
        "t:5:7: a quote is not closed in its line",
        "t:6:10: 'b' stands behind a closing quote",
        "t:7:9: has more than the 4 columns",
        "t:8:1: arrival_ms is -1; must be milliseconds from 0 to 1e+13",
        "t:9:5: prompt_tokens is 2.5; must be a whole number from 0 to 10000000",
    ]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("arrival_ms,prompt_token,output_tokens", "t:1:12: 'prompt_token' is no column; did you"),
        ("arrival_ms,x,output_tokens", "t:1:12: 'x' is no column; known are arrival_ms, "),
        ("prompt_tokens", "t:1:14: has no column arrival_ms and output_tokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens,arrival_ms", "t:1:41: arrival_ms is there twice"),
    ],
)
def test_a_header_that_cannot_be_used(header: str, problem: str) -> None:
    (found,) = problems(f"{header}\n1,2,3\n")
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            '{"timestamp": 1, "input_length": "x", "output_length": 1}',
            "t:2:34: input_length is 'x'",
        ),
        ('{"timestamp": 1, "input_length":}', "t:2:33: is not JSON: Expecting value"),
        ('{"timestamp": 1, "input_length": 4}', "t:2:36: output_length is missing"),
        ('{"timestamp": 1, "input_lenght": 4}', "t:2:34: 'input_lenght' is no field; did you"),
        ('{"timestamp": NaN}', "t:2:1: is not JSON that can be used: NaN is no number"),
        ('{"timestamp": 1, "arrival_ms": 1}', "t:2:32: arrival_ms says again what another"),
        ('{"hash_ids": [1, "b"]}', "t:2:14: hash_ids holds 'b'"),
        ('{"priority": 11}', "t:2:14: priority is 11; must be a whole number from 1 to 10"),
        ('{"agent": "\\u001b[2J"}', "t:2:11: agent is '\\x1b[2J'; must be text of 1 to 256 pri"),
        ('{"expected_calls": -1}', "t:2:20: expected_calls is -1; must be a whole number from 0"),
        ('{"agent": "x", "session": ""}', "t:2:27: session is ''; must be text"),
        ("[1]", "t:2:1: must be an object"),
        ("[" * 100_000, "t:2:1: is not JSON that can be used: nested too deeply"),
        ("1" * 10_000, "t:2:1: is not JSON that can be used: Exceeds the limit"),
    ],
)
def test_an_object_that_cannot_be_used(line: str, problem: str) -> None:
    (found,) = problems(MOONCAKE.splitlines()[0] + "\n" + line)
    assert found.startswith(problem)


def test_bytes_that_are_no_text_and_lines_without_end() -> None:
    assert problems(b"arrival_ms,prompt_tokens,output_tokens\n1,2,\xff\n") == [
        "t:2:5: is not UTF-8"
    ]
    (found,) = problems(b"x" * (LINE_BYTES_MAX + 2))
    assert found.endswith(f"the line is longer than {LINE_BYTES_MAX} bytes")


def test_a_device_without_lines_is_no_trace_and_no_hang() -> None:
    with pytest.raises(WorkloadProblems, match="is longer than"):
        read_trace(Path("/dev/zero"))


def test_a_file_that_is_not_there_or_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(WorkloadProblems, match="cannot be read: No such file"):
        read_trace(tmp_path / "absent.csv")
    assert problems("") == ["t:1:1: holds no request"]
    assert problems("arrival_ms,prompt_tokens,output_tokens\n") == ["t:2:1: holds no request"]


def test_the_first_problems_stand_for_all() -> None:
    content = "arrival_ms,prompt_tokens,output_tokens\n" + "x,1,1\n" * 10_000
    with pytest.raises(WorkloadProblems) as found:
        parse_trace(content.encode(), "t")
    assert len(found.value.problems) == PROBLEMS_MAX
    assert str(found.value).endswith("and 1 more")


def test_the_first_rows_alone() -> None:
    assert len(read_trace(AZURE_10_MIN, rows_max=7).rows) == 7


_HEADERS = (b"arrival_ms,prompt_tokens,output_tokens\n", MOONCAKE.encode(), AZURE.encode(), b"")


@given(st.sampled_from(_HEADERS), st.lists(st.binary(max_size=60), max_size=8))
@example(_HEADERS[0], [b"1e400,1,1", b"1,\xc2\xb2,1", b'1,"1","1'])
@example(_HEADERS[1], [b'{"timestamp": 1e400, "input_length": 1, "output_length": 1}'])
@example(_HEADERS[2], [b"0001-01-01T00:00:00+23:59,1,1", b"9999-12-31T23:59:59-23:59,1,1"])
@example(_HEADERS[3], [b'{"event": "request ended", "timestamp": "x", "total_ms": -1}'])
def test_garbage_is_told_of_and_never_more_than_that(head: bytes, lines: list[bytes]) -> None:
    content = head + b"\n".join(lines)
    read = outcome(content)
    if isinstance(read, Trace):
        arrivals = [each.arrival_ns for each in read.rows]
        assert arrivals[0] == 0
        assert arrivals == sorted(arrivals)
    else:
        assert read.problems
        assert all(each.source == "t" and each.text for each in read.problems)
        assert all(each.line <= content.count(b"\n") + 1 for each in read.problems)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
_NAMES = st.sampled_from(("timestamp", "input_length", "output_length", "hash_ids", "agent"))


@given(st.dictionaries(_NAMES | st.just("event") | st.just("total_ms"), _VALUES))
def test_objects_with_any_values_are_rows_or_problems(told: dict[str, object]) -> None:
    read = outcome(json.dumps(told).encode())
    assert read.problems if isinstance(read, WorkloadProblems) else read.rows


def test_a_log_may_have_lines_that_nobody_can_read() -> None:
    ended = {"event": "request ended", "timestamp": "2026-01-01T00:00:00Z", "outcome": "refused"}
    whole = json.dumps(ended).encode()
    trace = parse_trace(whole + b"\nE0101 a library\n\xff\n" + whole + b"\n" + whole[:30], "t")
    assert (len(trace.rows), trace.torn) == (2, (2, 3, 5))
    assert problems(whole + b'\n{"event": "request ended"}') == ["t:2:27: timestamp is missing"]
    assert problems(b'{"event": "broker listening"}\n') == ["t:2:1: tells of no request that ended"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'Nov 21 host brokerd[1]: {"event": "x"}', "t:1:1: is a log in JSON, with something bef"),
        (b"2026-01-01 [info] broker listening", "t:1:1: is '2026-01-01 [info] broker listening'"),
        (b"\x1f\x8b\x08\x00", "t:1:1: is compressed: unpack it with gunzip first"),
    ],
)
def test_what_is_nearly_a_trace_is_told_what_to_do(content: bytes, problem: str) -> None:
    (found,) = problems(content)
    assert found.startswith(problem)
