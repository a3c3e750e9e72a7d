"""Optimisers: one module each, with a subclass of :class:`distill.train.optimizer.Optimizer` as ``OPTIMIZER``."""
