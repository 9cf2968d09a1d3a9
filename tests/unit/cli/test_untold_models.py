"""Servers that list names and nothing more, and servers that do not answer: what is said of their
models, and what to do."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from broker_client import BackendStatus, Model
from brokerctl.backend_steps import get_model_step, no_model_text
from brokerctl.finding import Severity
from brokerctl.findings import model_findings
from brokerctl.model_choice import choose_model
from brokerctl.models_tables import model_table, models_table
from tests.unit.cli.test_findings import BACKEND, EMBEDDER, MODEL, PLACE

VLLM = replace(BACKEND, name="vllm", kind="openai")
UNTOLD = replace(MODEL, name="qwen3-8b", capabilities=(), size_bytes=0)


def down(backend: BackendStatus) -> BackendStatus:
    return replace(backend, up=False, problem="Connection refused", models=())


def chosen_of(*models: Model) -> str:
    chosen = choose_model(models)
    assert chosen is not None
    return chosen.name


def shown(view: object) -> str:
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_a_model_of_which_nothing_is_told_may_generate() -> None:
    assert UNTOLD.may_generate
    assert MODEL.may_generate
    assert not EMBEDDER.may_generate
    assert chosen_of(EMBEDDER, UNTOLD) == "qwen3-8b"


def test_a_model_that_says_so_is_chosen_before_one_that_says_nothing() -> None:
    assert chosen_of(UNTOLD, replace(MODEL, size_bytes=9)) == "tiny:latest"


def test_a_model_is_chosen_where_a_backend_answers_before_a_smaller_one_elsewhere() -> None:
    away = replace(MODEL, places=(replace(PLACE, state="unknown"),))
    large = replace(MODEL, name="large", size_bytes=9, places=(replace(PLACE, state="absent"),))
    assert chosen_of(away, large) == "large"
    assert chosen_of(away) == "tiny:latest"


def test_the_doctor_counts_what_is_not_told_apart() -> None:
    [only_untold] = model_findings((UNTOLD,), (VLLM,))
    assert only_untold.severity is Severity.GOOD
    assert only_untold.text == (
        "1 model; of 1 no backend tells what it can do, so it may generate text"
    )
    [two] = model_findings((UNTOLD, UNTOLD), (VLLM,))
    assert two.text.endswith("; of 2 no backend tells what they can do, so they may generate text")
    [mixed] = model_findings((MODEL, EMBEDDER, UNTOLD), (BACKEND, VLLM))
    assert mixed.text.startswith("3 models, 1 of them for generating text; of 1 no backend")


def test_what_is_not_told_is_a_question_mark_and_no_figure() -> None:
    for view in (models_table([UNTOLD]), model_table(UNTOLD)):
        text = shown(view)
        assert text.count("?") == 2, text
        assert " 0 B" not in text


def test_what_others_have_loaded_is_told_but_not_of_servers_that_keep_their_models() -> None:
    foreign = replace(PLACE, managed=False)
    for place, words in (
        (PLACE, "gpu0 (resident)"),
        (foreign, "gpu0 (resident, loaded by others)"),
        (replace(foreign, memory_bytes=0), "gpu0 (resident)"),
        (replace(foreign, state="absent", memory_bytes=0), "gpu0"),
    ):
        line = shown(models_table([replace(MODEL, places=(place,))])).splitlines()[-1]
        assert line.rstrip().endswith(words), line


def test_where_a_backend_is_down_nobody_knows_how_its_models_are() -> None:
    place = replace(PLACE, state="unknown")
    for view in (models_table, lambda found: model_table(found[0])):
        text = shown(view([replace(MODEL, places=(place,))]))
        assert "not known: it is down" in text
        assert "slots in use" not in text


def test_without_a_model_a_backend_that_is_down_comes_first_with_its_problem() -> None:
    assert no_model_text((down(BACKEND),), lists_any=False) == (
        "no model is known: backend gpu0 at http://127.0.0.1:11434 does not answer: Connection "
        "refused; start Ollama there (`ollama serve`), or correct the url under [[backends]]; the "
        "broker takes it up by itself as soon as it answers"
    )
    refused = replace(down(BACKEND), problem=f"{BACKEND.url} takes no connection: refused")
    assert no_model_text((refused,), lists_any=False).startswith(
        f"no model is known: backend gpu0 at {BACKEND.url} takes no connection: refused; start "
    )
    words = no_model_text((BACKEND, down(VLLM)), lists_any=True)
    assert words.startswith("no model that generates text is known: backend vllm at")
    assert "start its server there, or correct" in words
    assert "ollama" not in words.lower()


def test_without_a_model_on_backends_that_answer_one_is_to_be_got() -> None:
    assert no_model_text((BACKEND,), lists_any=False) == (
        "no backend lists any model; get one with `ollama pull NAME` on its host"
    )
    assert no_model_text((BACKEND,), lists_any=True).startswith(
        "no backend lists a model that generates text; "
    )
    assert "ollama" not in get_model_step((VLLM,))
    assert "[[backends]]" in no_model_text((), lists_any=False)
