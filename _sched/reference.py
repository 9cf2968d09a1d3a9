"""The package in plain Python, obviously right rather than fast: the oracle of the tests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import count


class IndexedHeap:
    """As `_sched.heap.IndexedHeap`, by sorting a list. Handles are drawn by it alone."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: dict[int, tuple[int, int]] = {}  # handle -> (key, sequence)
        self._sequence = count(1)

    def __len__(self) -> int:
        return len(self._entries)

    def push(self, key: int) -> int:
        if len(self._entries) == self.capacity:
            return 0
        sequence = next(self._sequence)
        self._entries[sequence] = (key, sequence)
        return sequence

    def peek_best(self) -> tuple[int, int] | None:
        return self._in_order()[0] if self._entries else None

    def peek_worst(self) -> tuple[int, int] | None:
        return self._in_order()[-1] if self._entries else None

    def pop_best(self) -> tuple[int, int] | None:
        return self._taken_out(self.peek_best())

    def pop_worst(self) -> tuple[int, int] | None:
        return self._taken_out(self.peek_worst())

    def pop_due(self, now: int) -> int:
        best = self.peek_best()
        if best is None or best[0] > now:
            return 0
        del self._entries[best[1]]
        return best[1]

    def remove(self, handle: int) -> bool:
        return self._entries.pop(handle, None) is not None

    def rekey(self, handle: int, key: int) -> bool:
        if handle not in self._entries:
            return False
        self._entries[handle] = (key, self._entries[handle][1])
        return True

    def key_of(self, handle: int) -> int | None:
        entry = self._entries.get(handle)
        return None if entry is None else entry[0]

    def _in_order(self) -> list[tuple[int, int]]:
        order = sorted((key, sequence, handle) for handle, (key, sequence) in self._entries.items())
        return [(key, handle) for key, _, handle in order]

    def _taken_out(self, entry: tuple[int, int] | None) -> tuple[int, int] | None:
        if entry is not None:
            del self._entries[entry[1]]
        return entry


@dataclass(slots=True)
class _Bucket:
    rate_per_ns: Fraction
    burst: Fraction
    level: Fraction
    taken_ns: int

    def at(self, now_ns: int) -> Fraction:
        elapsed_ns = max(0, now_ns - self.taken_ns)
        return min(self.burst, self.level + elapsed_ns * self.rate_per_ns)

    def wait_ns(self, amount: float, now_ns: int) -> int:
        if amount > self.burst:
            return -1
        missing = Fraction(amount) - self.at(now_ns)
        if missing <= 0:
            return 0
        return math.ceil(missing / self.rate_per_ns) + max(0, self.taken_ns - now_ns)

    def change(self, by: Fraction, now_ns: int) -> None:
        self.level = min(self.burst, self.at(now_ns) + by)
        self.taken_ns = max(self.taken_ns, now_ns)


