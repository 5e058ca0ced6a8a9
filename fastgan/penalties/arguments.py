"""What the arguments of a penalty may be, and what somebody is told who passes another: what it got, and what to write."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any, Never

import torch
from torch import Tensor

from ..runtime.arguments import describe

Select = Callable[[Any], Tensor] | str | int

# how rows are had from what people pass in place of a tensor
_OF_A_LIST = "write {0}[0] if it is a batch of images and labels, torch.stack({0}) if it is samples"
_AS_ROWS = {
    "list": _OF_A_LIST,
    "tuple": _OF_A_LIST,
    "dict": 'write {0}["image"], or what its images are called',
    "ndarray": "write torch.from_numpy({0})",
}


# arguments of other codebases' penalties
_FACTORS = frozenset(
    ("weight", "gamma", "lambda_", "lambda_gp", "gp_lambda", "lambda_term", "lambda_r1", "lambda_r2", "lambda_pen", "lambd")
    + ("lam", "LAMBDA", "lambda_reg", "gp_weight", "r1_weight", "r2_weight", "reg_weight", "reg_param", "coef", "coefficient")
)
_ELSEWHERE = {  # and what is written for them; "" for what is left out
    **dict.fromkeys(("constant", "center", "k", "norm_target"), "target"),
    **dict.fromkeys(("eps", "epsilon", "interpolation"), "alpha"),
    **dict.fromkeys(("r1_gamma", "r2_gamma"), "gamma"),
    **dict.fromkeys(("noise_scale", "std", "noise_std"), "std_scale"),
    **dict.fromkeys(("real", "fake", "real_data", "fake_data", "device", "batch_size", "use_cuda", "training"), ""),
}


def require(condition: bool, message: str) -> None:
    """ValueError unless the condition holds; where calls are frequent an `if` stands in its place, which writes no message."""
    if not condition:
        raise ValueError(message)


def as_number(name: str, value: Any) -> float:
    """A number as it is; one of numpy's, which is no plain data, as the float that it holds."""
    if type(value) in (float, int):
        return value
    if not isinstance(value, bool) and isinstance(value, Real):
        return float(value)
    hint = ": multiply the penalty by it, or take its .item()" if isinstance(value, Tensor) else ""
    if callable(value):
        hint = ": a spec is for a trainer; a loop of your own calls penalties.r1_penalty(critic, real) and its siblings"
    raise TypeError(f"{name} must be a number, got {describe(value)}{hint}")


def as_amount(name: str, value: Any) -> float:
    """A finite number >= 0."""
    value = as_number(name, value)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, got {value}")
    return value


def as_count(name: str, value: Any) -> int:
    """A whole number >= 1."""
    if type(value) is int and value >= 1:
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a whole number >= 1, got {describe(value)}")
    if not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value}")
    return int(value)


def as_flag(name: str, value: Any) -> bool:
    """True or False: a number would be one that belongs to the next argument."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {describe(value)}")
    return value


def refuse_others(penalty: Callable[..., Tensor], others: tuple[Any, ...], foreign: dict[str, Any]) -> Never:
    """TypeError for arguments by position, or by other codebases' names, that a penalty does not have."""
    name, parameters = penalty.__name__, inspect.signature(penalty).parameters.values()
    needed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    factor = options[0]
    if others:
        is_factor = isinstance(others[0], Real) and not isinstance(others[0], bool)
        call = ", ".join([*needed, *[f"{factor}={others[0]}"] * is_factor])
        got = ", ".join(map(describe, others))
        raise TypeError(
            f"{name} takes {', '.join(needed)} by position and all else by name, got {got} too: write {name}({call})"
        )
    key, value = next(iter(foreign.items()))
    if key in _FACTORS:
        advice = "write weight=" if factor == "weight" else "write gamma=, which is twice the factor of the mean of |g|^2"
    else:
        other = _ELSEWHERE.get(key)
        advice = "leave it out" if other == "" else f"write {other}=" if other in options else f"it has {', '.join(options)}"
    raise TypeError(f"{name} has no argument {key}, got {key}={describe(value)}: {advice}")


def check_critic(critic: Any) -> None:
    """TypeError for what is no critic: its logits, its class, rows in its place."""
    if callable(critic) and not isinstance(critic, type):
        return
    hint = ", the critic itself, and comes before the rows, as in r1_penalty(critic, real)"
    if isinstance(critic, type):
        hint = f": write {critic.__name__}(...), an instance of it"
    raise TypeError(f"critic must be a module or another function, rows -> logits{hint}; got {describe(critic)}")


