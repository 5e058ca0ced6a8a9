"""A network's parameters as parts of one flat buffer, and the optimizer that updates the buffer in one pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..ops.reference import is_withheld
from ..ops.update import state_size, update_
from ..optim import Optimizer, Schedule
from ..runtime.module_state import ModuleTree, modes_kept

ALIGNMENT = 16  # elements: each parameter starts on a cache line


def _part(flat: Tensor, offset: int, shape: torch.Size) -> Tensor:
    """A tensor over a part of a buffer, in a storage of that size, which is all that saving the tensor saves.

    The storage keeps the buffer's memory alive.
    """
    begin, size = offset * flat.element_size(), shape.numel() * flat.element_size()
    return flat.new_empty(0).set_(flat.untyped_storage()[begin : begin + size]).view(shape)


class FlatNetwork:
    """A module whose trainable parameters lie in `weight` [P]; the module goes on working and shows the trained weights.

    gradient [P]: where gradients are collected; state: the optimizer's buffers [P]; ema [P] or None: the weights' moving
    average; count: 0-d int64, updates done; lr: 0-d fp64, the rate of the next update; numbers: how many the parameters have.
    Raises ValueError for a module without trainable parameters, or with parameters of several dtypes or devices.
    """

    def __init__(self, module: nn.Module, spec: Optimizer, *, clip: float = 0.0, ema_decay: float | None = None) -> None:
        self.module, self.spec, self.clip, self.ema_decay = module, spec, clip, ema_decay
        self.parameters = self._trainable()
        self._remember_tree()
        self._evaluated: list[nn.Module] = []
        self._check_alike()
        first = self.parameters[0]
        offsets, end = [], 0
        for parameter in self.parameters:
            offsets.append(end)
            end += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        self.offsets, self.numbers = offsets, sum(parameter.numel() for parameter in self.parameters)
        self.weight = torch.zeros(end, dtype=first.dtype, device=first.device)
        self.gradient = torch.zeros_like(self.weight)
        self.state = [torch.zeros_like(self.weight) for _ in range(state_size(spec.rule, spec.options()))]
        self.count = torch.zeros((), dtype=torch.int64, device=first.device)
        rate = spec.lr.start if isinstance(spec.lr, Schedule) else spec.lr
        self.lr = torch.tensor(rate, dtype=torch.float64, device=first.device)
        self.options = spec.options()
        self.gradients = self.views(self.gradient)
        self._adoptions = 0
        self._adopt()
        self.ema = self.weight.clone() if ema_decay is not None else None
        self.skips = torch.zeros((), dtype=torch.int64, device=first.device)
        self._updates: list[tuple[Tensor, Tensor]] = []

    def _trainable(self, or_one_of: Collection[int] = ()) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad or id(p) in or_one_of]

    def _remember_tree(self) -> None:
        self._tree, self._parts = ModuleTree(self.module), list(self.module.modules())

    def _in_place(self, frozen: bool) -> bool:
        """Whether every parameter is where it was, in the module and in the buffer; walking the tree would take a while."""
        where = [parameter.data_ptr() for parameter in self.parameters]
        wanted = frozen or all([parameter.requires_grad for parameter in self.parameters])
        return self._tree.holds() and wanted and where == self._places

    @contextmanager
    def in_training_mode(self) -> Iterator[None]:
        """Inside, modules are in training mode, but for those whose owner has put them alone into evaluation mode."""
        if self.module.training:
            self._evaluated = [part for part in self._parts if not part.training]
            yield
            return
        with modes_kept(self.module):
            self.module.train()
            for part in self._evaluated:
                part.training = False
            yield

    def buffers(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        """The module's buffers, each with its part and its name there."""
        for part in self._parts:
            for name, tensor in part._buffers.items():
                if tensor is not None:
                    yield part, name, tensor

    def _check_alike(self) -> None:
        name = type(self.module).__name__
        if not self.parameters:
            raise ValueError(f"{name} has no trainable parameters")
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters}
        if len(kinds) > 1 or not self.parameters[0].is_floating_point():
            raise ValueError(f"{name}'s parameters must be of one floating dtype on one device, got {sorted(map(str, kinds))}")

    def views(self, flat: Tensor) -> list[Tensor]:
        """A buffer of the weights' size as tensors of the parameters' shapes."""
        places = zip(self.offsets, self.parameters, strict=True)
        return [flat[offset : offset + parameter.numel()].view(parameter.shape) for offset, parameter in places]

    def averages(self) -> dict[int, Tensor]:
        """The moving averages by their parameters' ids, because a parameter may have several names; {} without an average."""
        views = self.views(self.ema) if self.ema is not None else []
        return {id(parameter): view for parameter, view in zip(self.parameters, views, strict=True)} if views else {}

    def _adopt(self) -> None:
        # all values are read before one is written: parameters may have changed places
        values = [parameter.detach().clone() for parameter in self.parameters]
        for offset, parameter, value in zip(self.offsets, self.parameters, values, strict=True):
            own = _part(self.weight, offset, value.shape)
            own.copy_(value)
            parameter.data = own
        self._places = [parameter.data_ptr() for parameter in self.parameters]
        self._adoptions += 1

    def ensure_views(self, frozen: bool = False) -> None:
        """Repairs parameters that were moved out of the buffer since the last step, keeping their values.

        A module whose dtype, device or set of parameters changed is refused with a RuntimeError. frozen: whether parameters
        may be frozen now, because nothing is trained.
        """
        if self._in_place(frozen):
            return
        current = self._trainable({id(parameter) for parameter in self.parameters} if frozen else ())
        alike = [(p.shape, p.dtype, p.device) for p in current] == [
            (p.shape, self.weight.dtype, self.weight.device) for p in self.parameters
        ]
        if not alike:
            raise RuntimeError(
                f"{type(self.module).__name__} changed its dtype, device or parameters after the trainer took it; "
                "do so before creating the Trainer, or create another one"
            )
        self.parameters = current
        self._remember_tree()
        self._adopt()

    def collect(self, gradients: Sequence[Tensor | None]) -> None:
        """Copy gradients of the parameters, None for zero, into the flat buffer."""
        for view, gradient in zip(self.gradients, gradients, strict=True):
            if gradient is None:
                view.zero_()
            else:
                view.copy_(gradient)

    def gradient_of(self, parameter: Tensor) -> Tensor:
        """The view of `gradient` that belongs to a parameter."""
        return next(view for own, view in zip(self.parameters, self.gradients, strict=True) if own is parameter)

    def mark_changed(self) -> None:
        """Says that the weights were changed through the flat buffer: copies of them are out of date."""
        self._adoptions += 1

    def version(self) -> int:
        """A number that grows when somebody else than `update` changes the weights: through the parameters, or by new ones."""
        return self._adoptions + sum([parameter._version for parameter in self.parameters])

    def set_rate(self, step: int | Tensor) -> None:
        """Moves `lr` to a step's rate, if it follows a schedule."""
        if isinstance(self.spec.lr, Schedule):
            now = step if isinstance(step, Tensor) else torch.full((), step, device=self.lr.device)
            self.lr.copy_(self.spec.lr(now))

    def update(self, withhold: Tensor, step: int | Tensor, run: Callable[..., Tensor] = update_) -> Tensor:
        """One optimizer step from `gradient`, at the rate of a step; returns the statistics of `ops.update.update_`.

        run: what does it, with the arguments of `update_`.
        """
        self.set_rate(step)
        return run(
            self.weight,
            self.gradient,
            self.state,
            self.lr,
            self.count,
            withhold,
            rule=self.spec.rule,
            options=self.options,
            clip=self.clip,
            ema=self.ema,
            ema_decay=self.ema_decay or 0.0,
        )

    def record_update(self, withhold: Tensor, statistics: Tensor) -> None:
        """Keeps what an update was given and returned (`ops.update.update_`), to be counted later, many at once."""
        self._updates.append((withhold, statistics))
        if len(self._updates) == 256:
            self.count_skipped()

    def count_skipped(self) -> None:
        """Counts what the recorded updates left alone."""
        if self._updates:
            given, returned = (torch.stack(tensors) for tensors in zip(*self._updates, strict=True))
            # what fills the buffer up between parameters is none of them, and does as they do
            left_alone = returned[:, 1].clamp(max=self.numbers).long()
            self.skips += is_withheld(given.view(len(given), -1)).sum() + left_alone.sum()
            self._updates.clear()

    def discard_records(self) -> None:
        """Drops what was recorded and not counted: the updates of a capture that failed."""
        self._updates.clear()

    @property
    def skipped(self) -> Tensor:
        """0-d int64: updates withheld and weights left alone because something was not finite."""
        self.count_skipped()
        return self.skips

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer's state as tensors: count, state.0, state.1, ..., and "average", the EMA."""
        buffers = {f"state.{number}": buffer for number, buffer in enumerate(self.state)}
        ema = {} if self.ema is None else {"average": self.ema}
        return {"count": self.count, **buffers, **ema}

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """ValueError where a saved state does not fit."""
        own, problem = (
            self.state_dict(),
            f"the saved optimizer state does not fit {type(self.module).__name__} with {self.spec.rule}",
        )
        if own.keys() != state.keys():
            raise ValueError(f"{problem}: it has {', '.join(state)}, not {', '.join(own)}")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                there, here = state[name].numel(), tensor.numel()
                raise ValueError(f"{problem}: its {name} is of {there} numbers, not {here}; other parameters were trained")

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copies a saved state in place, so that views and captured graphs stay valid."""
        self.check_state(state)
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
