"""The hashes in an export's ``config.json``, by which a damaged or changed export is recognised."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from distill.errors import UserError
from distill.files import digest
from distill.ship.config_file import CONFIG, Config

AGAIN = "Copy the export again, or export the run again."


def signed(config: Config, folder: Path) -> Config:
    """A configuration with the SHA-256 of each file in a folder, and its own."""
    files = {path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != CONFIG}
    config = config.model_copy(update={"files": files, "sha256": ""})
    return config.model_copy(update={"sha256": of_config(config)})


def of_config(config: Config) -> str:
    """SHA-256 of a configuration without its own hash, whatever the layout of the JSON that it was read from."""
    tree = config.model_dump(mode="json", exclude={"sha256"})
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def check(config: Config, folder: Path) -> None:
    """Compare the hashes in a configuration with the files; exports of versions that wrote none are accepted.

    Raises:
        UserError: if a file is missing, damaged or changed.
    """
    if config.sha256 and of_config(config) != config.sha256:
        raise UserError(f"{folder / CONFIG} has been changed since it was exported.", AGAIN)
    for name, expected in config.files.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise UserError(f"{path} cannot be read: it is missing.", AGAIN)
        if digest(path) != expected:
            raise UserError(f"{path} cannot be read: it is damaged, or has been changed since it was exported.", AGAIN)
