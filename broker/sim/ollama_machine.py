"""The machine under a simulated Ollama: its settings, its memory, its page cache.

Rules: sizes only; who is resident is told by the caller. What is assumed rather than recorded is
a field with a default here, so that a world can set it. Sources: reference/OLLAMA.md §3.3, §4,
§7.3 to §7.5.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from broker.sim.ollama_model_card import Capability, SimModel
from broker.sim.ollama_work import RunnerOptions

GIB = 1 << 30
MIB = 1 << 20
SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000
KEEP_FOREVER_NS = (1 << 63) - 1  # MaxInt64, as Ollama stores "forever"

# Of the free memory of a GPU, what a model beside others may be predicted to take (sched.go).
_FIT_SHARE = 0.8
# The least context of a model that sees, and of any model (sched.go:getRunner).
_NUM_CTX_MIN_VISION = 2048
_NUM_CTX_MIN = 4
# Total context (slots times num_ctx) up to which an automatic num_batch is this large, and what
# the preflight adds for it. The steps themselves are not documented: an assumption.
_BATCHES = ((8192, 512, 0), (32768, 1024, 768 * MIB))
_BATCH_LAST = (2048, 2 * GIB)
# routes.go:Serve: video memory from which the default context is this long.
_CONTEXT_TIERS = ((47 * GIB, 262_144), (23 * GIB, 32_768))
_CONTEXT_LAST = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """Faults of Ollama that a broker meets (OLLAMA.md §7.9). True is as recorded, False is cured.

    `slot_leak_chance` is how often closing a stream loses its slot until the model is unloaded:
    1 of 680 cancels in the recordings. The chance is drawn from the seed, one draw per cancel.
    """

    leak_cancelled_queue: bool = True  # a queued client that left still fills the queue
    leak_slot_on_slow_reader: bool = True  # half-closed while it did not read
    leak_slot_on_unfinished_body: bool = True
    silent_on_half_close: bool = True
    ps_hangs_on_frozen_runner: bool = True
    resurrect_victim: bool = True  # a model chosen for eviction still takes requests
    slot_leak_chance: float = 1 / 680


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The OLLAMA_ variables of one server and the figures of its machine.

    `keep_alive_ns` negative means forever. `max_loaded_models` 0 is Ollama's automatic limit of
    three. `memory_bytes` is the memory of the one GPU, or of the host where there is none.
    """

    num_parallel: int = 1
    max_loaded_models: int = 0
    max_queue: int = 512
    keep_alive_ns: int = 300 * SECOND_NS
    context_length: int = 0  # 0: by the memory of the GPU, and then "automatic"
    load_timeout_ns: int = 300 * SECOND_NS  # 0 or less: never
    gpu: bool = True
    memory_bytes: int = 24 * GIB
    page_cache_bytes: int = 64 * GIB
    prompt_cache_bytes: int = 8 * GIB  # older prompts kept by a runner (llama-server's default)
    admission_ns: int = 1_400_000  # from the request's arrival to the scheduler's decision
    gpu_query_ns: int = 200 * MILLISECOND_NS
    readiness_poll_ns: int = 250 * MILLISECOND_NS
    kill_ns: int = 30 * MILLISECOND_NS  # from SIGKILL until the process is gone
    vram_recovery_ns: int = 700 * MILLISECOND_NS  # after a kill, on a GPU; the cap is 5 s
    health_check_ns: int = 10 * SECOND_NS
    cpu_speed_share: float = 0.08  # what the CPU makes of the rate of a GPU
    log_entries_max: int = 10_000
    quirks: Quirks = field(default_factory=Quirks)

    @property
    def loaded_models_max(self) -> int:
        return self.max_loaded_models if self.max_loaded_models > 0 else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What a runner of a model is started with: the outcome of settings, model and options."""

    num_ctx: int
    num_ctx_auto: bool
    num_batch: int
    num_batch_auto: bool
    slots: int
    use_mmap: bool | None
    options: RunnerOptions


def sizing(model: SimModel, options: RunnerOptions, settings: ServerSettings) -> Sizing:
    """The runner that this request would start (sched.go:getRunner, OLLAMA.md §1.4b)."""
    asked = options.num_ctx
    auto = asked is None and settings.context_length <= 0
    if asked is None:
        asked = settings.context_length if settings.context_length > 0 else _default_ctx(settings)
    least = _NUM_CTX_MIN_VISION if Capability.VISION in model.capabilities else _NUM_CTX_MIN
    num_ctx = min(max(asked, least), model.context_length_train)
    slots = model.slots(settings.num_parallel)
    return Sizing(
        num_ctx=num_ctx,
        num_ctx_auto=auto,
        num_batch=options.num_batch or _auto_batch(model, num_ctx, slots),
        num_batch_auto=not options.num_batch,
        slots=slots,
        # Without a GPU Ollama switches mmap off by itself: unset and false are then the same
        # (recorded: 14_options_reload).
        use_mmap=options.use_mmap if settings.gpu else bool(options.use_mmap),
        options=options,
    )


def needs_reload(loaded: Sizing, asked: Sizing) -> bool:
    """Whether a request with these options restarts the runner (OLLAMA.md §3.5)."""
    if loaded.num_ctx != asked.num_ctx and not (loaded.num_ctx_auto and asked.num_ctx_auto):
        return True
    both_auto = loaded.num_batch_auto and asked.num_batch_auto
    if loaded.num_batch != asked.num_batch and not both_auto:
        return True
    was, now = loaded.options, asked.options
    if now.num_gpu is not None and now.num_gpu >= 0 and now.num_gpu != was.num_gpu:
        return True
    return (loaded.use_mmap, was.main_gpu, was.num_thread or 0, was.shift, _draft(was)) != (
        asked.use_mmap,
        now.main_gpu,
        now.num_thread or 0,
        now.shift,
        _draft(now),
    )


def _draft(options: RunnerOptions) -> int:
    return options.draft_num_predict or 0


def _default_ctx(settings: ServerSettings) -> int:
    if settings.gpu:
        for least_bytes, length in _CONTEXT_TIERS:
            if settings.memory_bytes >= least_bytes:
                return length
    return _CONTEXT_LAST


def _auto_batch(model: SimModel, num_ctx: int, slots: int) -> int:
    if model.is_embedding:
        return min(2048, num_ctx)
    for ctx_max, batch, _ in _BATCHES:
        if num_ctx * slots <= ctx_max:
            return batch
    return _BATCH_LAST[0]


def predicted_bytes(model: SimModel, size: Sizing) -> int:
    """Ollama's own guess before a load: file and KV, always f16 (OLLAMA.md §3.3)."""
    return model.size_bytes + model.kv_bytes_per_token * size.num_ctx * size.slots


