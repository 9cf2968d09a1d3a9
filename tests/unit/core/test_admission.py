"""Each gate on the way in: who is refused, with what reason, and what to try instead."""

from __future__ import annotations

import pytest

from broker.core.targets import (
    NO_BACKEND_RETRY_NS,
    NUM_CTX_ASSUMED,
    RETRY_AFTER_NS_MIN,
    Admission,
    UnderWay,
    admit,
    context_line,
)
from broker.core.errors import (
    BrokerError,
    CapabilityMissing,
    DeadlineExpired,
    InvalidRequest,
    LoadFailed,
    ModelUnknown,
    NoBackend,
    QueueFull,
)
from broker.core.estimates import Estimates
from broker.core.placement import BackendPolicy, BackendState
from broker.core.queueing import QueuePolicy
from broker.core.requests import RequestSpec
from broker.core.stimuli import ModelSpec
from tests.unit.core.scene import SECOND_NS, model, request

NOW_NS = 5 * SECOND_NS
POLICY = QueuePolicy(queued_max=10, queued_bytes_max=1000, live_max=20)


def backend(name: str, *models: ModelSpec, up: bool = True, problem: str = "") -> BackendState:
    state = BackendState(BackendPolicy(name=name), up=up, problem=problem)
    state.models = {each.name.lower(): each for each in models}
    state.by_runner = {each.runner: each for each in models}
    return state


def ask(
    spec: RequestSpec,
    *backends: BackendState,
    queued: int = 0,
    queued_bytes: int = 0,
    live: int = 0,
    estimates: Estimates | None = None,
) -> Admission:
    known = {each.name: each for each in backends}
    under_way = UnderWay(queued=queued, queued_bytes=queued_bytes, live=live)
    return admit(spec, known, POLICY, estimates or Estimates(), under_way, NOW_NS)


def refused(
    spec: RequestSpec,
    *backends: BackendState,
    queued: int = 0,
    queued_bytes: int = 0,
    live: int = 0,
    estimates: Estimates | None = None,
) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        ask(
            spec,
            *backends,
            queued=queued,
            queued_bytes=queued_bytes,
            live=live,
            estimates=estimates,
        )
    return caught.value


def test_a_good_request_gets_a_model_and_a_line() -> None:
    admission = ask(request("r", model="M"), backend("b1", model("m")))
    assert admission == Admission(model="m:latest", substituted_for="", line=("blob-m", 0))


@pytest.mark.parametrize("late_ns", [0, 1])
def test_a_deadline_that_has_passed_is_refused(late_ns: int) -> None:
    error = refused(request("r", deadline_ns=NOW_NS - late_ns), backend("b1", model("m")))
    assert isinstance(error, DeadlineExpired)
    assert not error.retryable


def test_an_unknown_model_is_refused_with_the_three_nearest_names_of_all_backends() -> None:
    error = refused(
        request("r", model="lama3.2"),
        backend("b1", model("llama3.2"), model("qwen"), model("phi")),
        backend("b2", model("llama3.1"), model("llama3.2")),
    )
    assert isinstance(error, ModelUnknown)
    assert error.nearest[:2] == ("llama3.2:latest", "llama3.1:latest")
    assert len(error.nearest) == 3
    assert "nearest: llama3.2:latest" in error.message


def test_without_any_model_an_unknown_one_is_told_so() -> None:
    error = refused(request("r", model="x"), backend("b1"))
    assert isinstance(error, ModelUnknown)
    assert error.nearest == ()
    assert error.message == "model 'x' is on no backend"


def test_a_model_whose_only_backend_is_down_is_unavailable_not_unknown() -> None:
    error = refused(
        request("r", model="m"),
        backend("b1", model("m"), up=False, problem="connection refused"),
        backend("b2", model("other")),
    )
    assert isinstance(error, NoBackend)
    assert error.retry_after_ns == NO_BACKEND_RETRY_NS
    assert "b1: connection refused" in error.message


def test_with_every_backend_down_nothing_is_said_of_the_model() -> None:
    error = refused(request("r", model="never heard of"), backend("b1", up=False))
    assert isinstance(error, NoBackend)


