"""Who pays for a load: those that it served."""

from __future__ import annotations

from broker.core.estimates import SAMPLES_MIN, Estimates
from broker.core.load_charges import LoadCharges
from broker.core.residency import Residency, ResidencyState
from broker.core.stimuli import ModelsListed
from tests.unit.core.scene import SECOND_NS, Scene, arrived, model, request

COST = 100


def residency(slots: int = 2) -> Residency:
    return Residency(
        runner="m",
        model="m",
        state=ResidencyState.RESIDENT,
        managed=True,
        slots=slots,
        num_ctx_sent=None,
        num_ctx=0,
    )


def measured(service_ns: int = SECOND_NS) -> LoadCharges:
    """Requests of m take so long and cost COST, as was measured."""
    estimates = Estimates()
    for _ in range(SAMPLES_MIN):
        estimates.served("m", "b", request("r"), service_ns, 1, 1, 1, COST)
    charges = LoadCharges(estimates)
    charges.share(residency(), COST)
    return charges


def paid(scene: Scene, agent: str) -> int:
    known = scene.engine.agents.find(agent)
    assert known is not None
    return known.served_cost


def test_a_load_costs_what_its_slots_would_have_served_meanwhile() -> None:
    charges, loaded = measured(), residency(slots=3)
    charges.loaded(loaded, 10 * SECOND_NS)
    assert loaded.load_owed == 10 * 3 * COST


def test_alone_a_request_pays_the_whole_load_and_it_is_paid_once() -> None:
    charges, loaded = measured(), residency(slots=1)
    charges.loaded(loaded, 5 * SECOND_NS)
    assert [charges.share(loaded, COST) for _ in range(3)] == [5 * COST, 0, 0]


def test_those_that_a_load_usually_serves_share_it() -> None:
    charges = measured()
    for _ in range(40):
        before = residency(slots=1)
        for _ in range(4):
            charges.share(before, COST)
        charges.left(before)
    loaded = residency(slots=1)
    charges.loaded(loaded, 8 * SECOND_NS)
    shares = [charges.share(loaded, COST) for _ in range(8)]
    assert sum(shares) == 8 * COST  # never more than it cost
    assert shares[:3] == [2 * COST] * 3
    assert shares[5:] == [0, 0, 0]


def test_what_was_charged_does_not_make_the_next_load_dearer() -> None:
    charges = measured()
    for _ in range(50):
        loaded = residency(slots=1)
        charges.loaded(loaded, 8 * SECOND_NS)
        assert loaded.load_owed == 8 * COST
        charges.share(loaded, COST)
        charges.left(loaded)


def test_where_nothing_is_measured_a_load_is_free() -> None:
    charges, loaded = LoadCharges(Estimates()), residency()
    charges.loaded(loaded, 10 * SECOND_NS)
    assert charges.share(loaded, COST) == 0


def test_a_load_that_served_nobody_teaches_nothing() -> None:
    charges = measured()
    charges.left(residency())
    loaded = residency(slots=1)
    charges.loaded(loaded, SECOND_NS)
    assert loaded.load_share == COST


def test_what_no_backend_has_any_more_is_forgotten() -> None:
    charges = measured()
    charges.left(residency())
    assert len(charges) == 1
    charges.keep(set())
    assert len(charges) == 0


def test_who_is_served_by_a_load_pays_for_it_beside_the_tokens() -> None:
    scene = Scene()
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("first", model="n"))
    scene.loaded("n")
    scene.ends("first", output_tokens=50)
    scene.measured(SECOND_NS, model="n", output_tokens=50)
    scene.turn(arrived("away", agent="other"))
    scene.unloaded("n")
    scene.loaded("m")
    for agent in ("causes", "follows"):
        scene.turn(arrived("r", agent=agent, model="n"))
    scene.ends("away", agent="other", output_tokens=50)
    scene.unloaded("m")
    scene.wait(10 * SECOND_NS)
    scene.loaded("n")
    for agent in ("causes", "follows"):
        scene.ends("r", agent=agent, output_tokens=50)
    first = paid(scene, "a") // (SAMPLES_MIN + 1)  # of a load before anything was known
    assert paid(scene, "causes") == paid(scene, "follows") > first


def test_the_engine_forgets_them_with_the_models() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    scene.turn(arrived("r"))
    scene.loaded("m")
    scene.ends("r")
    assert len(scene.engine._load_charges) == 1
    scene.turn(ModelsListed("b1", ()))
    assert len(scene.engine._load_charges) == 0
