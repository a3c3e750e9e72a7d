"""Observers of a training, one file each.

Each defines ``OBSERVER``, a subclass of :class:`distill.training.observing.Observer`.
"""