class BucketArray:
    """As `_sched.bucket.BucketArray`, exact and so without a tolerance."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._handles = count(1)

    def __len__(self) -> int:
        return len(self._buckets)

    def add(self, rate_per_s: float, burst: float, now_ns: int) -> int:
        full = Fraction(burst)
        handle = next(self._handles)
        self._buckets[handle] = _Bucket(Fraction(rate_per_s) / 10**9, full, full, now_ns)
        return handle

    def remove(self, handle: int) -> bool:
        return self._buckets.pop(handle, None) is not None

    def acquire(self, handle: int, amount: float, now_ns: int) -> int:
        wait_ns = self.time_until(handle, amount, now_ns)
        if wait_ns == 0:
            self._buckets[handle].change(-Fraction(amount), now_ns)
        return wait_ns

    def refund(self, handle: int, amount: float, now_ns: int) -> None:
        self._buckets[handle].change(Fraction(amount), now_ns)

    def settle(self, handle: int, reserved: float, used: float, now_ns: int) -> None:
        self._buckets[handle].change(Fraction(reserved) - Fraction(used), now_ns)

    def configure(self, handle: int, rate_per_s: float, burst: float, now_ns: int) -> None:
        bucket = self._buckets[handle]
        bucket.change(Fraction(0), now_ns)
        bucket.rate_per_ns, bucket.burst = Fraction(rate_per_s) / 10**9, Fraction(burst)
        bucket.level = min(bucket.burst, bucket.level)

    def level(self, handle: int, now_ns: int) -> Fraction:
        return self._buckets[handle].at(now_ns)

    def time_until(self, handle: int, amount: float, now_ns: int) -> int:
        return self._buckets[handle].wait_ns(amount, now_ns)

    def is_full(self, handle: int, now_ns: int) -> bool:
        bucket = self._buckets[handle]
        return bucket.at(now_ns) == bucket.burst


class MovingAverage:
    """As `_sched.average.MovingAverage`."""

    def __init__(self, weight: float) -> None:
        self.count = 0
        self._mean = 0.0
        self._weight = weight

    def add(self, sample: float) -> None:
        self.count += 1
        self._mean += (sample - self._mean) * max(self._weight, 1 / self.count)

    def mean(self, samples_min: int = 1) -> float | None:
        return self._mean if self.count >= max(1, samples_min) else None


class ServiceRates:
    """As `_sched.average.ServiceRates`."""

    def __init__(self, weight: float, samples_min: int) -> None:
        self._samples_min = samples_min
        self._service_ns, self._prefill_ns = MovingAverage(weight), MovingAverage(weight)
        self._decode_ns, self._per_byte = MovingAverage(weight), MovingAverage(weight)
        self._first_ns, self._output = MovingAverage(weight), MovingAverage(weight)

    @property
    def count(self) -> int:
        return self._service_ns.count

    def add(
        self,
        service_ns: float,
        first_token_ns: float,
        prompt_bytes: float,
        prompt_tokens: float,
        output_tokens: float,
    ) -> None:
        self._service_ns.add(service_ns)
        self._output.add(output_tokens)
        if prompt_bytes > 0 and prompt_tokens > 0:
            self._per_byte.add(prompt_tokens / prompt_bytes)
        if first_token_ns > 0 and prompt_tokens > 0:
            self._prefill_ns.add(first_token_ns / prompt_tokens)
            self._first_ns.add(first_token_ns)
        if first_token_ns > 0 and output_tokens > 1:
            self._decode_ns.add((service_ns - first_token_ns) / (output_tokens - 1))

    def mean_ns(self) -> float | None:
        return self._service_ns.mean(self._samples_min)

    def expected_ns(self, prompt_bytes: float, output_tokens_max: float = 0) -> float | None:
        per_byte = self._per_byte.mean(self._samples_min)
        prefill_ns = self._prefill_ns.mean(self._samples_min)
        decode_ns = self._decode_ns.mean(self._samples_min)
        first_ns = self._first_ns.mean(self._samples_min)
        mean_ns, usual = self.mean_ns(), self._output.mean(self._samples_min)
        if mean_ns is None or usual is None:
            return None
        output = _bounded(usual, output_tokens_max)
        if per_byte is None or prefill_ns is None or decode_ns is None or first_ns is None:
            return mean_ns if output == usual else None
        return min(
            mean_ns, min(prompt_bytes * per_byte * prefill_ns, first_ns) + output * decode_ns
        )

    def tokens(self, prompt_bytes: float, output_tokens_max: float = 0) -> float | None:
        per_byte = self._per_byte.mean(self._samples_min)
        usual = self._output.mean(self._samples_min)
        if per_byte is None or usual is None:
            return None
        return prompt_bytes * per_byte + _bounded(usual, output_tokens_max)


def _bounded(usual: float, most: float) -> float:
    """At most as much as was asked for; 0: no limit is known."""
    return min(usual, most) if most > 0 else usual
