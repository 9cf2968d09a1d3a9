# cython: language_level=3
"""A moving average of measurements: several are fed at the end of every request."""
cimport cython


@cython.final
cdef class MovingAverage:
    """An exponentially weighted mean; the first samples count alike."""

    cdef readonly long long count
    cdef double _mean
    cdef double _weight  # of a new sample, once there are more than 1 / weight of them

    def __init__(self, double weight):
        if not 0 < weight <= 1:
            raise ValueError(f"a weight must be in (0, 1], not {weight}")
        self._weight = weight

    def add(self, double sample):
        """Counts a sample in."""
        self.count += 1
        cdef double share = 1.0 / self.count
        self._mean += (sample - self._mean) * (share if share > self._weight else self._weight)

    def mean(self, long long samples_min=1):
        """The mean, or None while there are fewer samples."""
        if self.count < samples_min or self.count == 0:
            return None
        return self._mean
