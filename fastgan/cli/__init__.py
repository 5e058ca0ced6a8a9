"""The command line: fastgan train | sample | doctor.

What is asked is read with light imports alone, so that --version and --help answer at once; torch comes with a command's work.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

import tyro

from .._version import __version__
from .command import Command, Job
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 done, 1 stopped on a value that was not finite, 2 bad arguments or input, 130 or 143 interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) == ["--version"]:
        print(f"fastgan {__version__}")
        return 0
    try:
        command = parse(arguments)
    except (ValueError, TypeError, OSError) as error:
        return _refuse(error)
    return _execute(command)


def _refuse(error: Exception) -> int:
    print(f"fastgan: {error}", file=sys.stderr)
    return 2


def _execute(command: Command) -> int:
    from ..ops.backend import BackendUnavailable
    from ..runtime import distributed

    try:
        with distributed.process_group(getattr(command, "device", "cpu")):
            return _run(command.prepare())
    except (ValueError, TypeError, OSError, BackendUnavailable) as error:
        return _refuse(error)


def _run(job: Job) -> int:
    from ..training.checkpoint import CheckpointError
    from ..training.fit import NonFiniteError
    from ..training.signals import Interrupted

    try:
        job()
    except Interrupted as stop:
        print(f"fastgan: {stop}; continue with --resume", file=sys.stderr)
        return stop.exit_code
    except NonFiniteError as error:
        print(f"fastgan: {error}", file=sys.stderr)
        return 1
    except CheckpointError:  # a folder that was there is not there any more
        raise
    except (ValueError, TypeError) as error:
        # past `prepare` these are faults of the program, which deserve their traceback
        raise RuntimeError("the command failed") from error
    return 0
