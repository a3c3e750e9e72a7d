"""Templates: texts with {} for the name of a class, whose embeddings are averaged (CLIP, arXiv 2103.00020, 3.1.4)."""

from __future__ import annotations

from pathlib import Path

from distill.errors import UserError

PLAIN = ("a photo of a {}.",)
NAMED = {"plain": PLAIN, "name": ("{}",)}


def find_templates(source: str) -> tuple[str, ...]:
    """The templates of a name or in a file, a template a line, with {} or {c} for the class; none for "".

    Raises:
        UserError: if there is no such file, or a line has no place for the class.
    """
    if source in ("", *NAMED):
        return NAMED.get(source, ())
    path = Path(source)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The templates {path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            f"Name a file with a text a line, or one of: {', '.join(NAMED)}.",
        ) from error
    found = tuple(line.replace("{c}", "{}") for line in lines if line)
    wrong = [line for line in found if "{}" not in line]
    if wrong or not found:
        what = f"the line '{wrong[0]}' of {path} has no place for the class" if wrong else f"{path} is empty"
        raise UserError(f"{what[0].upper()}{what[1:]}.", "Write a text with {} a line.")
    return found


def fill(template: str, name: str) -> str:
    """A template with the name of a class."""
    return template.replace("{}", name)
