"""Work that this process does alone, or together with others that torchrun, srun or mpirun started beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from distill.errors import UserError, as_user_errors
from launch.described_group import Description, described
from launch.launcher import Launcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launch.started_group import StartedGroup

T = TypeVar("T")
_groups: list[StartedGroup] = []  # the one that this process works in, while it does


class EndedElsewhere(UserError):
    """The work has failed in another process, or in this one, which has said why.

    Attributes:
        status: the exit status for this process.
    """

    def __init__(self, status: int) -> None:
        super().__init__("The work has ended with an error in one of its processes.", "See its message.")
        self.status = status


def together(work: Callable[[], T]) -> T:
    """Do work that :func:`launcher_for` asks for its launcher, in the group that the environment describes, if any.

    In the first process of the group ``work`` is called; the other processes run the scripts of its jobs, and come to
    the same result. Without a group, or within such work, ``work`` is simply called.

    Returns:
        The result of ``work``, in every process; it must be picklable.

    Raises:
        UserError: if the environment describes no whole group, or the group does not come together.
        EndedElsewhere: in the other processes, if the work fails.
    """
    if _groups:
        return work()
    with as_user_errors():
        description = described(os.environ)
    if description is None or description.world == 1:
        return work()
    with _met(description) as group:
        if description.rank == 0:
            return _lead(group, work)
        try:
            with as_user_errors():
                order = group.serve()
        except KeyboardInterrupt as error:
            raise EndedElsewhere(status_of(error)) from error  # the first process says so
        if order.status:
            raise EndedElsewhere(order.status)
        result: T = order.result
        return result


def launcher_for(launcher: Launcher | None) -> Launcher:
    """What starts the processes of a job: the launcher given, this process itself, or the group it is in.

    Raises:
        UserError: if this process is in a group, and ``launcher`` would start further processes.
    """
    from launch.launchers.local import Local

    if not _groups:
        return launcher or Local()
    (group,) = _groups
    if launcher is not None and not launcher.here:
        raise UserError(
            f"{group.description.source} has started {group.world} processes already, and each would start "
            f"{launcher.world}.",
            "Leave out --nproc, --hostfile and --launcher, or start distill once.",
        )
    return group


def in_group() -> bool:
    """Whether this process works in a group that another program has started; such a group survives no failed job."""
    return bool(_groups)


@contextmanager
def _met(description: Description) -> Iterator[StartedGroup]:
    from launch.started_group import meet

    with as_user_errors():
        group = meet(description)
    _groups.append(group)
    try:
        yield group
    finally:
        _groups.remove(group)


def _lead(group: StartedGroup, work: Callable[[], T]) -> T:
    try:
        result = work()
    except BaseException as error:
        group.end(None, status_of(error))
        raise
    group.end(result, 0)
    return result


def status_of(error: BaseException) -> int:
    """The exit status with which the ``distill`` command ends after an error; never 0."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) and error.code else 1
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, UserError | OSError) else int(getattr(error, "exit_code", 1)) or 1
