"""Training on several hosts with DeepSpeed's runner, pdsh and ssh; every host is one private sshd on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from conftest import distill, losses_of, program

PACKAGES = "openssh-server pdsh"
SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/sshd.pid
PasswordAuthentication no
StrictModes no
UsePAM no
"""

# alpha and beta are this machine, with connection attempts repeated while sshd starts; gone refuses connections.
CLIENT = """
Host alpha beta
    Port {port}
    ConnectionAttempts 20
Host gone
    Port 1
Host *
    HostName 127.0.0.1
    IdentityFile {folder}/key
    IdentitiesOnly yes
    StrictHostKeyChecking no
    UserKnownHostsFile {folder}/known_hosts
    LogLevel ERROR
"""


@dataclass(frozen=True)
class Hosts:
    """A folder with keys, configuration, sshd's log, and an ``ssh`` that resolves the hosts' names."""

    folder: Path

    @property
    def path(self) -> str:
        """A PATH that finds this ``ssh`` first: DeepSpeed and pdsh both run ``ssh`` without a folder."""
        return f"{self.folder}/bin:{os.environ['PATH']}"

    @property
    def logins(self) -> int:
        return (self.folder / "log").read_text().count("Accepted publickey")

    def options(self, *names: str) -> tuple[object, ...]:
        """The options to train on these hosts."""
        path = self.folder / "-".join(names)
        path.write_text("# name and slots\n" + "".join(f"{name} slots=1\n" for name in names))
        return "--hostfile", path, "--master-addr", "127.0.0.1"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """An sshd with its own keys and configuration; no ~/.ssh is read or written."""
    sshd, ssh, keygen, _ = (program(name, PACKAGES) for name in ("sshd", "ssh", "ssh-keygen", "pdsh"))
    folder = tmp_path_factory.mktemp("ssh")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for key in ("host_key", "key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    (folder / "sshd_config").write_text(SERVER.format(port=port, folder=folder))
    (folder / "ssh_config").write_text(CLIENT.format(port=port, folder=folder))
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/ssh_config "$@"\n')
    (folder / "bin" / "ssh").chmod(0o755)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd refuses to run as root without
    server = subprocess.Popen([sshd, "-D", "-f", folder / "sshd_config", "-E", folder / "log"])
    yield Hosts(folder)
    server.terminate()
    server.wait()
    print((folder / "log").read_text())  # pytest shows it when a test has failed


@pytest.mark.hosts
def test_two_hosts_train_the_same_model_as_one_process(hosts: Hosts, recipe: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two hosts"  # DeepSpeed's remote command line survives the space
    # DeepSpeed puts its working directory first on every host's PYTHONPATH, so that must not be the user's, where this
    # file would be imported instead of our package `losses`.
    (tmp_path / "losses.py").write_text('raise SystemExit("shadowed")\n')
    distill("train", recipe, "--out", one)
    distill("train", recipe, "--out", two, *hosts.options("alpha", "beta"), cwd=tmp_path, PATH=hosts.path)
    assert hosts.logins == 5  # by distill on both, by DeepSpeed on the first, by pdsh on both
    assert losses_of(two) == pytest.approx(losses_of(one), abs=1e-4)


@pytest.mark.hosts
def test_a_process_that_dies_on_one_host_ends_the_job(hosts: Hosts, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("--out", run, "--set", "train.steps=100000", *hosts.options("alpha", "beta"))
    with ThreadPoolExecutor() as pool:
        job = pool.submit(distill, "train", recipe, *words, status=2, PATH=hosts.path)
        while not (run / "metrics.jsonl").exists() and not job.done():
            time.sleep(0.1)
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [])[-1:] == [str(run)] and process.environ().get("RANK") == "1":
                process.kill()
        assert f"continue with --resume --out {run}." in job.result().stderr.splitlines()[-1]


@pytest.mark.hosts
def test_the_error_about_an_unreachable_host_names_it(hosts: Hosts, recipe: Path, tmp_path: Path) -> None:
    words = ("--out", tmp_path / "run", *hosts.options("alpha", "gone"))
    error = distill("train", recipe, *words, status=2, PATH=hosts.path).stderr
    assert error.startswith("Error: The host 'gone' is not ready (ssh: connect to host") and error.count("\n") == 1


FILES = {"empty": "", "short": "alpha 2", "zero": "alpha slots=0", "twice": "a slots=1\na slots=1", "binary": "\xff"}


@pytest.mark.parametrize("name", [*FILES, "missing"])
def test_an_invalid_host_file_is_refused(name: str, recipe: Path, tmp_path: Path) -> None:
    if name in FILES:
        (tmp_path / name).write_text(FILES[name], encoding="latin-1")
    error = distill("train", recipe, "--out", tmp_path / "run", "--hostfile", tmp_path / name, status=2).stderr
    assert error.startswith(f"Error: The host file {tmp_path / name} ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
