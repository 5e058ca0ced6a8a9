"""The command line: fastgan train | sample | doctor.

A command that is stopped while it starts ends with a short message, too: nothing but this module is imported before that is
seen to. torch comes with a command's work, so that --version and --help answer at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from .._version import __version__
from ..training.signals import Interrupted, Interrupts

if TYPE_CHECKING:
    from .command import Command, Job


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: the words after the command's name; None for those of this process.

    Returns:
        0 done, 1 stopped on a value that was not finite, 2 a mistake, or a disk or file that fails; 128 + the signal where one
        ended it: 129 SIGHUP, 130 SIGINT, 141 SIGPIPE (nobody reads the output any more), 143 SIGTERM.

    Raises:
        SystemExit: --help, and flags that there are not.
    """
    try:
        with Interrupts(at_once=True):
            code = _run_command(sys.argv[1:] if arguments is None else arguments)
    except Interrupted as stop:
        code = _say("; ".join([str(stop), *getattr(stop, "__notes__", [])]), stop.exit_code)
    except SystemExit as stop:
        if isinstance(stop.code, int):
            stop.code = _close_output(stop.code)
        raise
    except KeyboardInterrupt:  # of another thread's main program, where signals are not this module's to handle
        code = _say("stopped by SIGINT", 128 + signal.SIGINT)
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    return _close_output(code)


def _say(message: str, code: int) -> int:
    with suppress(OSError):  # nobody may read it any more
        print(f"fastgan: {message}", file=sys.stderr)
    return code


def _close_output(code: int) -> int:
    """Flushes what was printed. Where that fails, Python would try again at its end, and fail with a code of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if isinstance(error, BrokenPipeError) and code == 0:
                code = 128 + signal.SIGPIPE
    return code


def _run_command(arguments: Sequence[str]) -> int:
    import logging

    from . import commands

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if list(arguments) == ["--version"]:
        print(f"fastgan {__version__}")
        return 0
    try:
        command = commands.parse(arguments)
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError) as error:
        return _say(str(error), 2)
    return _execute(command)


def _execute(command: Command) -> int:
    from ..ops.backend import BackendUnavailable
    from ..runtime import distributed

    try:
        with distributed.process_group(getattr(command, "device", "cpu")):
            return _run(command.prepare())
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError, BackendUnavailable) as error:
        return _say(str(error), 2)


def _run(job: Job) -> int:
    from ..training.checkpoint import CheckpointError
    from ..training.fit import NonFiniteError
    from ..training.report import RunFolderError

    try:
        job()
    except NonFiniteError as error:
        return _say(str(error), 1)
    except (CheckpointError, RunFolderError):  # the disk is full, or a folder that was there is not there any more
        raise
    except (ValueError, TypeError) as error:
        # past `prepare` these are faults of the program, which deserve their traceback
        raise RuntimeError("the command failed") from error
    return 0