def check_tensor(name: str, rows: Any) -> None:
    """TypeError for what is no tensor."""
    if not isinstance(rows, Tensor):
        hint = _AS_ROWS.get(type(rows).__name__, "the critic comes first, and rows after it").format(name)
        raise TypeError(f"{name} must be a tensor of floating-point rows, [B, ...], got {describe(rows)}: {hint}")


def check_rows(name: str, rows: Any) -> None:
    """TypeError for what is no tensor of floating-point rows, ValueError where there are none."""
    check_tensor(name, rows)
    if not rows.is_floating_point():
        hint = f"scale it as the critic's images are, for example {name}.float() / 127.5 - 1"
        raise TypeError(f"{name} must be a tensor of floating-point rows, got {rows.dtype}: {hint}")
    if rows.dim() == 0 or rows.numel() == 0:
        raise ValueError(f"{name} has no rows, shape {tuple(rows.shape)}")


def check_pairs(real: Tensor, fake: Tensor) -> None:
    """ValueError for real and fake rows that do not go together one by one."""
    if real.shape != fake.shape:
        hint = "pass equally many, of one size"
        if real.shape[0] == fake.shape[0] and real.numel() == fake.numel():
            hint = "where both hold the same numbers in the same order, write fake.view_as(real)"
        raise ValueError(f"real and fake differ in shape, {tuple(real.shape)} and {tuple(fake.shape)}: {hint}")
    if real.device != fake.device:
        raise ValueError(f"real is on {real.device} and fake on {fake.device}: write fake.to(real.device)")


def as_alpha(alpha: Any, real: Tensor) -> Tensor:
    """The weights that a person passed, one for each row: a tensor of them, or a number or a 0-d tensor for all."""
    rows = real.shape[0]
    if not isinstance(alpha, Tensor):
        if isinstance(alpha, bool) or not isinstance(alpha, Real):
            raise TypeError(f"alpha must be a number in [0, 1] or a tensor of {rows} of them, got {describe(alpha)}")
        require(0 <= float(alpha) <= 1, f"alpha must be in [0, 1], got {alpha}")
        return real.new_full((rows,), float(alpha), dtype=torch.promote_types(real.dtype, torch.float32))
    if alpha.is_complex():
        raise TypeError(f"alpha must be a tensor of real numbers, got {alpha.dtype}")
    if alpha.dim() == 0:
        return alpha.detach().to(real.device).expand(rows)
    if alpha.shape[0] != rows or alpha.numel() != rows:
        hint = "one weight for all is a number or 0-d"
        if alpha.shape == real.shape:
            hint = "where each row repeats one weight, write alpha.flatten(1)[:, 0]"
        raise ValueError(f"alpha is one weight per sample, [{rows}] or [{rows}, 1, ...], got {tuple(alpha.shape)}: {hint}")
    require(alpha.device == real.device, f"alpha is on {alpha.device} and real on {real.device}: write alpha.to(real.device)")
    return alpha.detach()


def check_generator(generator: Any) -> None:
    """TypeError for what is no generator, such as its seed."""
    if generator is not None and not isinstance(generator, torch.Generator):
        hint = "write torch.Generator(real.device).manual_seed(seed)"
        raise TypeError(f"generator must be a torch.Generator, got {describe(generator)}: {hint}")


def check_method(method: Any) -> None:
    """ValueError for an unknown method."""
    if method not in ("auto", "autograd"):
        kind = ValueError if isinstance(method, str) else TypeError
        raise kind(f'method must be "auto" or "autograd", got {describe(method)}')


def as_select(select: Any) -> Callable[[Any], Tensor] | None:
    """What picks the logits out of a critic's output: a function as it is, or that of a key or a place."""
    if select is None or callable(select):
        return select
    if isinstance(select, (str, int)) and not isinstance(select, bool):
        return partial(_pick, key=select)
    raise TypeError(f'select must be a function, a key such as "logits" or a place such as 0, got {describe(select)}')


def _pick(output: Any, key: str | int) -> Any:
    if isinstance(output, Tensor):
        raise TypeError(f"the critic returned one tensor, so that there is nothing to pick by select={key!r}: leave it out")
    try:
        return getattr(output, key) if isinstance(key, str) and not hasattr(output, "keys") else output[key]
    except (AttributeError, LookupError, TypeError):
        found = f" with the keys {', '.join(map(repr, output.keys()))}" if hasattr(output, "keys") else ""
        raise ValueError(f"select={key!r} is not in what the critic returned, a {type(output).__name__}{found}") from None
