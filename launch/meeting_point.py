"""Where the processes of a group meet: what all of them find in their environments, or derive from it alike."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from launch.conventions import Convention, first_number

PORTS = range(15000, 25000)  # below those that Linux gives to outgoing connections
STARTERS = ("hydra", "mpiexec", "mpirun", "mpispawn", "prte", "orted")  # programs that start the processes of MPI


def parents() -> Iterable[tuple[int, str]]:
    """The process that started this one, the one that started that, and so on: number and name. Linux only."""
    pid = os.getppid()
    while pid > 1:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        yield pid, stat[stat.index("(") + 1 : stat.rindex(")")]
        pid = int(stat[stat.rindex(")") + 1 :].split()[1])


def first_host(hosts: str) -> str:
    """The first of a list of hosts as Slurm writes it, such as ``gpu[03-05,9]-ib,cpu1``."""
    first = re.split(r",(?![^\[]*\])", hosts)[0]
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first)


def meeting_point(
    conventions: list[Convention],
    world: int,
    environment: Mapping[str, str],
    parents: Callable[[], Iterable[tuple[int, str]]],
) -> tuple[str, int]:
    """Where the group meets: MASTER_ADDR and MASTER_PORT, or what all of its processes derive alike."""
    address, port = environment.get("MASTER_ADDR", ""), first_number(("MASTER_PORT",), environment)
    for convention in conventions:
        address = address or _address(convention, world, environment)
        port = _port(convention, environment, parents) if port is None else port
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"MASTER_PORT={port} is no port. Set it to a number from 1024 to 65535.")
    if not address or not port:
        missing = " and ".join(n for n, v in (("MASTER_ADDR", address), ("MASTER_PORT", port)) if not v)
        raise ValueError(
            f"This is one of {world} processes, and nothing says where they meet. "
            f"Set {missing}, for all of them alike, to the address and a free port of the machine of process 0."
        )
    return address, port


def _address(convention: Convention, world: int, environment: Mapping[str, str]) -> str:
    """The address of process 0; "" if it is not known."""
    number, names = (environment.get(name, "") for name in convention.hosts)
    one_host = number == "1" or first_number(convention.local_world, environment) == world
    return "127.0.0.1" if one_host else first_host(names)


def _port(
    convention: Convention, environment: Mapping[str, str], parents: Callable[[], Iterable[tuple[int, str]]]
) -> int | None:
    """A port that follows from the name of the job; None if the job has none."""
    names = [environment[name] for name in convention.job if environment.get(name)]
    if not names and convention.starts_through_others:
        # Nothing in the environment is common to its processes: only the program that has started them all is.
        names = [str(pid) for pid, name in parents() if name.startswith(STARTERS)][:1]
    return PORTS[zlib.crc32(".".join(names).encode()) % len(PORTS)] if names else None
