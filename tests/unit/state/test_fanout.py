"""Whose turn it is: few in each turn of the loop, what cannot wait before what can."""

from __future__ import annotations

from collections.abc import Callable

from broker.state.fanout import Fanout, FanoutPolicy

POLICY = FanoutPolicy(at_once_wakes_per_turn=3, wakes_per_turn=2, pause_s=0.5)


class Loop:
    """A loop that turns when it is told to, on a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.soon: list[Callable[[], object]] = []
        self.later: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[[], object], /) -> object:
        self.soon.append(callback)
        return callback

    def call_later(self, delay_s: float, callback: Callable[[], object], /) -> object:
        self.later.append((self.now_s + delay_s, callback))
        return callback

    def turn(self) -> None:
        """What is due now, and nothing that this brings about."""
        due = [each for at_s, each in self.later if at_s <= self.now_s]
        self.later = [each for each in self.later if each[0] > self.now_s]
        callbacks, self.soon = [*self.soon, *due], []
        for callback in callbacks:
            callback()


class Named:
    def __init__(self, name: str, woken: list[str]) -> None:
        self.name = name
        self._woken = woken

    def wake(self) -> None:
        self._woken.append(self.name)


class Scene:
    def __init__(self) -> None:
        self.loop = Loop()
        self.fanout = Fanout(POLICY, self.loop)
        self.woken: list[str] = []
        self.sleepers = {name: Named(name, self.woken) for name in "abcdefgh"}

    def due(self, names: str, *, at_once: bool = False) -> None:
        for name in names:
            self.fanout.due(self.sleepers[name], at_once=at_once)

    def turn(self, *, after_s: float = 0.0) -> str:
        """Who was woken in the next turn."""
        self.loop.now_s += after_s
        self.woken.clear()
        self.loop.turn()
        return "".join(self.woken)


def test_a_turn_wakes_so_many_and_the_next_one_comes_after_a_pause() -> None:
    scene = Scene()
    scene.due("abcde")
    assert [scene.turn(), scene.turn(), scene.turn(after_s=0.25)] == ["ab", "", ""]
    assert [scene.turn(after_s=0.25), scene.turn(after_s=0.5), scene.turn(after_s=9)] == [
        "cd",
        "e",
        "",
    ]
    assert not scene.loop.soon
    assert not scene.loop.later


def test_who_comes_after_the_pause_is_woken_at_once_and_before_it_is_not() -> None:
    scene = Scene()
    scene.due("a")
    assert scene.turn() == "a"
    scene.due("b")
    assert [scene.turn(after_s=0.25), scene.turn(after_s=0.25)] == ["", "b"]
    scene.loop.now_s += 9
    scene.due("c")
    assert scene.turn() == "c"


def test_what_cannot_wait_takes_turn_after_turn() -> None:
    scene = Scene()
    scene.due("ab")
    scene.due("cdefg", at_once=True)
    woken = [scene.turn(), scene.turn(), scene.turn()]
    assert woken == ["abcde", "fg", ""]


def test_who_is_due_twice_is_woken_once_and_sooner_if_it_cannot_wait() -> None:
    scene = Scene()
    scene.due("abcc")
    scene.due("c", at_once=True)
    scene.due("c")
    assert [scene.turn(), scene.turn(after_s=9)] == ["abc", ""]


def test_who_is_forgotten_is_not_woken() -> None:
    scene = Scene()
    scene.due("abc")
    scene.due("de", at_once=True)
    for name in "ad":
        scene.fanout.forget(scene.sleepers[name])
    assert sorted(scene.turn()) == ["b", "c", "e"]
    assert scene.turn(after_s=9) == ""
