"""Start a training: in this process, or in those of a launcher."""

from __future__ import annotations

from pathlib import Path

from distill.config import Recipe
from distill.errors import UserError, as_user_errors
from distill.lookup import resolve
from distill.rules import NEW_RUNS
from distill.training import checkpoint, prepare, train_worker
from distill.training.run import is_run, read_about, rules_of
from distill.training.setup import Networks
from distill.training.stop_requests import STOP, say_stopping
from distill.training.together import launcher_for
from launch import job as jobs
from launch.group import joined
from launch.launcher import Job, Launcher
from launch.process import keep_freed_memory, temporary_environment


@temporary_environment()
def start(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    launcher: Launcher | None = None,
    allow_pipe: bool = False,
    extend: bool = False,
) -> bool:
    """Prepare a run and train it to its end. Afterwards the environment variables are as before.

    Args:
        recipe: what to train.
        run: the run folder; on a file system all hosts share when there are several.
        resume: continue the run that is there.
        launcher: starts the processes that train; None trains in this process, or in the group it is in, see
            :func:`distill.training.together.together`.
        allow_pipe: whether the recipe may run the shell commands of its ``pipe:`` streams.
        extend: whether a run that is continued may get another length.

    Returns:
        Whether it has come to its end; if not, a signal has stopped it, and it can be resumed.

    Raises:
        KeyboardInterrupt: if it is interrupted before training begins, or a second time.
        UserError: for anything the user can put right, and when a process of a larger job has failed.
    """
    keep_freed_memory()
    run, goes_on = run.absolute(), resume and is_run(run)
    resolved = resolve(recipe, rules_of(run) if goes_on else NEW_RUNS)
    networks = Networks(resolved, initialize=not (goes_on and checkpoint.any_saved(run)))
    job = Job(Path(train_worker.__file__).resolve(), (str(run),), run, launcher_for(launcher))
    with as_user_errors():
        jobs.check(job)
    try:
        prepare.prepare(networks.resolved, networks, run, resume, job, allow_pipe, extend)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Interrupted before training began. The same command begins again; complete teacher caches are kept."
        ) from None
    if job.here:
        return train_here(run, networks)
    del networks  # its memory is for the processes that train

    def request_stop() -> None:
        """Ask all training processes to stop, on other hosts too: the signal is sent to this process only."""
        (run / STOP).touch()
        say_stopping()

    with jobs.on_termination(request_stop):
        status = jobs.run(job)
    if status:
        raise UserError(
            f"The training stopped: a process ended with status {status}; its own message stands above.",
            f"Put that right and continue with --resume --out {run}.",
        )
    (run / STOP).unlink(missing_ok=True)
    return checkpoint.is_complete(run, read_about(run)["steps"])


def train_here(run: Path, networks: Networks) -> bool:
    """Train a prepared run in this process; afterwards there is no process group, and the environment is as before."""
    from distill.training.loop import train

    with joined():
        return train(run, networks)
