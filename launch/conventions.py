"""The ways in which programs that start processes set environment variables that say which of how many each is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """One way to describe a process by environment variables; where several are named, the first that is set counts.

    Attributes:
        source: what starts processes so.
        rank, world, local_rank, local_world: which process of how many, in all and on this machine.
        hosts: the number of machines, and their names as Slurm writes them.
        job: variables that together name this job and no other.
        starts_through_others: whether it starts its processes through another of these ways, on its own.
    """

    source: str
    rank: str
    world: str
    local_rank: tuple[str, ...] = ()
    local_world: tuple[str, ...] = ()
    hosts: tuple[str, str] = ("", "")
    job: tuple[str, ...] = ()
    starts_through_others: bool = False


EXPLICIT = Convention("RANK and WORLD_SIZE", "RANK", "WORLD_SIZE", ("LOCAL_RANK",))
SLURM = Convention(
    "srun",
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    ("SLURM_LOCALID",),
    hosts=("SLURM_STEP_NUM_NODES", "SLURM_STEP_NODELIST"),
    job=("SLURM_JOB_ID", "SLURM_STEP_ID"),
)
CONVENTIONS = (
    EXPLICIT,
    *(
        Convention(
            "mpirun",
            f"{prefix}_COMM_WORLD_RANK",
            f"{prefix}_COMM_WORLD_SIZE",
            (f"{prefix}_COMM_WORLD_LOCAL_RANK",),
            (f"{prefix}_COMM_WORLD_LOCAL_SIZE",),
            job=job,
            starts_through_others=True,
        )
        # Open MPI, MVAPICH 2, MVAPICH 3
        for prefix, job in (("OMPI", ("PMIX_NAMESPACE",)), ("MV2", ()), ("MVP", ()))
    ),
    # MPICH, Intel MPI, Cray; 'srun --mpi=pmi2' too
    Convention(
        "mpiexec",
        "PMI_RANK",
        "PMI_SIZE",
        ("MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
        ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
        job=("PMI_JOBID",),
        starts_through_others=True,
    ),
    SLURM,
)

# Launchers that set RANK and WORLD_SIZE: a variable that only they set, and how many of them there are in the job.
LAUNCHERS = {"torchrun": ("TORCHELASTIC_RUN_ID", "GROUP_WORLD_SIZE"), "DeepSpeed": ("CROSS_RANK", "CROSS_SIZE")}


def first_number(names: Iterable[str], environment: Mapping[str, str]) -> int | None:
    """The number in the first of these variables that is set and not empty."""
    for name in names:
        if text := environment.get(name, "").strip():
            if not text.isdecimal():
                raise ValueError(f"{name}={text} is no number of a process. Correct it, or unset it.")
            return int(text)
    return None
