"""Losses: pure functions of embeddings, and the objectives made of them.

A loss takes tensors that already hold the global batch and returns a scalar; it knows nothing of ranks,
processes or models. ``rows`` says which rows of that batch this process answers for, so that k processes
share the work of one (``losses/rows.py`` explains why the gradients still add up).

An objective is one module of this package that defines ``OBJECTIVE``: a class that maps
:class:`~losses.objective.Embeddings` to named terms. Adding the file is all it takes to add the objective.
"""

from losses.contrastive import contrastive
from losses.l2 import l2
from losses.objective import Embeddings, Objective, names, objective
from losses.three_towers import three_towers

__all__ = ["Embeddings", "Objective", "contrastive", "l2", "names", "objective", "three_towers"]
