"""What a trainer and CUDA graphs ask of an engine: `autograd.AutogradStep` and `closed_form.step.ClosedFormStep`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from .game import StepIndex


class Engine(Protocol):
    """An alternating step of one kind; a call runs it on `rows` rows of this process, images [N, ...] on the game's device."""

    @property
    def name(self) -> str:
        """What `Trainer(engine=...)` calls it."""

    @property
    def generation(self) -> int:
        """A number that grows when the engine's buffers are others."""

    @property
    def foreign(self) -> bool:
        """Whether modules may draw random numbers of their own, from torch's generator."""

    @property
    def instruction_set(self) -> str | None:
        """That of the CPU which packed products run on; None for torch's products, whose bits are torch's matter."""

    def __call__(self, images: Tensor, index: StepIndex, rows: int) -> Mapping[str, Tensor]: ...

    def find_ends(self, latents: Tensor, samples: Tensor, read_logits: bool) -> bool:
        """Looks at both networks' ends; returns whether steps will read the logits before a Sigmoid."""

    def find_draws(self, samples: Tensor) -> None:
        """Sees on samples whether networks draw random numbers of their own in a step."""

    def follow_networks(self) -> None:
        """Sees weights and parameters that somebody has changed since the last step."""

    def reserve(self, steps: int) -> None:
        """Makes place for what so many steps leave behind before somebody looks."""

    def state_dict(self) -> dict[str, Tensor]:
        """What the engine keeps besides the networks."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over a `state_dict`, in place."""
