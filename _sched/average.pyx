# cython: language_level=3
"""Moving averages of measurements: several are fed at the end of every request."""
cimport cython

cdef struct Average:
    long long count
    double mean


cdef inline void feed(Average* average, double sample, double weight) noexcept nogil:
    """The first samples count alike, later ones by their weight."""
    average.count += 1
    cdef double share = 1.0 / average.count
    average.mean += (sample - average.mean) * (share if share > weight else weight)


cdef inline double bounded(double usual, double most) noexcept nogil:
    """At most as much as was asked for; 0: no limit is known."""
    return most if 0 < most < usual else usual


cdef int check_weight(double weight) except -1:
    if not 0 < weight <= 1:
        raise ValueError(f"a weight must be in (0, 1], not {weight}")
    return 0


@cython.final
cdef class MovingAverage:
    """An exponentially weighted mean; the first samples count alike."""

    cdef Average _average
    cdef double _weight  # of a new sample, once there are more than 1 / weight of them

    def __init__(self, double weight):
        check_weight(weight)
        self._weight = weight

    @property
    def count(self):
        return self._average.count

    def add(self, double sample):
        """Counts a sample in."""
        feed(&self._average, sample, self._weight)

    def mean(self, long long samples_min=1):
        """The mean, or None while there are fewer samples."""
        if self._average.count < samples_min or self._average.count == 0:
            return None
        return self._average.mean


@cython.final
cdef class ServiceRates:
    """How long requests run on one server, by their lengths: what `samples_min` of them tell."""

    cdef Average _service_ns
    cdef Average _prefill_ns     # per token of the prompt
    cdef Average _decode_ns      # per token after the first
    cdef Average _per_byte       # tokens of the prompt
    cdef Average _first_ns       # until the first token
    cdef Average _output         # tokens
    cdef double _weight
    cdef long long _samples_min

    def __init__(self, double weight, long long samples_min):
        check_weight(weight)
        if samples_min < 1:
            raise ValueError(f"samples_min must be at least 1, not {samples_min}")
        self._weight = weight
        self._samples_min = samples_min

    @property
    def count(self):
        """How many requests were measured."""
        return self._service_ns.count

    def add(self, double service_ns, double first_token_ns, double prompt_bytes,
            double prompt_tokens, double output_tokens):
        """A request was served. What is 0 was not measured, and neither is what follows from it."""
        feed(&self._service_ns, service_ns, self._weight)
        feed(&self._output, output_tokens, self._weight)
        if prompt_bytes > 0 and prompt_tokens > 0:
            feed(&self._per_byte, prompt_tokens / prompt_bytes, self._weight)
        if first_token_ns > 0 and prompt_tokens > 0:
            feed(&self._prefill_ns, first_token_ns / prompt_tokens, self._weight)
            feed(&self._first_ns, first_token_ns, self._weight)
        if first_token_ns > 0 and output_tokens > 1:
            feed(
                &self._decode_ns,
                (service_ns - first_token_ns) / (output_tokens - 1),
                self._weight,
            )

    def mean_ns(self):
        """How long a request runs, or None while too few were measured."""
        return self._service_ns.mean if self._service_ns.count >= self._samples_min else None

    def expected_ns(self, double prompt_bytes, double output_tokens_max=0):
        """How long a request of this size surely runs, and of so many tokens at most (0: no limit
        is known): by its length where the rates are known, and never longer than others do. What
        was measured per token of prompt holds what every call costs, so that it says too much of
        long ones. None while too few were measured, and where the limit is below what others use
        and the rates are not known."""
        cdef double output = bounded(self._output.mean, output_tokens_max)
        cdef bint has_rates = (
            self._per_byte.count >= self._samples_min
            and self._prefill_ns.count >= self._samples_min
            and self._decode_ns.count >= self._samples_min
        )
        if self._service_ns.count < self._samples_min:
            return None
        if not has_rates:
            return self._service_ns.mean if output == self._output.mean else None
        cdef double prefill_ns = prompt_bytes * self._per_byte.mean * self._prefill_ns.mean
        prefill_ns = min(prefill_ns, self._first_ns.mean)
        return min(self._service_ns.mean, prefill_ns + output * self._decode_ns.mean)

    def tokens(self, double prompt_bytes, double output_tokens_max=0):
        """Prompt and output tokens of a request of this size, or None while too few were
        measured."""
        if self._per_byte.count < self._samples_min or self._output.count < self._samples_min:
            return None
        return prompt_bytes * self._per_byte.mean + bounded(self._output.mean, output_tokens_max)
