"""Launchers by name: one is added by a file in the folder of launchers, or by another package's entry point."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import distill

from distill.cli.launch_options import launcher_from
from distill.errors import UserError
from launch import job as jobs
from launch import launchers
from launch.launcher import Job

# A launcher that starts its processes one after the other, in Python.
SOURCE = """
import sys

from launch.launcher import Launcher

START = '''
import os, subprocess, sys
world, script, *arguments = sys.argv[1:]
for rank in range(int(world)):
    environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": world}
    subprocess.run([sys.executable, script, *arguments], env=environment, check=True)
'''


class InTurn(Launcher):
    count: int
    word: str = ""

    @property
    def world(self):
        return self.count

    def check(self, job):
        if self.count > 3:
            raise ValueError(f"{self.count} processes in turn take too long. Lower count.")

    def command(self, job):
        return [sys.executable, "-c", START, str(self.count), str(job.script), *job.arguments]

    def prepare(self, job, environment):
        return environment | {"WORD": self.word}


LAUNCHER = InTurn
"""

SCRIPT = """
import os, sys
with open(sys.argv[1], "a") as file:
    print(os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["WORD"], os.getcwd(), file=file)
"""


def launch(name: str, *settings: str) -> jobs.Launcher:
    """The launcher that ``--launcher NAME --launch KEY=VALUE …`` selects."""
    return launcher_from(1, None, "", name, settings)


def install(folder: Path, name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a package whose entry point adds a launcher into ``folder``, as pip would install it."""
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(SOURCE)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[distill.launchers]\n{name} = {module}:LAUNCHER\n")
    monkeypatch.syspath_prepend(folder)


def check_runs(name: str, folder: Path) -> None:
    """Run a job of two processes with that launcher, and check what they see."""
    (folder / "script.py").write_text(SCRIPT)
    job = Job(folder / "script.py", ("out",), folder, launch(name, "count=2", "word=3.1.4"))
    jobs.check(job)
    assert (job.world, job.here) == (2, False)
    assert jobs.run(job) == 0
    assert (folder / "out").read_text() == f"0 2 3.1.4 {folder}\n1 2 3.1.4 {folder}\n"


def test_a_file_in_the_folder_adds_a_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "in_turn_file.py").write_text(SOURCE)
    monkeypatch.setattr(launchers, "__path__", [*launchers.__path__, str(tmp_path / "more")])
    assert {"in_turn_file", "local", "hostfile"} <= set(launchers.names())
    check_runs("in_turn_file", tmp_path)


def test_another_package_adds_a_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", "in_turn", "in_turn_package", monkeypatch)
    check_runs("in_turn", tmp_path)


def test_the_error_about_two_launchers_of_one_name_lists_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", "local", "in_turn_twice", monkeypatch)
    with pytest.raises(UserError, match="launch.launchers.local:LAUNCHER and in_turn_twice:LAUNCHER.*Uninstall"):
        launch("local")


def test_the_error_about_a_broken_launcher_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", "broken", "in_turn_broken", monkeypatch)
    (tmp_path / "site" / "in_turn_broken.py").write_text("import nothing_of_this_name")
    with pytest.raises(UserError, match="'broken' cannot be loaded from in_turn_broken:LAUNCHER: No module.*Repair"):
        launch("broken")
    (tmp_path / "site" / "in_turn_broken.py").write_text("LAUNCHER = len")
    with pytest.raises(UserError, match="'broken' from in_turn_broken:LAUNCHER is no subclass of Launcher"):
        launch("broken")


def test_the_short_options_select_the_same_launchers(tmp_path: Path) -> None:
    assert launcher_from(3, None, "", None, ()) == launch("local", "nproc=3")
    named = launch("hostfile", f"hostfile={tmp_path}", "master_addr=10.0.0.1")
    assert launcher_from(1, tmp_path, "10.0.0.1", None, ()) == named


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--launcher lokal", "There is no launcher 'lokal'. Did you mean 'local'?"),
        ("--launcher x", "There is no launcher 'x'. Known: "),
        ("--launcher local --launch nprocs=2", "The launcher 'local' has no option 'nprocs'. Did you mean 'nproc'?"),
        ("--launcher local --launch nproc=two", "The launcher 'local' does not accept its option 'nproc': "),
        ("--launcher local --launch nproc", "--launch nproc is not of the form KEY=VALUE. Write "),
        ("--launcher hostfile", "The launcher 'hostfile' needs the option 'hostfile'. Add --launch hostfile=VALUE."),
        ("--launch nproc=2", "--launch nproc=2 is an option of a launcher, and none is named. Add --launcher NAME."),
        (
            "--launcher local --nproc 2",
            "--launcher cannot be combined with --nproc, --hostfile or --master-addr. Give",
        ),
    ],
)
@pytest.mark.parametrize("command", ["train", "teachers embed"])
def test_wrong_launcher_options_are_refused(
    command: str, options: str, message: str, recipe: Path, tmp_path: Path
) -> None:
    words = (*command.split(), recipe, "--out", tmp_path / "out", *options.split())
    error = distill(*words, status=2).stderr
    assert error.startswith(f"Error: {message}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
