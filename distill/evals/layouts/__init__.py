"""Layouts of evaluation data, one file each, which defines ``LAYOUT``, a subclass of :class:`distill.evals.layout.Layout`."""
