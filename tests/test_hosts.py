"""Training over several hosts: DeepSpeed's runner, pdsh and ssh, with a private sshd on loopback as the hosts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import RECIPE, distill, losses_of

SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/sshd.pid
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
"""

CLIENT = """
Host gone
    Port {closed}
Host *
    HostName 127.0.0.1
    Port {port}
    IdentityFile {folder}/key
    IdentitiesOnly yes
    BatchMode yes
    StrictHostKeyChecking no
    UserKnownHostsFile {folder}/known_hosts
    LogLevel ERROR
"""


@dataclass(frozen=True)
class Hosts:
    """The hosts ``alpha`` and ``beta``, which are this machine, and ``gone``, which refuses connections.

    Attributes:
        path: the ``PATH`` with which ``ssh`` knows them.
        log: what sshd logs.
    """

    path: str
    log: Path

    @property
    def logins(self) -> int:
        return self.log.read_text().count("Accepted publickey")


def program(name: str) -> str:
    """Where a program is. Without it the tests mean nothing: CI must not pass over them."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        reason = f"{name} is not installed: apt-get install openssh-server pdsh"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """An sshd with keys and configuration of its own; nobody's ~/.ssh is read or written."""
    sshd, ssh, keygen = program("sshd"), program("ssh"), program("ssh-keygen")
    program("pdsh")
    folder = tmp_path_factory.mktemp("ssh")
    (port, closed) = free_ports(2)
    for key in ("host_key", "key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    (folder / "sshd_config").write_text(SSHD.format(port=port, folder=folder))
    (folder / "ssh_config").write_text(CLIENT.format(port=port, closed=closed, folder=folder))
    # DeepSpeed and pdsh both call "ssh" without a word about configuration: they find this one first.
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd refuses to run as root without
    log = folder / "log"
    server = subprocess.Popen([sshd, "-D", "-f", str(folder / "sshd_config"), "-E", str(log)])
    try:
        wait_for(port, server, log)
        yield Hosts(f"{wrapper.parent}:{os.environ['PATH']}", log)
    finally:
        server.terminate()
        server.wait()


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until sshd listens; fail with its log if it has ended instead."""
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert server.poll() is None, f"sshd has ended: {log.read_text()}"
            time.sleep(0.1)
    raise AssertionError(f"sshd does not listen after 10 seconds: {log.read_text()}")


@pytest.mark.hosts
def test_two_hosts_train_the_same_model_as_one_process(hosts: Hosts, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# two of them\nalpha slots=1\nbeta slots=1\n")
    distill("train", recipe, "--out", tmp_path / "one")
    before = hosts.logins
    several = ("--hostfile", tmp_path / "hosts", "--master-addr", "127.0.0.1")
    distill("train", recipe, "--out", tmp_path / "two", *several, PATH=hosts.path)
    assert hosts.logins - before >= 3  # DeepSpeed's check of the first host, then both
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-4)
