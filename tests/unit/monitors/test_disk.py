"""How much disk is free where backends keep their models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from broker.monitors.disk import HostDisk


async def test_what_is_free_is_that_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(path: Path) -> object:
        if not path.exists():
            raise FileNotFoundError(path)
        return type("Usage", (), {"free": len(path.name)})

    monkeypatch.setattr(shutil, "disk_usage", usage)
    (tmp_path / "four").mkdir()
    (tmp_path / "usual").mkdir()
    folders = {
        "named": str(tmp_path / "four"),
        "wrong": str(tmp_path / "absent"),
        "unsaid": "",
        "nobody": "~nobody-of-this-name/models",
    }
    disk = HostDisk(folders, usual=(str(tmp_path / "nowhere"), str(tmp_path / "usual")))
    assert await disk.free_bytes("named") == 4
    assert await disk.free_bytes("unsaid") == 5
    for unknown in ("wrong", "nobody", "elsewhere"):
        assert await disk.free_bytes(unknown) is None