def resident_bytes(model: SimModel, size: Sizing) -> int:
    """What the runner really takes, and what ps reports as `size`."""
    return predicted_bytes(model, size) + model.compute_bytes


def batch_surcharge_bytes(size: Sizing) -> int:
    for _, batch, surcharge in _BATCHES:
        if size.num_batch <= batch:
            return surcharge
    return _BATCH_LAST[1]


def fits_beside_others(
    model: SimModel, size: Sizing, free_bytes: int, settings: ServerSettings
) -> bool:
    """The preflight of a model that is not alone; hosts without a GPU have none."""
    partial = size.options.num_gpu is not None and size.options.num_gpu >= 0
    if not settings.gpu or partial:
        return True
    need = predicted_bytes(model, size) + batch_surcharge_bytes(size)
    return need <= free_bytes * _FIT_SHARE


def gpu_share(model: SimModel, size: Sizing, free_bytes: int, settings: ServerSettings) -> float:
    """The part of a runner that lies on the GPU, 0 to 1."""
    if not settings.gpu or size.options.num_gpu == 0:
        return 0.0
    return min(1.0, max(0.0, free_bytes / resident_bytes(model, size)))


def speed_share(share: float, settings: ServerSettings) -> float:
    """By how much a runner is slower for lying partly outside the GPU (OLLAMA.md §7.5)."""
    if not settings.gpu:
        return 1.0
    return 1.0 / (share + (1.0 - share) / settings.cpu_speed_share)


class PageCache:
    """Which model files lie in the host's memory: a file read goes in, the oldest goes out."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._files: OrderedDict[str, int] = OrderedDict()
        self._held_bytes = 0

    def read(self, blob: str, size_bytes: int) -> bool:
        """Notes that the file is read now; True if it lay in memory already."""
        hit = blob in self._files
        self._held_bytes -= self._files.pop(blob, 0)
        if size_bytes > self._capacity_bytes:
            return False
        self._files[blob] = size_bytes
        self._held_bytes += size_bytes
        while self._held_bytes > self._capacity_bytes:
            self._held_bytes -= self._files.popitem(last=False)[1]
        return hit


def load_ns(model: SimModel, *, cached: bool, settings: ServerSettings) -> int:
    """From the start of the process until the poll that finds it healthy (OLLAMA.md §7.3)."""
    speed = model.speed
    rate = speed.load_cached_bytes_per_s if cached else speed.load_bytes_per_s
    ready_ns = int(speed.spawn_ms * MILLISECOND_NS + model.size_bytes / rate * SECOND_NS)
    return on_grid_ns(ready_ns, settings)


def on_grid_ns(after_ns: int, settings: ServerSettings) -> int:
    """The first readiness poll at or after this long since the start of the process."""
    step = settings.readiness_poll_ns
    return max(1, -(-after_ns // step)) * step
