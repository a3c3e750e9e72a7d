"""The group of processes that the environment variables of this process describe.

A program that starts the processes of a job (torchrun, DeepSpeed, srun, mpirun) sets environment variables that say
which of how many each one is. Each way is one row of :data:`launch.conventions.CONVENTIONS`, innermost first: where
srun has started torchrun, both have set their variables, and the inner one has started this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace

from launch.conventions import CONVENTIONS, EXPLICIT, LAUNCHERS, SLURM, Convention, first_number
from launch.meeting_point import meeting_point, parents

FIRST_RESERVED_STEP = 0xFFFFFFF0  # Slurm numbers a job's batch script and its interactive shell above this
SHELL = "SLURM_PTY_PORT"  # set by 'srun --pty', which connects a terminal to its first task only


@dataclass(frozen=True)
class Description:
    """The place of this process in a group, and where the group meets.

    Attributes:
        rank: 0 to world − 1.
        world: number of processes.
        local_rank: its number among those of this machine; None if nothing says so.
        address, port: where process 0 listens; "" and 0 for a group of one, which meets nowhere.
        source: what has started the processes, for messages.
    """

    rank: int
    world: int
    local_rank: int | None
    address: str
    port: int
    source: str

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(
                f"{self.source} says that this is process {self.rank} of {self.world}, which cannot be. "
                "Correct the environment variables, or start distill without them."
            )


@dataclass(frozen=True)
class Place:
    """What one convention says; None where it says nothing."""

    convention: Convention
    source: str
    rank: int | None
    world: int | None

    @property
    def complete(self) -> bool:
        return self.rank is not None and self.world is not None

    def agrees(self, other: Place) -> bool:
        """Whether no number differs, as far as both say one."""
        pairs = ((self.rank, other.rank), (self.world, other.world))
        return all(None in pair or pair[0] == pair[1] for pair in pairs)

    def __str__(self) -> str:
        return f"{self.source} says process {self.rank} of {self.world}"


def described(
    environment: Mapping[str, str], parents: Callable[[], Iterable[tuple[int, str]]] = parents
) -> Description | None:
    """What an environment says about the group of its process; None if it describes none.

    A Slurm batch script, or a shell in an allocation, is not started by srun, and thus alone.

    Raises:
        ValueError: if something is missing, is no number, or contradicts something else.
    """
    places = [_place(convention, environment) for convention in CONVENTIONS]
    found = [place for place in places if place.complete]
    for place in places:
        _check_partial(place, found)
    if not found:
        _check_rest(environment)
        return None
    inner = found[0]
    for outer in found[1:]:
        _check_nesting(inner, outer, environment)
    rank, world = inner.rank or 0, inner.world or 0
    if world > 1 and inner.convention is SLURM and SHELL in environment:
        raise ValueError(
            f"srun --pty gives a terminal to the first of its {world} tasks only, and distill waits for all of them. "
            "Start the shell with srun -n 1 --pty, or distill without --pty."
        )
    local_rank = first_number(inner.convention.local_rank, environment)
    description = Description(rank, world, local_rank, "", 0, inner.source)
    if world == 1:
        return description
    same = [place.convention for place in found if place.agrees(inner)]
    address, port = meeting_point(same, world, environment, parents)
    return replace(description, address=address, port=port)


def forget(environment: MutableMapping[str, str]) -> None:
    """Remove what describes a group, for work that one process does alone."""
    for convention in CONVENTIONS:
        for name in (convention.rank, convention.world, *convention.local_rank):
            environment.pop(name, None)
    environment.pop("PMIX_RANK", None)


def _place(convention: Convention, environment: Mapping[str, str]) -> Place:
    if convention is SLURM and not _is_step(environment):
        return Place(convention, convention.source, None, None)
    source = convention.source
    if convention is EXPLICIT:
        source = next((name for name, (mark, _) in LAUNCHERS.items() if mark in environment), source)
    rank, world = (first_number((name,), environment) for name in (convention.rank, convention.world))
    return Place(convention, source, rank, world)


def _is_step(environment: Mapping[str, str]) -> bool:
    """Whether srun has started this process, or one that it is a child of; not sbatch or salloc."""
    step = environment.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < FIRST_RESERVED_STEP


def _check_partial(place: Place, found: list[Place]) -> None:
    """Raise ValueError if a convention says only half of it, and no other one says the rest."""
    if place.complete or place.rank is place.world is None or any(place.agrees(other) for other in found):
        return
    if found:
        raise ValueError(
            f"{place.convention.rank if place.world is None else place.convention.world}="
            f"{place.rank if place.world is None else place.world} contradicts the rest: {found[0]}. Unset it."
        )
    if place.rank is None and place.world == 1:
        return
    names = place.convention.rank, place.convention.world
    given, missing = names if place.world is None else names[::-1]
    raise ValueError(
        f"{given} is set and {missing} is not, so it is unclear which of how many processes this is. "
        f"Set both (torchrun does), or unset {given}."
    )


def _check_rest(environment: Mapping[str, str]) -> None:
    """Raise ValueError if this process is one of several, and nothing says of how many."""
    for name, harmless in (("PMIX_RANK", ()), ("LOCAL_RANK", ("", "0"))):
        if environment.get(name, "") not in ("", *harmless):
            raise ValueError(
                f"{name} is set, and nothing says how many processes there are. "
                f"Set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT (torchrun does), or unset {name}."
            )


def _check_nesting(inner: Place, outer: Place, environment: Mapping[str, str]) -> None:
    """Raise ValueError if two starters have each set their variables, and one cannot have started the other."""
    if outer.world == 1 or inner.agrees(outer) or inner.convention.starts_through_others or SHELL in environment:
        return
    # Under 'srun -N 2 torchrun --nproc-per-node 4' srun has started two torchruns, and they eight processes.
    if inner.source in LAUNCHERS:
        launchers = first_number((LAUNCHERS[inner.source][1],), environment)
        if launchers in (None, outer.world):
            return
        raise ValueError(
            f"{outer.source} has started {outer.world} times {inner.source}, which knows of {launchers}: every one "
            f"would train by itself. Start one {inner.source} per machine, with the number of machines, or only one."
        )
    raise ValueError(f"{inner}, but {outer}. Let only one of them describe the processes: unset RANK and WORLD_SIZE.")
