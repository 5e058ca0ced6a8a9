"""What a run is asked to do and to report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runtime.arguments import describe
from .arguments import check_switch, check_whole


@dataclass
class FitOptions:
    """What a run is asked to do and to report.

    Args:
        steps: the whole run's total, at least 0.
        epoch_steps: steps in an epoch.
        out: a run folder; None writes nothing.
        resume: whether to go on with the run in that folder.
        log_every: steps between rows of metrics, at least 1.
        sample_every: steps between sample grids; None for 20 in a run, 0 for none.
        checkpoint_every: steps between checkpoints; None for 5 in a run, 0 for only the first and the last.
        keep: newest checkpoints that are kept, besides the first, at least 1.
        on_nonfinite: "raise" stops the run where an update was withheld, "skip" goes on.
        progress: whether progress is shown.
        command: the command line's own configuration, for config.json.

    Raises:
        ValueError: a value out of its range.
        TypeError: resume or progress that is neither True nor False, a command that is no dict.
    """

    steps: int
    epoch_steps: int
    out: str | Path | None = None
    resume: bool = False
    log_every: int = 100
    sample_every: int | None = None
    checkpoint_every: int | None = None
    keep: int = 3
    on_nonfinite: str = "raise"
    progress: bool = True
    command: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_nonfinite not in ("raise", "skip"):
            raise ValueError(f'on_nonfinite must be "raise" or "skip", got {self.on_nonfinite!r}')
        for name, least in {"steps": 0, "log_every": 1, "keep": 1}.items():
            check_whole(name, getattr(self, name), least)
        for name in ("sample_every", "checkpoint_every"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 0)
        for name in ("resume", "progress"):
            check_switch(name, getattr(self, name))
        if not isinstance(self.command, dict):
            raise TypeError(f"command must be a dict of the command line's flags, got {describe(self.command)}")
        self.sample_every = max(1, self.steps // 20) if self.sample_every is None else self.sample_every
        self.checkpoint_every = max(1, self.steps // 5) if self.checkpoint_every is None else self.checkpoint_every
