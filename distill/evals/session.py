"""Everything that several evaluations of one model share: the model, its teacher, the data, the embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distill.errors import Bad, UserError
from distill.evals.data_options import DataOptions
from distill.evals.dataset import Dataset
from distill.evals.evaluation import Context, Unsuitable
from distill.evals.layout import Reading, open_data, open_train
from distill.evals.store import Store
from distill.evals.subject import OpenOptions, Subject, open_subject

MANY = 100_000  # samples that a model was trained on, up to which classifiers learn from them unless others are named


class Session:
    """Opens what evaluations of one model ask for, each once.

    Args:
        subject: what is evaluated.
        store: keeps embeddings.
        device: of the teacher.
        skip_bad: leave out samples that cannot be used, instead of raising.

    Attributes:
        bad: the records of the samples that were left out.
    """

    def __init__(self, subject: Subject, store: Store, device: str | None = None, skip_bad: bool = False) -> None:
        self.subject, self.store, self.device, self.skip_bad = subject, store, device, skip_bad
        self.bad: list[Bad] = []
        self._data: dict[tuple[str, str], Dataset | None] = {}
        self._teachers: dict[str, Subject] = {}

    def context(self, options: DataOptions) -> Context:
        """What an evaluation with these options is given.

        Raises:
            UserError: if there are no data, or they cannot be read.
        """
        chosen = DataOptions(**{name: getattr(options, name) for name in DataOptions.model_fields})
        if not chosen.data:
            chosen = chosen.model_copy(update={"data": self.subject.data})
        if not chosen.data:
            raise UserError("There is nothing to evaluate on.", "Name data with --data.")
        data = self._once("data", chosen, open_data)
        assert data is not None
        return Context(
            self.subject,
            data,
            self.store,
            lambda names: self.other_data(chosen, names),
            lambda: self.train_data(chosen),
            self.teacher,
        )

    def other_data(self, options: DataOptions, names: Sequence[str]) -> Dataset:
        """Data of other names, read with the same options."""
        found = self._once("data", options.model_copy(update={"data": tuple(names)}), open_data)
        assert found is not None
        return found

    def train_data(self, options: DataOptions) -> Dataset | None:
        """What classifiers learn from: as named, the train split of the data, or what the model was trained on."""
        found = self._once("train", options, open_train)
        if found is None and self.subject.train:
            found = self._once("train", options.model_copy(update={"train": self.subject.train}), open_train)
            if found is not None and len(found) > MANY:
                raise Unsuitable(
                    f"The model was trained on {len(found):,} samples, too many to learn from unless they are named.",
                    "Name fewer with --train, or the same ones.",
                )
        return found

    def teacher(self, name: str) -> Subject:
        """The teacher of a name; "" is the one that the model was distilled from.

        Raises:
            Unsuitable: if no name is given and the model does not name its teacher.
        """
        name = name or self.subject.teacher()
        if not name:
            raise Unsuitable("It needs a teacher, and this model names none.", "Name it: --set fidelity.teacher=CARD.")
        if name not in self._teachers:
            self._teachers[name] = open_subject(name, OpenOptions(self.device))
            self._teachers[name].workers = self.subject.workers
        return self._teachers[name]

    def _once(self, kind: str, options: DataOptions, read) -> Dataset | None:  # type: ignore[no-untyped-def]
        key = (kind, options.model_dump_json())
        if key not in self._data:
            captions = self.subject.captions
            if options.languages:
                captions = replace(captions, languages=options.languages)
            self._data[key] = read(options, Reading(captions, self.skip_bad, self.bad))
        return self._data[key]
