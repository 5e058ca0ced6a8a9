"""What a line asks for: read with light imports alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tyro

from .command import Command
from .doctor import Doctor
from .sample import Sample
from .train import Train, resumed

COMMANDS: dict[str, Callable[..., Command]] = {"train": Train, "sample": Sample, "doctor": Doctor}
ABOUT = "Train a GAN, draw its samples, see what runs here. --version prints the version."


def parse(arguments: Sequence[str]) -> Command:
    """The command a line means; a resumed run starts from its saved configuration."""
    command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="fastgan", description=ABOUT, args=arguments)
    if isinstance(command, Train) and command.resume:
        return resumed(command, arguments)
    return command
