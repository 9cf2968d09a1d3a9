"""Faults as flags and documents, and which request meets which."""

from __future__ import annotations

from enum import Enum

import click
import pytest
from click.testing import CliRunner

from broker.sim import openai_faults
from broker.sim.ollama_catalogue import recorded_catalogue
from broker.sim.ollama_faults import (
    AT_ARRIVAL,
    AT_TOKENS,
    Fault,
    FaultError,
    FaultKind,
    FaultPlan,
    fault_of_document,
    fault_of_flag,
)
from broker.sim.ollama_gojson import Json
from broker.sim.ollama_sim import main as ollama_main
from broker.sim.openai_sim import main as openai_main

CATALOGUE = recorded_catalogue()


def test_a_flag_and_a_document_say_the_same() -> None:
    flag = fault_of_flag("die_mid_stream:model=tiny-m,after=5,count=2,probability=0.5", CATALOGUE)
    document: Json = {
        "kind": "die_mid_stream",
        "model": "tiny-m:latest",
        "after": 5,
        "count": 2,
        "probability": 0.5,
    }
    assert flag == fault_of_document(document, CATALOGUE)
    assert flag.model == "tiny-m:latest"
    assert fault_of_document(flag.document(), CATALOGUE) == flag


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("explode", "kind 'explode': must be one of die_mid_stream, "),
        ("cut:after", "'after': must be part=value"),
        ("cut:after=x", "after 'x': must be of type int"),
        ("cut:when=1", "when: no such part"),
        ("cut:model=nope", "model 'nope': not in the catalogue"),
        ("cut:probability=0", "probability 0.0: must be above 0 and at most 1"),
        ("cut:count=-1", "count -1: must be 0 to 1000000"),
        ("cut:after=-1", "after -1: must be 0 to 1000000"),
        ("slow:model=tiny-m,factor=0", "factor 0.0: must be above 0"),
        ("refuse:status=200", "status 200: must be 400 to 599"),
        ("cut:status=503", "status: cut has none"),
        ("thaw:after=1", "after: thaw has none"),
        ("evict", "evict must name its model"),
        ("half_open:after=1", "after: half_open has none"),
    ],
)
def test_a_fault_that_cannot_be_set_says_why(flag: str, words: str) -> None:
    with pytest.raises(FaultError, match=words):
        fault_of_flag(flag, CATALOGUE)


def test_a_document_of_the_wrong_shape() -> None:
    documents: list[Json] = [None, [], "cut"]
    for document in documents:
        with pytest.raises(FaultError, match="an object with a kind"):
            fault_of_document(document, CATALOGUE)
    with pytest.raises(FaultError, match="count True: must be of type int"):
        fault_of_document({"kind": "cut", "count": True}, CATALOGUE)


def test_a_freeze_acts_at_once_unless_it_waits_for_tokens() -> None:
    assert Fault(kind=FaultKind.FREEZE, model="m").is_immediate
    assert not Fault(kind=FaultKind.FREEZE, after=3).is_immediate


def test_some_strike_before_the_first_token_where_they_say_so() -> None:
    assert Fault(kind=FaultKind.DIE_BEFORE_FIRST).is_before_first
    assert Fault(kind=FaultKind.ERROR_LINE, after=0).is_before_first
    assert not Fault(kind=FaultKind.ERROR_LINE).is_before_first
    assert not Fault(kind=FaultKind.CUT, after=0).is_before_first


def test_a_fault_meets_requests_of_its_model_until_it_is_used_up() -> None:
    plan = FaultPlan(seed=0)
    plan.add(Fault(kind=FaultKind.CUT, model="a", count=2))
    plan.add(Fault(kind=FaultKind.REFUSE))
    assert plan.take(AT_TOKENS, "b") is None
    assert plan.take(AT_TOKENS, "a") is not None
    assert plan.take(AT_TOKENS, "a") is not None
    assert plan.take(AT_TOKENS, "a") is None
    assert plan.take(AT_ARRIVAL, "b") == Fault(kind=FaultKind.REFUSE)
    assert plan.waiting == ()


def test_a_count_of_zero_never_ends_and_chance_follows_the_seed() -> None:
    def struck(seed: int) -> list[bool]:
        plan = FaultPlan(seed=seed)
        plan.add(Fault(kind=FaultKind.CUT, count=0, probability=0.5))
        return [plan.take(AT_TOKENS, "m") is not None for _ in range(200)]

    assert struck(1) == struck(1) != struck(2)
    assert 60 < sum(struck(1)) < 140


def test_the_plan_is_bounded() -> None:
    plan = FaultPlan(seed=0)
    for _ in range(1_000):
        plan.add(Fault(kind=FaultKind.CUT))
    with pytest.raises(FaultError, match="wait already"):
        plan.add(Fault(kind=FaultKind.CUT))


@pytest.mark.parametrize(
    ("command", "kinds"), [(ollama_main, FaultKind), (openai_main, openai_faults.FaultKind)]
)
def test_the_help_names_every_kind(command: click.Command, kinds: type[Enum]) -> None:
    told = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    for kind in kinds:
        assert kind.value in told
