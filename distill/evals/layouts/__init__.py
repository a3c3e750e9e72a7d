"""Layouts of evaluation data, one file each.

Each defines ``LAYOUT``, a subclass of :class:`distill.evals.layout.Layout`.
"""
