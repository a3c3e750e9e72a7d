"""A logger of another package: the loss of every step as a line of loss.csv in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.training.logger import Logger


class CsvLog(Logger):
    """Writes loss.csv."""

    name = "csv"
    package = "distill_extra"

    def start(self, options: dict[str, Any]) -> None:
        self.file = (self.training.run / "loss.csv").open("a", encoding="utf-8")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self.file.write(f"{step},{numbers['loss']}\n")

    def close(self) -> None:
        if self.training.group.first:
            self.file.close()
