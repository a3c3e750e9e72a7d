"""Evaluations: one file a task, found by name.

Each defines ``EVALUATION``, a subclass of :class:`distill.evals.evaluation.Evaluation` whose fields are its options.
"""
