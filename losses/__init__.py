"""Losses: pure functions of embeddings, and the objectives that combine them.

A loss takes tensors with the rows of the global batch and returns a scalar; it is independent of processes and models.
``rows`` selects the rows of that batch over which this process takes the mean, so that k processes share the work
(``losses/rows.py`` explains why the gradients are still those of one process). Losses over all pairs of the batch are
tiled (``losses/tiles.py``): their memory grows with N, not with N².
"""

from losses.contrastive import contrastive, one_way
from losses.features import cosine, kl, smooth_l1
from losses.l2 import l2
from losses.objective import Embeddings, NamedRows, Needs, Objective, TeacherFacts, TeacherRows, Widths, aligned
from losses.objectives import names, objective, objective_class
from losses.relational import relational
from losses.rows import NotFinite
from losses.sigmoid import sigmoid
from losses.three_towers import three_towers

__all__ = [
    "Embeddings",
    "NamedRows",
    "Needs",
    "NotFinite",
    "Objective",
    "TeacherFacts",
    "TeacherRows",
    "Widths",
    "aligned",
    "contrastive",
    "cosine",
    "kl",
    "l2",
    "names",
    "objective",
    "objective_class",
    "one_way",
    "relational",
    "sigmoid",
    "smooth_l1",
    "three_towers",
]
