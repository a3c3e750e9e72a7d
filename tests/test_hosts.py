"""Training over several hosts through DeepSpeed's runner, pdsh and ssh; a private sshd on loopback is the hosts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from conftest import distill, losses_of

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

# alpha and beta are this machine, and patient while sshd starts; gone refuses connections.
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
    """A folder with keys, configuration, sshd's log, and an ``ssh`` that knows the hosts by name."""

    folder: Path

    @property
    def path(self) -> str:
        """The PATH that has this ``ssh``: DeepSpeed and pdsh both call it by that name alone."""
        return f"{self.folder}/bin:{os.environ['PATH']}"

    @property
    def logins(self) -> int:
        return (self.folder / "log").read_text().count("Accepted publickey")

    def named(self, *names: str) -> tuple[object, ...]:
        """The options that train on these hosts."""
        path = self.folder / "-".join(names)
        path.write_text("# name and slots\n" + "".join(f"{name} slots=1\n" for name in names))
        return "--hostfile", path, "--master-addr", "127.0.0.1"


def program(name: str) -> str:
    """Where a program is. CI must not pass over the tests that need it."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        reason = f"{name} is not installed: apt-get install openssh-server pdsh"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """An sshd with keys and configuration of its own; nobody's ~/.ssh is read or written."""
    sshd, ssh, keygen, _ = map(program, ("sshd", "ssh", "ssh-keygen", "pdsh"))
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
    # DeepSpeed makes the folder it is started in the first of every host's PYTHONPATH: not the user's, then.
    (tmp_path / "losses.py").write_text('raise SystemExit("shadowed")\n')
    distill("train", recipe, "--out", one)
    distill("train", recipe, "--out", two, *hosts.named("alpha", "beta"), cwd=tmp_path, PATH=hosts.path)
    assert hosts.logins == 5  # ours to both, DeepSpeed's to the first, pdsh's to both
    assert losses_of(two) == pytest.approx(losses_of(one), abs=1e-4)


@pytest.mark.hosts
def test_a_process_that_dies_on_one_host_ends_the_job(hosts: Hosts, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("--out", run, "--set", "train.steps=100000", *hosts.named("alpha", "beta"))
    with ThreadPoolExecutor() as pool:
        job = pool.submit(distill, "train", recipe, *words, status=2, PATH=hosts.path)
        while not (run / "metrics.jsonl").exists() and not job.done():
            time.sleep(0.1)
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [])[-1:] == [str(run)] and process.environ().get("RANK") == "1":
                process.kill()
        assert f"continue with --resume --out {run}." in job.result().stderr.splitlines()[-1]


@pytest.mark.hosts
def test_a_host_that_is_not_there_is_named(hosts: Hosts, recipe: Path, tmp_path: Path) -> None:
    words = ("--out", tmp_path / "run", *hosts.named("alpha", "gone"))
    error = distill("train", recipe, *words, status=2, PATH=hosts.path).stderr
    assert error.startswith("Error: The host 'gone' is not ready (ssh: connect to host") and error.count("\n") == 1


FILES = {"empty": "", "short": "alpha 2", "zero": "alpha slots=0", "twice": "a slots=1\na slots=1", "binary": "\xff"}


@pytest.mark.parametrize("name", [*FILES, "missing"])
def test_a_host_file_that_makes_no_sense_is_refused(name: str, recipe: Path, tmp_path: Path) -> None:
    if name in FILES:
        (tmp_path / name).write_text(FILES[name], encoding="latin-1")
    error = distill("train", recipe, "--out", tmp_path / "run", "--hostfile", tmp_path / name, status=2).stderr
    assert error.startswith(f"Error: The host file {tmp_path / name} ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
