"""Evaluations: one file a task, found by name. Each defines ``evaluate(model, shards, captions, …) -> dict``."""
