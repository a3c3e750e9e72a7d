"""A Slurm cluster of one node, this machine: its daemons run in a folder of their own, on ports of loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Slurm checks that messages come from its users with munge, whose socket and key are in the folder too.
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:8
"""


@contextmanager
def running(folder: Path, programs: dict[str, str]) -> Iterator[dict[str, str]]:
    """Start the daemons, and end them afterwards.

    Args:
        folder: empty; its path is short enough for a socket.
        programs: the paths of munged, slurmctld, slurmd and sinfo.

    Returns:
        The environment variable with which srun and sbatch find the cluster.
    """
    host = socket.gethostname().split(".")[0]
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [listener.getsockname()[1] for listener in listeners]
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    user = "root" if os.getuid() == 0 else os.environ["USER"]
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(host=host, ports=ports, user=user, folder=folder))
    environment = {"SLURM_CONF": str(configuration)}
    munge = [f"--{name}={folder}/munge/{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    commands = (
        [programs["munged"], "--foreground", "--force", f"--key-file={key}", *munge],
        [programs["slurmctld"], "-D", "-i"],
        [programs["slurmd"], "-D", "-N", host],
    )
    daemons: list[subprocess.Popen[bytes]] = []
    with (folder / "log").open("wb") as log:
        try:
            for command in commands:
                daemons.append(subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log))
                if command is commands[0]:
                    wait_until((folder / "munge" / "socket").exists, folder)
            wait_until(lambda: is_idle(programs["sinfo"], environment), folder)
            yield environment
            # A job that still runs would outlive its daemons.
            wait_until(lambda: is_idle(programs["sinfo"], environment), folder)
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                daemon.wait()


def is_idle(sinfo: str, environment: dict[str, str]) -> bool:
    """Whether the node is ready for jobs."""
    command = [sinfo, "--noheader", "--format=%T"]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    return result.stdout.strip() == "idle"


def wait_until(done, folder: Path, seconds: float = 60) -> None:  # type: ignore[no-untyped-def]
    """Wait until ``done()``; fail with what the daemons wrote if that takes too long."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.1)
