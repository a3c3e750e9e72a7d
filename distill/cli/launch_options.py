"""The options of commands that may run in several processes, ``distill train`` and ``distill teachers embed``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from launch.launcher import Launcher


def launch_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say in which processes it runs; it gets one argument for them, ``launcher``."""

    @click.option(
        "--nproc", default=1, show_default=True, type=click.IntRange(min=1), help="Processes on this machine."
    )
    @click.option("--hostfile", type=click.Path(path_type=Path), help="Several machines: lines of 'HOST slots=N'.")
    @click.option("--master-addr", default="", help="Address of the first host, if DeepSpeed is not to ask it.")
    @click.option("--launcher", "name", metavar="NAME", help="Start the processes by this launcher.")
    @click.option("--launch", "settings", multiple=True, metavar="KEY=VALUE", help="Its options; repeatable.")
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
        command(launcher=launcher_of(nproc, hostfile, master_addr, name, settings), **others)

    return with_launcher


def launcher_of(
    nproc: int, hostfile: Path | None, master_addr: str, name: str | None, settings: tuple[str, ...]
) -> Launcher:
    """The launcher that the options of :func:`launch_options` describe.

    Raises:
        UserError: if there is no such launcher, or its options are wrong.
    """
    from distill.errors import UserError

    if name is None:
        if settings:
            raise UserError(
                f"--launch {settings[0]} is an option of a launcher, and none is named.", "Add --launcher NAME."
            )
        # The short forms for the two launchers that most people need.
        return (
            build("hostfile", hostfile=hostfile, master_addr=master_addr) if hostfile else build("local", nproc=nproc)
        )
    if nproc > 1 or hostfile or master_addr:
        raise UserError(
            "--launcher cannot be combined with --nproc, --hostfile or --master-addr.",
            f"Give the options of '{name}' as --launch KEY=VALUE.",
        )
    return build(name, **dict(map(parse, settings)))


def parse(setting: str) -> tuple[str, Any]:
    """A ``KEY=VALUE``, with the value read as TOML, or else taken as a string."""
    from distill.errors import UserError
    from distill.recipe import toml_or_string

    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UserError(f"--launch {setting} is not of the form KEY=VALUE.", "Write --launch nproc=8, for example.")
    return key, toml_or_string(text)


def build(name: str, **options: Any) -> Launcher:
    """The launcher called ``name``; raises UserError like :func:`launcher_of`."""
    from pydantic import ValidationError

    from distill.errors import UserError, as_user_errors
    from distill.validation import explain_options
    from launch import launchers

    with as_user_errors():
        found = launchers.find(name)
    try:
        return found(**options)
    except ValidationError as error:
        raise UserError(*explain_options(error, found, f"The launcher '{name}'", "--launch")) from error
