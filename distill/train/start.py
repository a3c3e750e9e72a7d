"""Start a training: in this process, in several on this machine, or on several machines."""

from __future__ import annotations

from pathlib import Path

from distill.config import Recipe
from distill.errors import UserError, as_user_errors
from distill.lookup import resolve
from distill.train import checkpoint, prepare, train_worker
from distill.train.run import read_about
from distill.train.setup import Networks
from distill.train.stop_requests import STOP


def start(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    nproc: int = 1,
    hostfile: Path | None = None,
    master_addr: str = "",
    allow_pipe: bool = False,
) -> bool:
    """Prepare a run and train it to its end.

    Args:
        recipe: what to train.
        run: the run folder; on a file system all hosts share when there are several.
        resume: continue the run that is there.
        nproc: processes on this machine.
        hostfile: DeepSpeed's host file; then its slots count, and ``nproc`` does not.
        master_addr: see :class:`launch.command.Job`.
        allow_pipe: whether the recipe may run the shell commands of its ``pipe:`` streams.

    Returns:
        Whether it has come to its end; if not, SIGTERM has stopped it, and it can be resumed.

    Raises:
        UserError: for anything the user can put right, and when a process of a larger job has failed.
    """
    from launch import command

    run, networks = run.absolute(), Networks(resolve(recipe))
    job = command.Job(Path(train_worker.__file__).resolve(), (str(run),), run, nproc, hostfile, master_addr)
    with as_user_errors():
        command.check(job)
    prepare.prepare(networks.resolved, networks, run, resume, job, allow_pipe)
    if job.here:
        from distill.train.loop import train

        return train(run, networks)
    del networks  # its memory is for the processes that train
    # SIGTERM reaches this process alone: the others, also on other hosts, read it from a file.
    with command.on_termination((run / STOP).touch):
        status = command.run(job)
    if status:
        raise UserError(
            f"The training stopped: a process ended with status {status}; its own message stands above.",
            f"Put that right and continue with --resume --out {run}.",
        )
    (run / STOP).unlink(missing_ok=True)
    return checkpoint.is_complete(run, read_about(run)["steps"])