def test_a_backend_that_never_answered_may_have_the_model() -> None:
    """NOT_FOUND is final; this may pass by itself."""
    error = refused(request("r", model="n"), backend("b1", model("m")), backend("b2", up=False))
    assert isinstance(error, NoBackend)
    assert error.retry_after_ns


def test_a_typing_error_is_told_though_another_backend_is_down() -> None:
    down = backend("b1", model("m"), up=False)
    error = refused(request("r", model="n"), down, backend("b2", model("m2")))
    assert isinstance(error, ModelUnknown)
    assert set(error.nearest) == {"m:latest", "m2:latest"}


def test_the_model_asked_for_goes_before_its_fallbacks() -> None:
    spec = request("r", model="m", fallback_models=("other",))
    admission = ask(spec, backend("b1", model("other")), backend("b2", model("m")))
    assert (admission.model, admission.substituted_for) == ("m:latest", "")


def test_the_first_fallback_that_answers_stands_in_and_says_for_whom() -> None:
    spec = request("r", model="m", fallback_models=("nowhere", "second", "third"))
    admission = ask(
        spec,
        backend("b1", model("m"), up=False),
        backend("b2", model("third"), model("second")),
    )
    assert (admission.model, admission.substituted_for) == ("second:latest", "m")


def test_a_missing_capability_is_named_beside_what_the_model_has() -> None:
    spec = request("r", needs=frozenset({"vision", "completion", "tools"}))
    having = model("m", capabilities=frozenset({"completion", "thinking"}))
    error = refused(spec, backend("b1", having))
    assert isinstance(error, CapabilityMissing)
    assert "lacks tools, vision (it has completion, thinking)" in error.message


def test_a_backend_that_tells_no_capabilities_is_believed_to_have_them() -> None:
    spec = request("r", needs=frozenset({"vision"}))
    assert ask(spec, backend("b1", model("m"))).model == "m:latest"


@pytest.mark.parametrize(
    ("num_ctx", "num_ctx_max", "needed", "size"),
    [
        (None, 0, 0, 0),  # any will do
        (None, 0, NUM_CTX_ASSUMED, 0),  # every Ollama gives that
        (None, 16384, NUM_CTX_ASSUMED + 1, 8192),  # the next power of two
        (None, 16384, 8192, 8192),
        (None, 16384, 8193, 16384),
        (None, 10000, 8193, 10000),  # not above the ceiling
        (None, 10000, 10000, 10000),
        (8192, 0, 8192, 0),  # the configured size is the usual one
        (8192, 32768, 8193, 16384),
        (2048, 4096, 2049, 4096),
    ],
)
def test_a_context_is_the_usual_one_or_the_next_power_of_two_up_to_the_ceiling(
    num_ctx: int | None, num_ctx_max: int, needed: int, size: int
) -> None:
    spec = request("r", num_ctx_needed=needed)
    subject = model("m", num_ctx=num_ctx, num_ctx_max=num_ctx_max)
    assert context_line(spec, subject) == ("blob-m", size)


@pytest.mark.parametrize(
    ("num_ctx", "num_ctx_max", "needed", "ceiling"),
    [(None, 0, 4097, 4096), (None, 10000, 10001, 10000), (8192, 2048, 8193, 8192)],
)
def test_a_context_above_the_ceiling_is_a_wrong_field_that_names_the_limit(
    num_ctx: int | None, num_ctx_max: int, needed: int, ceiling: int
) -> None:
    spec = request("r", num_ctx_needed=needed)
    error = refused(spec, backend("b1", model("m", num_ctx=num_ctx, num_ctx_max=num_ctx_max)))
    assert isinstance(error, InvalidRequest)
    assert [each.field for each in error.problems] == ["options.num_ctx"]
    assert f"is {needed}; m:latest may have at most {ceiling}" in error.message


def test_a_full_queue_refuses_and_says_when_a_place_is_free() -> None:
    error = refused(request("r"), backend("b1", model("m")), queued=10)
    assert isinstance(error, QueueFull)
    assert "10 requests wait, of at most 10" in error.message
    assert error.retry_after_ns == SECOND_NS  # nothing is measured yet
    assert ask(request("r"), backend("b1", model("m")), queued=9)


@pytest.mark.parametrize(
    ("gap_ns", "retry_after_ns"),
    [(3 * SECOND_NS, 3 * SECOND_NS), (1000, RETRY_AFTER_NS_MIN)],
)
def test_the_retry_after_of_a_full_queue_is_the_measured_gap_between_departures(
    gap_ns: int, retry_after_ns: int
) -> None:
    estimates = Estimates()
    for number in range(4):
        estimates.departed(number * gap_ns)
    error = refused(request("r"), backend("b1", model("m")), queued=10, estimates=estimates)
    assert error.retry_after_ns == retry_after_ns


def test_what_runs_is_bounded_as_well() -> None:
    assert isinstance(refused(request("r"), backend("b1", model("m")), live=20), QueueFull)
    assert ask(request("r"), backend("b1", model("m")), live=19)


def test_a_model_that_could_not_be_loaded_is_refused_until_it_is_tried_again() -> None:
    first, second = backend("b1", model("m")), backend("b2", model("m"))
    first.held_until_ns["blob-m"] = NOW_NS + 9
    assert ask(request("r"), first, second)  # the other one may try
    second.held_until_ns["blob-m"] = NOW_NS + 7
    error = refused(request("r"), first, second)
    assert isinstance(error, LoadFailed)
    assert error.retry_after_ns == 7
    second.held_until_ns["blob-m"] = NOW_NS
    assert ask(request("r"), first, second)


def test_the_gates_stand_in_their_order() -> None:
    """A request that every gate would refuse hears the first, then the second, and so on."""
    down = backend("b1", model("m"), up=False)
    bad = model("m", capabilities=frozenset({"completion"}))
    held = backend("b1", bad)
    held.held_until_ns["blob-m"] = NOW_NS + 1
    needy = request("r", needs=frozenset({"vision"}), num_ctx_needed=9999, deadline_ns=NOW_NS)
    heard = [type(refused(needy, down, queued=10))]
    needy = request("r", needs=frozenset({"vision"}), num_ctx_needed=9999)
    heard.append(type(refused(needy, down, queued=10)))
    heard.append(type(refused(needy, held, queued=10)))
    heard.append(type(refused(request("r", num_ctx_needed=9999), held, queued=10)))
    heard.append(type(refused(request("r"), held, queued=10)))
    held.held_until_ns.clear()
    heard.append(type(refused(request("r"), held, queued=10)))
    assert heard == [
        DeadlineExpired,
        NoBackend,
        CapabilityMissing,
        InvalidRequest,
        LoadFailed,
        QueueFull,
    ]


def test_waiting_bytes_are_bounded_but_a_large_request_may_wait_alone() -> None:
    large = request("r", size_bytes=900)
    holder = backend("b1", model("m"))
    error = refused(large, holder, queued=1, queued_bytes=101)
    assert isinstance(error, QueueFull)
    assert "1001 bytes, of at most 1000" in error.message
    assert ask(large, holder, queued=1, queued_bytes=100)
    assert ask(request("r", size_bytes=5000), holder)


def test_too_many_under_way_is_said_in_other_words_than_too_many_waiting() -> None:
    error = refused(request("r"), backend("b1", model("m")), queued=3, live=20)
    assert error.message == "20 requests are under way, of at most 20"


def test_of_two_capabilities_that_will_do_one_is_enough() -> None:
    def eyes(*capabilities: str) -> BackendState:
        return backend("b1", model("m", capabilities=frozenset({"completion", *capabilities})))

    picture = request("r", needs=frozenset({"completion", "vision|audio"}))
    assert ask(picture, eyes("audio"))
    assert ask(picture, eyes("vision"))
    error = refused(picture, eyes())
    assert isinstance(error, CapabilityMissing)
    assert "it lacks vision or audio" in error.message
