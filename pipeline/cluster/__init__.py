"""Joining a Ray cluster, the crew that works on it, logs and metrics."""
