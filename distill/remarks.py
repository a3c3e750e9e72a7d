"""Remarks on settings of a recipe that are valid but have no effect, or not the one that one might expect."""

from __future__ import annotations

from distill.resolved import ResolvedRecipe


def remarks(resolved: ResolvedRecipe) -> list[str]:
    """Sentences on settings that have no effect in this recipe."""
    return [sentence for one in (unused_augmentation, unused_vocabulary) for sentence in one(resolved)]


def unused_augmentation(resolved: ResolvedRecipe) -> list[str]:
    """``data.crop`` and ``data.flip`` with caches of a single view, which is the plain image."""
    data = resolved.recipe.data
    is_set = [key for key, plain in (("crop", (1.0, 1.0)), ("flip", False)) if getattr(data, key) != plain]
    cached = [teacher for teacher in resolved.cached if teacher.card.modality == "image"]
    if not is_set or not cached or any(teacher.table.views > 1 for teacher in cached):
        return []
    keys = " and ".join(f"data.{key}" for key in is_set)
    return [
        f"{keys} {'has' if len(is_set) == 1 else 'have'} no effect: the teacher's cache holds one view of each image, "
        f"the plain one, and the student sees the same. Set teacher.{cached[0].number}.views = 4, for example, or "
        f'teacher.{cached[0].number}.cache = "none".'
    ]


def unused_vocabulary(resolved: ResolvedRecipe) -> list[str]:
    """A size of vocabulary beside a tokenizer that is not trained."""
    table, text = resolved.recipe.student.tokenizer, resolved.recipe.student.text
    if resolved.text is None or "vocab" not in table.model_fields_set:
        return []
    given = "student.tokenizer.file" if table.file else "student.text.init" if text.init else ""
    if resolved.text.TAKEN:
        given = f"the text student '{text.arch}'"
    if not given:
        return []
    return [f"student.tokenizer.vocab has no effect: the tokenizer of {given} has a vocabulary of its own."]
