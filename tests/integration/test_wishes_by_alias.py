"""A model is loaded and unloaded by the word by which requests name it."""

from __future__ import annotations

from pathlib import Path

from broker.config.aliases import AliasConfig
from broker.config.schema import Config
from broker_client.pb.broker.v1 import models_pb2 as pb
from tests.integration.daemon import BACKEND, QUICK, LedBackend, running_daemon


async def test_the_bare_word_is_the_alias_and_with_its_tag_a_model_is_named(tmp_path: Path) -> None:
    config = Config(
        server={  # type: ignore[arg-type]
            "grpc_address": "127.0.0.1:0",
            "http_address": "127.0.0.1:0",
            "state_dir": str(tmp_path),
        },
        backends=(BACKEND,),
        aliases={"talk": AliasConfig(models=("other:latest",))},
        **QUICK,
    )
    backend = LedBackend(dict.fromkeys(("talk:latest", "other:latest"), frozenset({"completion"})))
    async with running_daemon(config, backend) as daemon:
        await daemon.models.Load(pb.LoadRequest(name="talk"))
        assert backend.loads == ["other:latest"]
        await daemon.models.Unload(pb.UnloadRequest(name="TALK"))
        assert backend.unloads == ["other:latest"]
        await daemon.models.Load(pb.LoadRequest(name="talk:latest"))
        assert backend.loads[1:] == ["talk:latest"]
