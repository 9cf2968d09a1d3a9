"""What a request asks for, held against what there is: who is refused, and what to try instead."""

from __future__ import annotations

import pytest

from broker.core.errors import (
    BrokerError,
    CapabilityMissing,
    InvalidRequest,
    LoadFailed,
    ModelUnknown,
    NoBackend,
)
from broker.core.failover import Ways, check_own, find_target
from broker.core.placement import BackendPolicy, BackendState
from broker.core.queueing import LineKey
from broker.core.requests import RequestSpec
from broker.core.stimuli import ModelSpec
from broker.core.targets import NO_BACKEND_RETRY_NS, NUM_CTX_ASSUMED, context_line, find_line
from tests.unit.core.scene import SECOND_NS, model, request

NOW_NS = 5 * SECOND_NS


def backend(name: str, *models: ModelSpec, up: bool = True, problem: str = "") -> BackendState:
    state = BackendState(BackendPolicy(name=name), up=up, problem=problem)
    state.models = {each.name.lower(): each for each in models}
    state.by_runner = {each.runner: each for each in models}
    return state


def ask(spec: RequestSpec, *backends: BackendState) -> tuple[str, LineKey, str]:
    """(comparison key, line, name it replaces) of what the request gets."""
    there = {each.name: each for each in backends}
    check_own(spec, there)
    found = find_target(spec, Ways(there, {}, lambda _: True, NOW_NS))
    return found.key, found.line, spec.model if found.instead else ""


def refused(spec: RequestSpec, *backends: BackendState) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        ask(spec, *backends)
    return caught.value


def test_a_good_request_gets_a_model_and_a_line() -> None:
    target = ask(request("r", model="M"), backend("b1", model("m")))
    assert target == ("m:latest", ("blob-m", 0), "")


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
    target = ask(spec, backend("b1", model("other")), backend("b2", model("m")))
    assert target == ("m:latest", ("blob-m", 0), "")


def test_the_first_fallback_that_answers_stands_in_and_says_for_whom() -> None:
    spec = request("r", model="m", fallback_models=("nowhere", "second", "third"))
    target = ask(
        spec,
        backend("b1", model("m"), up=False),
        backend("b2", model("third"), model("second")),
    )
    assert target == ("second:latest", ("blob-second", 0), "m")


def test_a_missing_capability_is_named_beside_what_the_model_has() -> None:
    spec = request("r", needs=frozenset({"vision", "completion", "tools"}))
    having = model("m", capabilities=frozenset({"completion", "thinking"}))
    error = refused(spec, backend("b1", having))
    assert isinstance(error, CapabilityMissing)
    assert "lacks tools, vision (it has completion, thinking)" in error.message


def test_a_backend_that_tells_no_capabilities_is_believed_to_have_them() -> None:
    spec = request("r", needs=frozenset({"vision"}))
    assert ask(spec, backend("b1", model("m")))[0] == "m:latest"


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


def test_of_two_capabilities_that_will_do_one_is_enough() -> None:
    def eyes(*capabilities: str) -> BackendState:
        return backend("b1", model("m", capabilities=frozenset({"completion", *capabilities})))

    picture = request("r", needs=frozenset({"completion", "vision|audio"}))
    assert ask(picture, eyes("audio"))
    assert ask(picture, eyes("vision"))
    error = refused(picture, eyes())
    assert isinstance(error, CapabilityMissing)
    assert "it lacks vision or audio" in error.message


def test_of_several_that_start_nothing_the_one_is_named_that_will_first_with_its_problem() -> None:
    held, drained = backend("b1", model("m")), backend("b2", model("m"))
    held.held_until_ns["blob-m"] = NOW_NS + 30 * 10**9
    drained.is_draining = True
    for why in ("out of memory", "m:latest could not be loaded on b1: out of memory"):
        held.held_because["blob-m"] = why
        error = refused(request("r"), drained, held)
        assert isinstance(error, LoadFailed)
        said = "m:latest could not be loaded on b1: out of memory; it is tried again in 30 s"
        assert error.message == said


def test_who_is_drained_is_not_all_that_keeps_a_request_out() -> None:
    drained = backend("b2", model("m"))
    drained.is_draining = True
    error = refused(request("r"), backend("b1", model("m"), up=False), drained)
    assert isinstance(error, NoBackend)
    assert error.message == (
        "b2, which has m:latest, is being drained: nothing is started there; b1 does not answer"
    )


def test_what_is_asked_for_is_judged_in_one_order() -> None:
    """A request that every check would refuse hears the first, then the second, and so on."""
    down = backend("b1", model("m"), up=False)
    held = backend("b1", model("m", capabilities=frozenset({"completion"})))
    held.held_until_ns["blob-m"] = NOW_NS + 1
    needy = request("r", needs=frozenset({"vision"}), num_ctx_needed=9999)
    heard = [type(refused(needy, down)), type(refused(needy, held))]
    heard.append(type(refused(request("r", num_ctx_needed=9999), held)))
    heard.append(type(refused(request("r"), held)))
    assert heard == [NoBackend, CapabilityMissing, InvalidRequest, LoadFailed]


def test_the_line_of_an_admitted_request_follows_its_model_to_another_runner() -> None:
    pulled_anew = {"b1": backend("b1", model("m", runner="newer", num_ctx_max=8192))}
    assert find_line(request("r"), "m:latest", pulled_anew) == ("newer", 0)
    assert find_line(request("r", num_ctx_needed=5000), "m:latest", pulled_anew) == ("newer", 8192)


def test_the_line_of_an_admitted_request_is_known_while_its_backend_is_down() -> None:
    away = {"b1": backend("b1", model("m"), up=False)}
    assert find_line(request("r"), "m:latest", away) == ("blob-m", 0)


def test_an_admitted_request_whose_model_is_gone_hears_of_the_nearest() -> None:
    with pytest.raises(ModelUnknown) as caught:
        find_line(request("r"), "m:latest", {"b1": backend("b1", model("m2"))})
    assert caught.value.nearest == ("m2:latest",)
