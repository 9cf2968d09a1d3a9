"""What the sections of the configuration are made of: strict models, and types of values.

Types are taken as TOML gives them ("5" is no number).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

from broker.config.address import check_backend_url, check_listen_address
from broker.core.requests import PRIORITY_HIGHEST, PRIORITY_LOWEST

# TOML has arrays and no tuples; everything inside one is checked as strictly as elsewhere.
Array = Strict(False)

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
NameOrNone = Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_.-]{0,62})?$")]
Glob = Annotated[str, Field(min_length=1, max_length=256)]
ListenAddress = Annotated[str, AfterValidator(check_listen_address)]
BackendUrl = Annotated[str, AfterValidator(check_backend_url)]

MIB = 1024 * 1024
DAY_S = 86_400
# gRPC counts a message's length in a signed 32-bit integer.
MESSAGE_BYTES_MAX = 2**31 - 1
# More slots on one model than any server in use offers; a larger number is a slip of the hand.
SLOTS_MAX = 256
RESIDENT_MAX = 64
# The largest context of a model in Ollama's library is 10 million tokens.
NUM_CTX_MAX = 16_777_216

# A rate of none is Block's or Pause's matter; the slowest is one request in an hour and forty
# minutes. The fastest is beyond what any fleet sends and any server generates.
RequestsPerMinute = Annotated[float, Field(ge=0.01, le=10_000_000)]
TokensPerMinute = Annotated[float, Field(ge=1, le=1_000_000_000)]
# A bucket that cannot hold one request would never let one through.
RequestsBurst = Annotated[float, Field(ge=1, le=10_000_000)]
TokensBurst = Annotated[float, Field(ge=1, le=1_000_000_000)]
Percent = Annotated[int, Field(ge=1, le=100)]
Priority = Annotated[int, Field(ge=PRIORITY_HIGHEST, le=PRIORITY_LOWEST)]


class Section(BaseModel):
    """What all sections share: frozen, strict, no key but those listed, defaults checked too, and
    no number that is infinite or none, which TOML can write."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )
