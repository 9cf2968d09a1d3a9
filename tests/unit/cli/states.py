"""A busy broker's state, as the wire says it."""

from __future__ import annotations

from broker_client import Status
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2, models_pb2
from broker_client.status import status_of

GB = 10**9


def request(number: int, agent_id: str, state: str = "queued", **more: object) -> pb.RequestStatus:
    """One of them; the lower the number, the older it is."""
    fields: dict[str, object] = {
        "model": "tiny",
        "priority": 5,
        "age_ms": 10_000.0 - number,
        **more,
    }
    return pb.RequestStatus(
        request_id=f"r{number}",
        agent_id=agent_id,
        state=state,
        **fields,  # type: ignore[arg-type]  # The message itself checks them.
    )


def busy_message() -> pb.GetStatusResponse:
    """Level 2 for want of GPU memory; two run, three wait."""
    return pb.GetStatusResponse(
        version="1.2.3",
        uptime_s=90,
        level=common_pb2.DEGRADATION_LEVEL_2,
        level_status=level_message(),
        queued=3,
        queued_max=1000,
        running=2,
        agents=3,
        tokens_per_s=51.5,
        gpus=[gpu_message()],
        host=host_message(),
        sensors=[
            pb.SensorStatus(name="host", state="ok", age_ms=10),
            pb.SensorStatus(name="gpu", state="failing", detail="GPU 1 is lost", age_ms=2_500),
        ],
        alerts=[
            pb.Alert(
                name="QueueSaturation",
                severity="warning",
                summary="85 % of the queue is full",
                runbook="let agents send less",
                since_ms=61_000,
            )
        ],
        queue_wait=pb.WaitStatus(count=40, p50_ms=120, p99_ms=4_000),
        first_token=pb.WaitStatus(count=40, p50_ms=300, p99_ms=5_000),
        wait_estimates=pb.EstimateStatus(judged=50, inside=41),
        priorities=[
            pb.PriorityStatus(
                priority=5,
                queued=3,
                running=2,
                ended=7,
                queue_wait_ms_max=9_000,
                queue_wait=pb.WaitStatus(count=9, p50_ms=100, p99_ms=8_000),
            )
        ],
        agents_working=[
            pb.AgentWork(agent_id="opus-1", agent_type="opus", queued=2, running=1),
            pb.AgentWork(agent_id="batch-1", agent_type="batch", queued=1, running=1),
        ],
        backends=[
            pb.BackendStatus(
                name="gpu0", kind="ollama", url="http://x", up=True, models=[model_message()]
            )
        ],
        requests=request_messages(),
    )


def model_message() -> pb.BackendModel:
    """Its model, a quarter of which lies beside the GPU."""
    place = models_pb2.ModelPlace(
        backend="gpu0",
        state=models_pb2.MODEL_STATE_RESIDENT,
        slots=2,
        running=2,
        num_ctx=4096,
        memory_bytes=4 * GB,
        gpu_memory_bytes=3 * GB,
        managed=True,
        expires_ms=540_000,
    )
    return pb.BackendModel(name="tiny:latest", place=place, queued=3)


def host_message() -> pb.HostStatus:
    """Its host, which swaps."""
    return pb.HostStatus(
        cpu_count=8,
        cpu_share=0.5,
        models_cpu_share=0.25,
        memory_total_bytes=16 * GB,
        memory_available_bytes=6 * GB,
        models_memory_bytes=2 * GB,
        swap_total_bytes=2 * GB,
        swap_used_bytes=GB,
        swap_in_bytes_per_s=5000,
    )


def request_messages() -> list[pb.RequestStatus]:
    """Its requests, the oldest first."""
    slot, swap = common_pb2.WAIT_REASON_SLOT, common_pb2.WAIT_REASON_SWAP
    return [
        request(1, "opus-1", "streaming", backend="gpu0", tokens=30, tokens_per_s=51.5),
        request(2, "batch-1", "dispatched", backend="gpu0", substitute="tiny", model="big"),
        request(3, "opus-1", wait_reason=slot, wait_detail="a free slot of tiny on gpu0"),
        request(4, "batch-1", wait_reason=swap, model="big", priority=8),
        request(5, "opus-1", wait_reason=slot, priority=2),
    ]


def level_message() -> pb.LevelStatus:
    """What decides the level of the busy broker."""
    return pb.LevelStatus(
        level=common_pb2.DEGRADATION_LEVEL_2,
        level_before=common_pb2.DEGRADATION_LEVEL_1,
        automatic=True,
        since_ms=12_000,
        why="gpu_memory is at 83 %: 13.3 GB of 16.0 GB are used by others",
        load=0.83,
        parts=[
            pb.LoadPart(
                name="queue", known=True, value=3, limit=1000, share=0.003, detail="3 wait"
            ),
            pb.LoadPart(name="wait", detail="too few requests were measured"),
            pb.LoadPart(
                name="gpu_memory",
                known=True,
                value=13.3 * GB,
                limit=16 * GB,
                share=0.83,
                detail="others use it",
            ),
        ],
    )


def gpu_message() -> pb.GpuStatus:
    """A warm card that others use, too."""
    return pb.GpuStatus(
        name="NVIDIA H200",
        memory_total_bytes=144 * GB,
        memory_used_bytes=36 * GB,
        utilization=0.55,
        temperature_c=83,
        power_w=650,
        power_limit_w=700,
        throttle_reasons=["power cap"],
        processes=[
            pb.GpuProcess(pid=1, name="ollama", memory_bytes=3 * GB, ours=True),
            pb.GpuProcess(pid=7, name="train", memory_bytes=13 * GB),
        ],
        processes_told=True,
    )


def busy() -> Status:
    """The same, typed."""
    return status_of(busy_message())
