"""A listing of everything that a recipe or an option can name, made from what is installed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import losses
from distill import plugins
from distill.errors import UserError, as_user_errors
from distill.evals.layout import LAYOUTS
from distill.evals.plan import tasks
from distill.evals.subject import SUBJECTS
from distill.lookup import EVALUATIONS, OPTIMIZERS, load_optimizer
from distill.reporting.write import FORMATS as REPORT_FORMATS
from distill.reporting.write import formats as report_formats
from distill.ship.export import FORMATS, formats
from distill.training.observing import OBSERVERS
from launch import launchers
from students import text_tower_class, texts


def installed_parts() -> dict[str, dict[str, str]]:
    """By the key or option that names them, the names with the first sentence of what each is."""
    with as_user_errors():
        return {
            "objective.name": summaries(losses.names(), losses.objective_class),
            "student.text.arch": summaries(texts.found(), text_tower_class),
            "optim.name": summaries(plugins.found(*OPTIMIZERS), load_optimizer),
            "--launcher": summaries(launchers.names(), launchers.find),
            "--format": summaries(formats(), lambda name: plugins.load("export format", name, *FORMATS)),
            "report --format": summaries(
                report_formats(), lambda name: plugins.load("report format", name, *REPORT_FORMATS)
            ),
            "--task": summaries(tasks(), lambda name: plugins.load("evaluation", name, *EVALUATIONS)),
            "what distill evaluate measures": summaries(
                plugins.found(*SUBJECTS), lambda name: plugins.load("subject", name, *SUBJECTS)
            ),
            "--data": summaries(plugins.found(*LAYOUTS), lambda name: plugins.load("layout", name, *LAYOUTS)),
            "log.to, [[evaluate]]": summaries(
                plugins.found(*OBSERVERS), lambda name: plugins.load("observer", name, *OBSERVERS)
            ),
        }


def summaries(names: Iterable[str], load: Callable[[str], Any]) -> dict[str, str]:
    """The first paragraph of the docstring of each; of what cannot be loaded, why."""
    found: dict[str, str] = {}
    for name in sorted(names):
        try:
            with as_user_errors():
                found[name] = " ".join((inspect.getdoc(load(name)) or "").split("\n\n")[0].split())
        except UserError as error:
            found[name] = str(error)
    return found
