"""What the seeds do with the file, as they print it: the functions of the sections "Model Status
Detection", "Size Information Handling" and "Performance Optimization" of "Ollama Infrastructure
Interaction Patterns", word for word but for types and the place of the file. That page names
`get_persistent_cache_age_hours` and `load_persistent_model_cache` and does not print them; here
they do what it says of them.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any


def determine_download_status(model_key: str, ollama_status: dict[str, Any]) -> Any:
    model_base_name = model_key.split(":")[0]
    status_info = ollama_status.get(model_base_name, {})

    # Check both base-level and variant-level status
    is_downloaded_base = status_info.get("downloaded", False)
    variants = status_info.get("variants", {})
    variant_info = variants.get(model_key, {})
    is_downloaded_variant = variant_info.get("downloaded", False)

    # Model is downloaded if EITHER level indicates downloaded
    return is_downloaded_base or is_downloaded_variant


def format_model_status_with_size(is_downloaded: bool, variant_info: dict[str, Any]) -> str:
    size_str = variant_info.get("size_str", "")

    if is_downloaded:
        status_text = "✓ Downloaded"
        if size_str and any(unit in size_str.upper() for unit in ["GB", "MB", "TB"]):
            status_text += f" ({size_str})"
    else:
        status_text = "⬇ Downloadable"
        if size_str and any(unit in size_str.upper() for unit in ["GB", "MB", "TB"]):
            status_text += f" ({size_str})"

    return status_text


def save_persistent_model_cache(cache_file: Path, data: dict[str, Any]) -> None:
    """Atomic cache save with error handling."""
    cache_file.parent.mkdir(exist_ok=True)

    # Write to temporary file first
    temp_file = cache_file.with_suffix(".tmp")
    try:
        with open(temp_file, "w") as f:
            json.dump(data, f, indent=2, default=str)
        # Atomic move
        temp_file.replace(cache_file)
    except Exception as e:  # noqa: BLE001  # as they have it
        logging.error(f"Failed to save model cache: {e}")
        if temp_file.exists():
            temp_file.unlink()


def load_persistent_model_cache(cache_file: Path) -> dict[str, Any]:
    with open(cache_file) as f:
        found: dict[str, Any] = json.load(f)
    return found


def get_persistent_cache_age_hours(cache_file: Path) -> float:
    return (time.time() - cache_file.stat().st_mtime) / 3600
