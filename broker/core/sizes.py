"""How long a request will run, as far as can be told when it comes: what decides who waits behind
whom among those that were served alike.

What of its prompt was not read before, by the speed at which its runner reads; its answer by the
lengths of answers before: of this agent with a like limit of tokens, of everybody with such a
limit, of everybody. Each weighs as much as it has measured, so that a first answer moves little.
Nothing here refuses anybody (that is what `Estimates.expected_ns` is for, which errs on the safe
side): who is taken for shorter than it is costs others time, once, and is known by what it did use.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from _sched.average import MovingAverage
from broker.core.requests import RequestKind, RequestSpec

# Weight of a new sample. Lengths differ tenfold from answer to answer, so that an average over less
# than the last forty or so would follow each of them.
SAMPLE_WEIGHT: Final = 0.05

# So many answers of its own and what an agent uses counts as much as what everybody does.
OWN_AFTER: Final = 3

# Agents, each with a runner and a limit, whose answers are remembered; the one not heard of for
# longest goes. As many as agents are remembered, where each uses one.
AUTHORS_MAX: Final = 10_000

# Limits of tokens are told apart by powers of two, up to this one.
LIMIT_BITS_MAX: Final = 31

# What answers have in common: the runner, and the limit of tokens (-1: any).
_Sort = tuple[str, int]
_Author = tuple[str, str, int]  # agent, runner, limit
_Rated = tuple[str, bool]  # a runner, and whether it is of its embeddings: enums hash slowly

_ANY: Final = -1


class _Speed:
    """Sums that belong together, as averages: how long prompts of so many bytes took to be read,
    and answers of so many tokens to be written. Their ratio is the speed: that of each request for
    itself would be that of short ones, where what every call costs is most of it."""

    __slots__ = ("prompt_bytes", "read_ns", "tokens", "write_ns")

    def __init__(self) -> None:
        self.prompt_bytes = MovingAverage(SAMPLE_WEIGHT)
        self.read_ns = MovingAverage(SAMPLE_WEIGHT)
        self.tokens = MovingAverage(SAMPLE_WEIGHT)
        self.write_ns = MovingAverage(SAMPLE_WEIGHT)

    def add(self, prompt_bytes: int, read_ns: int, tokens: int, write_ns: int) -> None:
        self.prompt_bytes.add(prompt_bytes)
        self.read_ns.add(read_ns)
        self.tokens.add(tokens)
        self.write_ns.add(write_ns)

    def expected_ns(self, prompt_bytes: int, tokens: float) -> float:
        return _scaled(self.read_ns, self.prompt_bytes, prompt_bytes) + _scaled(
            self.write_ns, self.tokens, tokens
        )


def _scaled(time_ns: MovingAverage, amount: MovingAverage, wanted: float) -> float:
    """The time for the wanted amount; where amounts were not counted, what it takes on average."""
    usual_ns, usual = time_ns.mean() or 0.0, amount.mean() or 0.0
    return usual_ns * wanted / usual if usual > 0 else usual_ns


class Sizes:
    """See the module. All steps take constant time."""

    __slots__ = ("_by_author", "_by_sort", "_latest", "_speeds")

    def __init__(self) -> None:
        self._speeds: dict[_Rated, _Speed] = {}
        self._latest: dict[bool, _Rated] = {}  # what was served last, of embeddings and of others
        self._by_sort: dict[_Sort, MovingAverage] = {}
        self._by_author: OrderedDict[_Author, MovingAverage] = OrderedDict()

    def __len__(self) -> int:
        """Of how many agents, runners and limits the answers are remembered."""
        return len(self._by_author)

    def served(
        self,
        runner: str,
        spec: RequestSpec,
        service_ns: int,
        first_token_ns: int,
        output_tokens: int,
        known_bytes: int = 0,
    ) -> None:
        """A request was completed. `first_token_ns` after it started; 0: there was none, and all
        of its time was for the prompt. Tokens are 0 where nobody counted them. `known_bytes` of
        the prompt had been read before."""
        read_ns = first_token_ns or service_ns
        rated = runner, spec.kind is RequestKind.EMBED
        speed = self._speeds.get(rated)
        if speed is None:
            speed = self._speeds[rated] = _Speed()
        read_bytes = max(0, spec.prompt_bytes - known_bytes)
        speed.add(read_bytes, read_ns, output_tokens, service_ns - read_ns)
        self._latest[rated[1]] = rated
        if rated[1] or not output_tokens:
            return
        limit = _limit(spec)
        for sort in ((runner, limit), (runner, _ANY)):
            lengths = self._by_sort.get(sort)
            if lengths is None:
                lengths = self._by_sort[sort] = MovingAverage(SAMPLE_WEIGHT)
            lengths.add(output_tokens / _unit(spec, sort[1]))
        self._note_author((spec.key[0], runner, limit), output_tokens / _unit(spec, limit))

    def _note_author(self, author: _Author, length: float) -> None:
        lengths = self._by_author.get(author)
        if lengths is None:
            if len(self._by_author) >= AUTHORS_MAX:
                self._by_author.popitem(last=False)
            lengths = self._by_author[author] = MovingAverage(SAMPLE_WEIGHT)
        else:
            self._by_author.move_to_end(author)
        lengths.add(length)

    def expected_ns(self, runner: str, spec: RequestSpec, known_bytes: int = 0) -> int:
        """How long such a request of this agent runs, of whose prompt so much was read before; on
        a runner that has served none, as on the one that has served last. 0: nothing is known."""
        rated = runner, spec.kind is RequestKind.EMBED
        speed = self._speeds.get(rated)
        if speed is None:
            rated = self._latest.get(rated[1], rated)
            speed = self._speeds.get(rated)
        if speed is None:
            return 0
        tokens = 0.0 if rated[1] else self._tokens(rated[0], spec)
        return int(speed.expected_ns(max(0, spec.prompt_bytes - known_bytes), tokens))

    def _tokens(self, runner: str, spec: RequestSpec) -> float:
        """How long its answer will be."""
        limit = _limit(spec)
        lengths = self._by_author.get((spec.key[0], runner, limit))
        own = min(lengths.count, 1 / SAMPLE_WEIGHT) if lengths else 0.0
        usual = (lengths.mean() or 0.0) * _unit(spec, limit) if lengths else 0.0
        for sort in ((runner, limit), (runner, _ANY)):
            others = self._by_sort.get(sort)
            if others is not None:
                theirs = (others.mean() or 0.0) * _unit(spec, sort[1])
                usual = (own * usual + OWN_AFTER * theirs) / (own + OWN_AFTER)
                break
        most = spec.output_tokens_max
        return min(usual, most) if most > 0 else usual

    def keep(self, runners: set[str]) -> None:
        """Forgets the runners that no backend has any more."""
        for speed in [each for each in self._speeds if each[0] not in runners]:
            del self._speeds[speed]
        for sort in [each for each in self._by_sort if each[0] not in runners]:
            del self._by_sort[sort]
        for author in [each for each in self._by_author if each[1] not in runners]:
            del self._by_author[author]
        for kind in [each for each, rated in self._latest.items() if rated[0] not in runners]:
            del self._latest[kind]


def _limit(spec: RequestSpec) -> int:
    """Limits within the same power of two are alike; 0: none is known."""
    return min(spec.output_tokens_max.bit_length(), LIMIT_BITS_MAX)


def _unit(spec: RequestSpec, limit: int) -> int:
    """Answers with a like limit are told as parts of it: who asks for at most a third more than
    another will use about a third more. Those with different ones, an absurd one or none, in
    tokens."""
    return spec.output_tokens_max if 0 < limit < LIMIT_BITS_MAX else 1
