"""Writes the generated pages of ``.github/docs/``: recipe keys, parts and teacher cards.

``python tests/write_reference_pages.py`` writes them; ``tests/test_documentation.py`` fails if they are out of date.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import losses
import teachers
from distill import plugins
from distill.evals.layout import LAYOUTS
from distill.evals.plan import tasks
from distill.evals.subject import SUBJECTS
from distill.lookup import EVALUATIONS, OPTIMIZERS, load_optimizer
from distill.recipe import packaged, purpose
from distill.recipe_reference import Key, keys_of, one_line, plain, reference
from distill.reporting.write import FORMATS as REPORT_FORMATS
from distill.reporting.write import formats as report_formats
from distill.ship.export import FORMATS, formats
from distill.training.observing import OBSERVERS
from launch import launchers
from students import text_tower_class, texts

DOCS = Path(__file__).parent.parent / ".github" / "docs"
GENERATED = "<!-- Written by tests/write_reference_pages.py: change the docstrings, not this page. -->\n"
OWN = ("distill.", "losses.", "students.", "launch.", "teachers.")  # modules that come with distill, not with plugins


def main() -> None:
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The text of each generated page, by its file's name."""
    return {"recipe-keys.md": recipe_keys(), "parts.md": parts(), "teacher-cards.md": teacher_cards()}


def recipe_keys() -> str:
    """Every key of a recipe, and the packaged recipes."""
    lines = [GENERATED, "# Keys of a recipe\n"]
    lines += ["`distill recipe show NAME` prints the same as TOML, with the values of that recipe.\n"]
    for table in reference("three_towers"):
        if table.path == "teacher.0":
            header = "`[[teacher]]`, one for each; a path such as `teacher.0.views` on the command line"
        else:
            header = f"`{table.header}`"
        own = [key for key in table.keys if key.name in type_keys(table.path)]
        lines += [f"## {header}\n", f"{table.meaning.split(' three_towers: ')[0]}\n", key_table(own)]
    lines += ["## Packaged recipes\n", markdown_table(("name", "for"), [(f"`{n}`", purpose(p)) for n, p in recipes()])]
    return "\n".join(lines)


def recipes() -> Iterable[tuple[str, Path]]:
    return packaged().items()


def type_keys(path: str) -> set[str]:
    """The names of the keys that a table has whatever it names: without the options of an objective and the like."""
    from distill.config import Recipe
    from distill.recipe_reference import LISTS
    from distill.tables import Table

    model: Any = Recipe
    for part in path.split("."):
        if part == "0":
            continue
        model = LISTS.get(part) or model.model_fields[part].annotation
    assert issubclass(model, Table) or model.model_fields
    return set(model.model_fields)


def parts() -> str:
    """Objectives, text towers, optimisers, launchers, formats and evaluations that come with distill."""
    lines = [GENERATED, "# Parts that a recipe or an option can name\n"]
    lines += ["`distill recipe parts` lists those of your installation, also the ones that other packages add.\n"]
    kinds: list[tuple[str, Iterable[str], Any]] = [
        ("Objectives: `objective.name`", losses.names(), losses.objective_class),
        ("Text towers: `student.text.arch`", texts.found(), text_tower_class),
        ("Optimisers: `optim.name`", plugins.found(*OPTIMIZERS), load_optimizer),
        ("Launchers: `--launcher`", launchers.names(), launchers.find),
        ("Export formats: `--format`", formats(), lambda name: plugins.load("export format", name, *FORMATS)),
        ("Report formats: `distill report --format`", report_formats(), load_report_format),
        ("Evaluations: `--task`", tasks(), lambda name: plugins.load("evaluation", name, *EVALUATIONS)),
        ("What `distill evaluate` measures", *found("subject", SUBJECTS)),
        ("Layouts of evaluation data: `--data`", *found("layout", LAYOUTS)),
        ("Observers of a training: `[[evaluate]]`, `log.to`", *found("observer", OBSERVERS)),
    ]
    for title, names, load in kinds:
        lines += [f"## {title}\n"]
        for name in sorted(names):
            part = load(name)
            if part.__module__.startswith(OWN):
                lines += [f"### `{name}`\n", plain((inspect.getdoc(part) or "").split("\n\n")[0]) + "\n"]
                options = getattr(part, "Options", part)
                if hasattr(options, "model_fields") and options.model_fields:
                    lines += [key_table(keys_of(options.model_construct(), False))]
    lines += ["## Image towers: `student.image.arch`\n"]
    lines += [
        "Any model of timm that gives features, by its name; the other keys are options of `timm.create_model`.\n"
    ]
    return "\n".join(lines)


def found(kind: str, where: tuple[str, str, str]) -> tuple[Iterable[str], Any]:
    """The names of one kind, and what loads one of them."""
    return plugins.found(*where), lambda name: plugins.load(kind, name, *where)


def load_report_format(name: str) -> Any:
    return plugins.load("report format", name, *REPORT_FORMATS)


def teacher_cards() -> str:
    """The cards that come with distill."""
    rows = [
        (
            f"`{card.name}`",
            str(card.width),
            f"{card.image_size} px" if card.modality == "image" else f"{card.context} tokens",
            f"{card.parameters / 1e6:.1f} M",
            card.checked,
            card.licence,
            f"{card.data} ({card.paper})" if card.paper else card.data,
        )
        for card in teachers.cards()
    ]
    names = ("name", "width", "input", "parameters", "checked", "licence", "data (paper)")
    intro = "What the words under *checked* mean stands on the page [teachers](teachers.md).\n"
    return "\n".join([GENERATED, "# Teacher cards\n", intro, markdown_table(names, rows)])


def key_table(keys: Iterable[Key]) -> str:
    """A table of keys with their defaults and meanings."""
    rows = []
    for key in keys:
        default = "must be set" if key.required else "" if key.default is None else f"`{one_line(key.default)}`"
        rows.append((f"`{key.name}`", default, key.meaning))
    return markdown_table(("key", "default", "meaning"), rows)


def markdown_table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table that ends with an empty line."""
    cells = [list(names), ["---"] * len(list(names)), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells) + "\n"


if __name__ == "__main__":
    sys.exit(main())
