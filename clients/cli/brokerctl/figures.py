"""Quantities as people read them. Pure."""

from __future__ import annotations


def duration_text(milliseconds: float) -> str:
    """1234 -> "1.2 s"."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def span_text(low_ms: float, high_ms: float) -> str:
    """From one time to another: "20 to 45 s", "0 to 300 ms", "40.0 s to 1 min 30 s"."""
    if high_ms < 1000:
        return f"{low_ms:.0f} to {high_ms:.0f} ms"
    if high_ms < 60_000:
        digits = 0 if high_ms >= 10_000 else 1
        return f"{low_ms / 1000:.{digits}f} to {high_ms / 1000:.{digits}f} s"
    return f"{duration_text(low_ms)} to {duration_text(high_ms)}"


def bytes_text(count: int) -> str:
    """Bytes in the decimal units that Ollama prints: 2019393189 -> "2.0 GB"."""
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def share_text(share: float) -> str:
    """A part of 1: 0.834 -> "83 %"."""
    return f"{share * 100:.0f} %"


def rate_text(tokens_per_s: float) -> str:
    """Tokens a second; empty where none came."""
    return f"{tokens_per_s:.0f}" if tokens_per_s else ""


def counted(count: int, noun: str) -> str:
    """ "1 request", "2 requests"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def amount_text(amount: float) -> str:
    """A number with at most one decimal: 9.25 -> "9.2", 10.0 -> "10"; below 1 two digits."""
    if amount and abs(amount) < 1:
        return f"{amount:.2g}"
    return f"{amount:.1f}".removesuffix(".0")
