"""Optimisers: one module each, with a subclass of :class:`distill.training.optimizer.Optimizer` as ``OPTIMIZER``."""
