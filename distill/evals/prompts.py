"""Class vectors: the mean embedding of texts about each class, with which images are classified without training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill.evals.dataset import Classes
from distill.evals.evaluation import Context
from distill.evals.templates import PLAIN, fill
from distill.metrics.classifiers import class_vectors


def template_rows(context: Context, classes: Classes, templates: Sequence[str]) -> list[list[np.ndarray]]:
    """For each template, for each class, [names, D] unit rows of the texts about it."""
    texts = [[fill(template, name) for name in names] for template in templates for names in classes.names]
    flat = [text for own in texts for text in own]
    distinct = list(dict.fromkeys(flat))
    rows = dict(zip(distinct, context.texts(distinct), strict=True))
    groups = [np.stack([rows[text] for text in own]) for own in texts]
    size = len(classes.names)
    return [groups[i : i + size] for i in range(0, len(groups), size)]


def vectors_of(rows: Sequence[list[np.ndarray]]) -> np.ndarray:
    """[classes, D] unit rows: for each class the mean over all names and the templates whose rows are given."""
    flat = [own for template in rows for own in template]
    numbers = np.repeat([k for template in rows for k in range(len(template))], [len(own) for own in flat])
    return class_vectors(np.concatenate(flat), numbers, len(rows[0]))


def class_rows(context: Context) -> np.ndarray:
    """[classes, D] unit rows of the classes of the data, from all templates: the data's own, or "a photo of a {}."."""
    classes = context.data.classes
    return vectors_of(template_rows(context, classes, classes.templates or PLAIN))
