"""What environment variables say about a group of processes, and which devices they make visible."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PROCESSES
from deepspeed.accelerator import cuda_accelerator

from launch.described_group import Description, described, forget
from launch.group import free_port
from launch.launcher import Job
from launch.launchers.hostfile import check_devices
from launch.launchers.local import Local
from launch.meeting_point import first_host
from launch.visible_devices import check_seen, devices_for, let_deepspeed_ask_torch

MASTER = {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
# As torchrun, DeepSpeed, Open MPI 4.1.4, MPICH 4.0.2 and Slurm 22.05 set them in process 1 of 2 on one machine.
PLAIN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
TORCHRUN = PLAIN | MASTER | {"TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "2"}
DEEPSPEED = PLAIN | MASTER | {"CROSS_RANK": "0", "CROSS_SIZE": "1", "LOCAL_SIZE": "2"}
OPEN_MPI = {
    **{"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    **{"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_RANK": "1", "PMIX_NAMESPACE": "422969345"},
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_FD": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
MVAPICH = {f"MV2_COMM_WORLD_{name}": value for name, value in zip(("RANK", "SIZE", "LOCAL_RANK"), "120", strict=True)}
BATCH = {
    **{"SLURM_JOB_ID": "3", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_NPROCS": "2"},
    **{"SLURM_JOB_NODELIST": "vm", "SLURM_NNODES": "1"},
}
SRUN = BATCH | {
    **{"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"},
    **{"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "vm"},
}
TWO_HOSTS = SRUN | {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "gpu[07-08,12]", "SLURM_LOCALID": "0"}


def no_parents() -> list[tuple[int, str]]:
    return []


def hydra() -> list[tuple[int, str]]:
    return [(40, "bash"), (30, "hydra_pmi_proxy"), (20, "mpiexec.hydra"), (10, "bash")]


@pytest.mark.parametrize(
    ("environment", "rank", "world", "local_rank", "address", "source"),
    [
        (TORCHRUN, 1, 2, 1, "10.0.0.7", "torchrun"),
        (DEEPSPEED, 1, 2, 1, "10.0.0.7", "DeepSpeed"),
        (PLAIN | MASTER, 1, 2, 1, "10.0.0.7", "RANK and WORLD_SIZE"),
        ({"RANK": "1", "WORLD_SIZE": "2"} | MASTER, 1, 2, None, "10.0.0.7", "RANK and WORLD_SIZE"),
        (OPEN_MPI, 1, 2, 1, "127.0.0.1", "mpirun"),
        (OPEN_MPI | MASTER, 1, 2, 1, "10.0.0.7", "mpirun"),
        (MPICH, 1, 2, 1, "127.0.0.1", "mpiexec"),
        (MVAPICH | MASTER, 1, 2, 0, "10.0.0.7", "mpirun"),
        (SRUN, 1, 2, 1, "127.0.0.1", "srun"),
        (TWO_HOSTS, 1, 2, 0, "gpu07", "srun"),
        (TWO_HOSTS | MASTER, 1, 2, 0, "10.0.0.7", "srun"),
        # Slurm knows the first machine, pmi2 does not.
        (TWO_HOSTS | {"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_JOBID": "3.0"}, 1, 2, None, "gpu07", "mpiexec"),
        # A part of it said twice, alike; and an empty variable, which says nothing.
        (SRUN | {"WORLD_SIZE": "2"}, 1, 2, 1, "127.0.0.1", "srun"),
        (SRUN | {"RANK": "1", "WORLD_SIZE": ""}, 1, 2, 1, "127.0.0.1", "srun"),
        (SRUN | {"PMIX_RANK": "1"}, 1, 2, 1, "127.0.0.1", "srun"),
        # One starts another: srun one task, in which torchrun starts two; two tasks, one torchrun each; mpirun.
        (TORCHRUN | SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, 1, 2, 1, "10.0.0.7", "torchrun"),
        (
            TWO_HOSTS | TORCHRUN | {"RANK": "5", "WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2"},
            *(5, 8, 1, "10.0.0.7", "torchrun"),
        ),
        (OPEN_MPI | SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "3"}, 1, 2, 1, "127.0.0.1", "mpirun"),
        # A terminal of srun's, where torchrun was typed.
        (TORCHRUN | SRUN | {"SLURM_PROCID": "0", "SLURM_PTY_PORT": "4"}, 1, 2, 1, "10.0.0.7", "torchrun"),
        # Groups of one need no meeting point.
        ({"RANK": "0", "WORLD_SIZE": "1"}, 0, 1, None, "", "RANK and WORLD_SIZE"),
        (SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PTY_PORT": "4"}, 0, 1, 1, "", "srun"),
    ],
)
def test_the_group_is_the_one_that_is_described(
    environment: dict[str, str], rank: int, world: int, local_rank: int | None, address: str, source: str
) -> None:
    found = described(environment, hydra)
    assert found is not None
    assert (found.rank, found.world, found.local_rank) == (rank, world, local_rank)
    assert (found.address, found.source) == (address, source)
    assert found.port == (29500 if "MASTER_PORT" in environment and world > 1 else found.port)
    assert (15000 <= found.port < 30000) is (world > 1)
    alone = dict(environment)
    forget(alone)
    assert described(alone) is None


def test_all_processes_of_a_job_derive_the_same_port_and_those_of_another_job_another_one() -> None:
    def port(environment: dict[str, str], parents: Any = no_parents) -> int:
        found = described(environment, parents)
        assert found is not None
        return found.port

    first = SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    assert port(first) == port(SRUN) != port(SRUN | {"SLURM_STEP_ID": "1"}) != port(SRUN | {"SLURM_JOB_ID": "4"})
    first = OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0"}
    assert port(first) == port(OPEN_MPI) != port(OPEN_MPI | {"PMIX_NAMESPACE": "422969346"})
    # MPICH's processes have only the program in common that started them, whatever wraps each.
    assert port(MPICH, hydra) == port(MPICH | {"PMI_RANK": "0"}, lambda: hydra()[1:])
    assert port(MPICH, hydra) != port(MPICH, lambda: [(31, "hydra_pmi_proxy")])


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"LOCAL_RANK": "0"},
        {"RANK": "", "WORLD_SIZE": ""},
        MASTER,
        # A batch script and a shell of salloc have no step, or one of a reserved number.
        BATCH,
        BATCH | {"SLURM_STEP_ID": "4294967291", "SLURM_STEP_NUM_TASKS": "2"},
        BATCH | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},
        BATCH | {"SLURM_STEP_ID": "batch", "SLURM_STEP_NUM_TASKS": "2"},
        {name: value for name, value in BATCH.items() if name not in ("SLURM_PROCID", "SLURM_LOCALID")},
    ],
)
def test_a_process_is_alone_where_nothing_has_started_others(environment: dict[str, str]) -> None:
    assert described(environment, no_parents) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "RANK is set and WORLD_SIZE is not"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set and RANK is not"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK is set, and nothing says how many"),
        ({"PMIX_RANK": "0"}, "PMIX_RANK is set, and nothing says how many"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_RANK is set and OMPI_COMM_WORLD_SIZE is not"),
        (PLAIN, "nothing says where they meet. Set MASTER_ADDR and MASTER_PORT"),
        (PLAIN | {"MASTER_ADDR": "a"}, "Set MASTER_PORT, "),
        (PLAIN | {"MASTER_PORT": "29500"}, "Set MASTER_ADDR, "),
        (PLAIN | MASTER | {"MASTER_PORT": "99999"}, "MASTER_PORT=99999 is no port"),
        (PLAIN | MASTER | {"MASTER_PORT": "0"}, "MASTER_PORT=0 is no port"),
        (PLAIN | MASTER | {"MASTER_PORT": "http"}, "MASTER_PORT=http is no number"),
        (PLAIN | MASTER | {"RANK": "2"}, "process 2 of 2, which cannot be"),
        (PLAIN | MASTER | {"RANK": "-1"}, "RANK=-1 is no number"),
        (PLAIN | MASTER | {"WORLD_SIZE": "0"}, "process 1 of 0, which cannot be"),
        (PLAIN | MASTER | {"WORLD_SIZE": "two"}, "WORLD_SIZE=two is no number"),
        (PLAIN | MASTER | {"LOCAL_RANK": "x"}, "LOCAL_RANK=x is no number"),
        # Open MPI on two machines, MPICH under a program of unknown name, MVAPICH of unknown machines.
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "Set MASTER_ADDR, "),
        (MPICH, "Set MASTER_PORT, "),
        (MVAPICH, "Set MASTER_ADDR and MASTER_PORT, "),
        # Two that cannot both be right.
        (SRUN | PLAIN | MASTER | {"RANK": "0"}, "says process 0 of 2, but srun says process 1 of 2"),
        (SRUN | {"RANK": "0", "WORLD_SIZE": "1"}, "says process 0 of 1, but srun says process 1 of 2"),
        (SRUN | {"WORLD_SIZE": "4"}, "WORLD_SIZE=4 contradicts the rest: srun says process 1 of 2"),
        (SRUN | {"RANK": "0"}, "RANK=0 contradicts the rest: srun says process 1 of 2"),
        (SRUN | TORCHRUN, "srun has started 2 times torchrun, which knows of 1"),
        (SRUN | DEEPSPEED, "srun has started 2 times DeepSpeed, which knows of 1"),
        (SRUN | {"SLURM_PTY_PORT": "4"}, "srun --pty gives a terminal to the first of its 2 tasks only"),
    ],
)
def test_what_is_incomplete_or_contradictory_is_refused(environment: dict[str, str], message: str) -> None:
    if environment == SRUN | TORCHRUN or environment == SRUN | DEEPSPEED:
        environment = environment | {"RANK": "0"}  # else both say process 1 of 2, which is consistent
    with pytest.raises(ValueError, match=message) as error:
        described(environment, no_parents)
    assert str(error.value).count(". ") == 1 and str(error.value).endswith(".")  # what is wrong, and what to do


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("vm", "vm"),
        ("a,b", "a"),
        ("gpu[03-05,9]", "gpu03"),
        ("gpu[9,03-05],cpu1", "gpu9"),
        ("r[1-2]n[01-16]-ib,x", "r1n01-ib"),
        ("login-1.site,gpu[1-2]", "login-1.site"),
    ],
)
def test_the_first_of_slurms_hosts(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_a_description_checks_itself() -> None:
    with pytest.raises(ValueError, match="process 3 of 2, which cannot be"):
        Description(3, 2, None, "a", 1024, "srun")


UUIDS = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,GPU-5a0c11d2,GPU-77"
MIG = "MIG-GPU-8932f937/1/0,MIG-ab12cd34-0000"


@pytest.mark.parametrize(
    ("value", "devices"),
    [
        (None, ["0", "1"]),
        ("0,1,2,3", ["0", "1"]),
        ("3, 1", ["3", "1"]),
        (UUIDS, UUIDS.split(",")[:2]),
        (MIG, MIG.split(",")),
        ("GPU-5a0c11d2", ["GPU-5a0c11d2", "-1"]),
        ("2,-1,3", ["2", "-1"]),  # CUDA reads no further than -1
        ("2,,3", ["2", "-1"]),
        ("-1", ["-1", "-1"]),
        ("", ["-1", "-1"]),
        ("NoDevFiles", ["-1", "-1"]),  # what Slurm sets where a job has no GPU
    ],
)
def test_devices_are_named_as_the_environment_names_them(value: str | None, devices: list[str]) -> None:
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert devices_for(2, environment) == devices


@pytest.mark.parametrize("value", [UUIDS, MIG, "", None])
def test_the_processes_see_the_devices_that_the_environment_names(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through DeepSpeed's launcher, which sets the variable anew."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    script = tmp_path / "script.py"
    script.write_text("import os\nopen(os.environ['RANK'], 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])\n")
    launcher = Local(nproc=2)
    assert launcher.run(Job(script, (), tmp_path, launcher)) == 0
    expected = ",".join(devices_for(2, os.environ))
    assert [(tmp_path / rank).read_text() for rank in "01"] == [expected, expected]


def test_devices_that_the_machine_does_not_show_are_not_replaced_by_the_cpu(tmp_path: Path) -> None:
    """This machine shows none; the folder says whether it has any."""
    check_seen({"CUDA_VISIBLE_DEVICES": UUIDS}, tmp_path)
    (tmp_path / "nvidiactl").touch()
    for value in ("", "-1", "NoDevFiles"):
        check_seen({"CUDA_VISIBLE_DEVICES": value}, tmp_path)
    check_seen({}, tmp_path)
    check_seen({"CUDA_VISIBLE_DEVICES": UUIDS, "DS_ACCELERATOR": "cpu"}, tmp_path)
    if not torch.accelerator.is_available():
        with pytest.raises(ValueError, match="'GPU-8932f937.* names no device of this machine that torch can use"):
            check_seen({"CUDA_VISIBLE_DEVICES": UUIDS}, tmp_path)


def test_deepspeed_does_not_read_names_of_devices_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_accelerator, "pynvml", "the driver")
    for value in ("0,1", None):
        let_deepspeed_ask_torch({} if value is None else {"CUDA_VISIBLE_DEVICES": value})
        assert cuda_accelerator.pynvml == "the driver"
    let_deepspeed_ask_torch({"CUDA_VISIBLE_DEVICES": UUIDS})
    assert cuda_accelerator.pynvml is None


def test_a_choice_of_devices_that_a_host_file_would_drop_is_refused() -> None:
    counts = {"alpha": 2, "beta": 1}
    for value in (None, "0,1", "0,1,2,3"):
        check_devices(counts, {} if value is None else {"CUDA_VISIBLE_DEVICES": value})
    check_devices(counts, {"CUDA_VISIBLE_DEVICES": UUIDS, "DS_ACCELERATOR": "cpu"})
    for value in (UUIDS, "2,3", "1", "", "-1"):
        with pytest.raises(ValueError, match=f"CUDA_VISIBLE_DEVICES={value} has no effect"):
            check_devices(counts, {"CUDA_VISIBLE_DEVICES": value})


FAILING = """
import os, sys, time

if os.environ["RANK"] == "1":
    os.kill(os.getpid(), 9) if sys.argv[1] == "killed" else sys.exit(3)
time.sleep(600)
"""


@pytest.mark.parametrize(("how", "status"), [("exit", 3), ("killed", -9)])
def test_a_process_that_waits_for_ever_ends_when_another_has_failed(how: str, status: int, tmp_path: Path) -> None:
    """As one does in a collective of a GPU, where no connection breaks."""
    (tmp_path / "script.py").write_text(FAILING)
    port = str(free_port())
    members = [PROCESSES.Process(target=run_script, args=(rank, port, tmp_path, how)) for rank in range(2)]
    for member in members:
        member.start()
    for member in members:
        member.join(120)
    assert [member.exitcode for member in members] == [1, status]


def run_script(rank: int, port: str, folder: Path, how: str) -> None:
    """In one of two processes: meet the other, and run the script as the first one orders."""
    from launch import pulse, started_group

    pulse.GRACE, pulse.GONE = 1.0, 5
    group = started_group.meet(Description(rank, 2, rank, "127.0.0.1", int(port), "a test"))
    sys.exit(group.serve().status if rank else group.run(Job(folder / "script.py", (how,), folder, group)))
