"""The fields of Publish and Subscribe and their limits; see `validation.py`."""

from __future__ import annotations

import re
from typing import Final

from broker.api.grpc.validation import Problems, check_agent_id, check_length
from broker.core.topics import PATTERNS_MAX, pattern_problem, topic_problem
from broker_client.pb.broker.v1 import pubsub_pb2 as pb

CONTENT_TYPE_MAX: Final = 128
_PRINTABLE: Final = re.compile(r"[ -~]*")


def check_publish(request: pb.PublishRequest, payload_bytes_max: int, problems: Problems) -> None:
    """Every field of an event to be told."""
    check_agent_id(request.agent_id, problems)
    if problem := topic_problem(request.topic):
        problems.add("topic", problem)
    size_bytes = len(request.payload)
    if size_bytes > payload_bytes_max:
        problems.add("payload", f"has {size_bytes} bytes; at most {payload_bytes_max}")
    check_length(request.content_type, CONTENT_TYPE_MAX, "content_type", problems)
    printable = _PRINTABLE.fullmatch(request.content_type) is not None
    problems.require(printable, "content_type", "must be printable ASCII")


def check_subscribe(request: pb.SubscribeRequest, problems: Problems) -> None:
    """Every field of what somebody wants to hear."""
    check_agent_id(request.agent_id, problems)
    count = len(request.topics)
    if not 1 <= count <= PATTERNS_MAX:
        problems.add("topics", f"has {count} patterns; 1 to {PATTERNS_MAX}")
        return
    for index, pattern in enumerate(request.topics):
        if problem := pattern_problem(pattern):
            problems.add(f"topics[{index}]", problem)
