"""What the broker shows of itself: logs and metrics."""
