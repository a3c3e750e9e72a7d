"""The launch options of ``distill train`` and ``distill teachers embed``, which may run in several processes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from launch.launcher import Launcher


def launch_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the launch options to a command; it receives their values as one argument, ``launcher``."""

    @click.option(
        "--nproc", default=1, show_default=True, type=click.IntRange(min=1), help="Processes on this machine."
    )
    @click.option("--hostfile", type=click.Path(path_type=Path), help="Several machines: lines of 'HOST slots=N'.")
    @click.option(
        "--master-addr", default="", help="Address of the first host; default: DeepSpeed asks that host for it."
    )
    @click.option("--launcher", "name", metavar="NAME", help="Start the processes with this launcher.")
    @click.option(
        "--launch", "settings", multiple=True, metavar="KEY=VALUE", help="Set an option of the launcher; repeatable."
    )
    @functools.wraps(command)
    def with_launcher(
        *,
        nproc: int,
        hostfile: Path | None,
        master_addr: str,
        name: str | None,
        settings: tuple[str, ...],
        **others: Any,
    ) -> None:
        def work() -> None:
            command(launcher=launcher_from(nproc, hostfile, master_addr, name, settings), **others)

        together_or_silent(work)

    return with_launcher


def together_or_silent(work: Callable[[], None]) -> None:
    """Do a command's work; what it prints and how it ends is said by one process, if several were started."""
    from distill.training.together import EndedElsewhere, together

    try:
        together(work)
    except EndedElsewhere as error:
        sys.exit(error.status)


def launcher_from(
    nproc: int, hostfile: Path | None, master_addr: str, name: str | None, settings: tuple[str, ...]
) -> Launcher:
    """Build the launcher that the values of the options of :func:`launch_options` describe.

    Raises:
        UserError: if there is no such launcher, or its options are wrong.
    """
    from distill.errors import UserError

    if name is None:
        if settings:
            raise UserError(
                f"--launch {settings[0]} is an option of a launcher, and none is named.", "Add --launcher NAME."
            )
        # Short options for the two most common launchers.
        if hostfile:
            return build("hostfile", {"hostfile": hostfile, "master_addr": master_addr})
        return build("local", {"nproc": nproc})
    if nproc > 1 or hostfile or master_addr:
        raise UserError(
            "--launcher cannot be combined with --nproc, --hostfile or --master-addr.",
            f"Give the options of '{name}' as --launch KEY=VALUE.",
        )
    return build(name, dict(map(parse, settings)))


def parse(setting: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE``; the value is parsed as TOML, or else kept as a string.

    Raises:
        UserError: if it is not of that form.
    """
    from distill.errors import UserError
    from distill.recipe import toml_or_string

    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UserError(f"--launch {setting} is not of the form KEY=VALUE.", "Write --launch nproc=8, for example.")
    return key, toml_or_string(text)


def build(name: str, options: dict[str, Any]) -> Launcher:
    """Build the launcher called ``name``; raises ``UserError`` like :func:`launcher_from`."""
    from pydantic import ValidationError

    from distill.errors import UserError, as_user_errors
    from distill.validation import explain_options
    from launch import launchers

    with as_user_errors():
        launcher_class = launchers.find(name)
    try:
        return launcher_class.model_validate(options)
    except ValidationError as error:
        raise UserError(*explain_options(error, launcher_class, f"The launcher '{name}'", "--launch")) from error
