"""Observers of a training, one file each, which defines ``OBSERVER``, a :class:`distill.training.observing.Observer`."""
