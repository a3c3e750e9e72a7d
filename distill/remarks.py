"""Remarks on settings of a recipe that are valid but have no effect, or not the one that one might expect."""

from __future__ import annotations

from distill.augment_table import NO_AUGMENT
from distill.resolved import ResolvedRecipe


def remarks(resolved: ResolvedRecipe) -> list[str]:
    """Sentences on settings that have no effect in this recipe."""
    kinds = (unused_augmentation, unused_student_augmentation, unused_vocabulary)
    return [sentence for kind in kinds for sentence in kind(resolved)]


def unused_augmentation(resolved: ResolvedRecipe) -> list[str]:
    """``data.crop``, ``data.flip`` and ``data.augment`` with caches of a single view, which is the plain image."""
    data = resolved.recipe.data
    without = (("crop", (1.0, 1.0)), ("flip", False), ("augment", NO_AUGMENT))
    is_set = [key for key, plain in without if getattr(data, key) != plain]
    cached = [teacher for teacher in resolved.cached if teacher.card.modality == "image"]
    if not is_set or not cached or any(teacher.table.views > 1 for teacher in cached):
        return []
    keys = ", ".join(f"data.{key}" for key in is_set[:-1]) + " and " * (len(is_set) > 1) + f"data.{is_set[-1]}"
    return [
        f"{keys} {'has' if len(is_set) == 1 else 'have'} no effect: the teacher's cache holds one view of each image, "
        f"the plain one, and the student sees the same. Set teacher.{cached[0].number}.views = 4, for example, or "
        f'teacher.{cached[0].number}.cache = "none".'
    ]


def unused_student_augmentation(resolved: ResolvedRecipe) -> list[str]:
    """``data.student_augment`` where no student reads images: the image tower is the locked teacher."""
    recipe = resolved.recipe
    if recipe.data.student_augment == NO_AUGMENT or not recipe.on_teacher or recipe.student.image.beside is not None:
        return []
    return [
        "data.student_augment has no effect: the image tower is the locked teacher, and no student reads images. "
        "Set data.augment, which changes what the teacher reads."
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
