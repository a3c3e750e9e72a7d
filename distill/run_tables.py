"""The recipe's ``[zero]``, ``[checkpoint]``, ``[[evaluate]]`` and ``[log]``: how a run is saved, measured, logged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distill.tables import Open, Table


class Zero(Table):
    """DeepSpeed's ZeRO: what is divided among the processes instead of replicated.

    Attributes:
        stage: 0 replicates everything on each process; 1 divides the optimiser's state among the processes, 2 also the
            gradients, 3 also the weights.
    """

    stage: Literal[0, 1, 2, 3] = 0


class Checkpoint(Table):
    """When the state of a run is saved, besides at its end, and how many checkpoints are kept.

    Attributes:
        every_steps: number of steps from one checkpoint to the next, at least 1.
        every_minutes: number of minutes after which a checkpoint is also written; 0: only every so many steps.
        keep: how many of the newest checkpoints are kept, at least 1.
    """

    every_steps: int = Field(default=1000, gt=0)
    every_minutes: float = Field(default=0.0, ge=0)
    keep: int = Field(default=2, gt=0)


class EvaluateTable(Open):
    """What is measured while training; there is one [[evaluate]] for each. The other keys are the task's own options.

    Attributes:
        task: the name of a task, see ``distill evaluate --help``. Without an option ``data`` it is made on data.eval.
        every: number of steps from one evaluation to the next, besides one at the end; 0: only at the end.
        best: a metric of the task, such as "mean_r10": the checkpoint with its best value is kept in ``best/``, too.
            At most one table may set it.
    """

    task: str
    every: int = Field(default=0, ge=0)
    best: str = ""


class LogTable(Open):
    """Where the numbers of a training are written, besides metrics.jsonl and TensorBoard.

    Attributes:
        to: the names of loggers, "wandb" or "mlflow", whose packages have to be installed. Their options are tables:
            ``log.wandb.project = "emoji"``.
    """

    to: tuple[str, ...] = ()
