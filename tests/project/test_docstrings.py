"""Documentation of everything public: a docstring says what goes in, what comes out, what is raised, and its example runs.

The form is Google's: sections Args, Returns (Yields for a generator), Raises and Example, in this order. An entry of Args or
Raises may name several, `real, fake: ...`. A method shares its class's example, and one that overrides a method of fastgan's
shares its text, as far as it fits. A property needs a line.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

import fastgan

pytestmark = pytest.mark.usefixtures("one_thread")

ORDER = ("Args", "Returns", "Yields", "Raises", "Example")
ENTRY = re.compile(r" {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*): \S")
NOTHING = (None, "None", "Iterator[None]")  # the last of a context manager that has no value
CONSTRUCTORS = ("__init__", "__new__", "__post_init__", "__init_subclass__")
STARS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


class Public(NamedTuple):
    """Something public: where a reader finds it, a function or a class, and the class whose method or property it is."""

    module: ModuleType
    value: Any
    owner: type | None = None
    is_property: bool = False

    @property
    def name(self) -> str:
        parts = [self.module.__name__, *([self.owner.__name__] if self.owner else []), self.value.__name__]
        return ".".join(parts)

    @property
    def is_class(self) -> bool:
        return isinstance(self.value, type)


def is_ours(value: Any) -> bool:
    return value.__module__.partition(".")[0] == "fastgan"


def exported(module: ModuleType) -> list[str]:
    """The names in a module's __all__; without one, those of its classes and functions that have no underscore."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    defined = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return [name for name in defined if not name.startswith("_")]


def public_modules() -> list[ModuleType]:
    """fastgan's public modules; last fastgan itself, most of whose names are found in one of them already."""
    return [*filter(inspect.ismodule, (getattr(fastgan, name) for name in fastgan.__all__)), fastgan]


def members(module: ModuleType, cls: type) -> Iterator[Public]:
    """The methods and properties of a class that fastgan defines; to call an object is public too."""
    for base in filter(is_ours, cls.__mro__):
        for name, value in vars(base).items():
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if inspect.isfunction(function) and (name == "__call__" or not name.startswith("_")):
                yield Public(module, function, base, isinstance(value, property))


def everything() -> list[Public]:
    """All that is public, once each."""
    found: dict[int, Public] = {}
    for module in public_modules():
        for value in (getattr(module, name) for name in exported(module)):
            if inspect.isfunction(value) or isinstance(value, type):
                inside = members(module, value) if isinstance(value, type) else ()
                for item in (Public(module, value), *inside):
                    found.setdefault(id(item.value), item)
    return list(found.values())


def text_of(item: Public) -> str:
    """The docstring; of a method without one, that of the method of fastgan's that it overrides."""
    bases = filter(is_ours, item.owner.__mro__) if item.owner else ()
    values = [item.value, *(vars(base).get(item.value.__name__) for base in bases)]
    return next((inspect.cleandoc(value.__doc__) for value in values if value is not None and value.__doc__), "")


def sections(text: str) -> dict[str, list[str]]:
    """The lines of each section that are not empty."""
    found: dict[str, list[str]] = {}
    lines = found.setdefault("", [])
    for line in filter(None, text.splitlines()):
        if match := re.fullmatch(r"(\w+):", line):
            lines = found.setdefault(match[1], [])
        else:
            lines.append(line)
    return found


def entries(lines: list[str]) -> list[str]:
    """The names that a section explains; a line that neither begins nor continues an entry counts as an unknown name."""
    found: list[str] = []
    for line in lines:
        if match := ENTRY.match(line):
            found += match[1].split(", ")
        elif not (found and line.startswith(" " * 8)):
            found.append(line.strip())
    return found


def parameters(item: Public) -> list[str]:
    """The parameters, by the names that Args has for them; none for a constructor of torch's or Python's, which document it."""
    if item.is_property:
        return []
    if item.is_class:
        makers = (base for base in item.value.__mro__ if "__init__" in vars(base) or "__new__" in vars(base))
        if not is_ours(next(makers)):
            return []
    found = [STARS.get(p.kind, "") + name for name, p in inspect.signature(item.value).parameters.items()]
    return [name for name in found if item.owner is None or name not in ("self", "cls")]


def raised(item: Public) -> list[str]:
    """What is raised in a function's own body, or in a class's constructors; "?" where the statement does not name it."""
    functions = [vars(item.value).get(name) for name in CONSTRUCTORS] if item.is_class else [item.value]
    plain = [getattr(function, "__func__", function) for function in functions if function is not None]
    written = [function for function in plain if Path(function.__code__.co_filename).is_file()]  # not by dataclass
    return [name for function in written for name in raised_in(inspect.unwrap(function))]


def raised_in(function: Callable) -> Iterator[str]:
    definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    waiting = list(ast.iter_child_nodes(definition))
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Raise):
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            yield error.id if isinstance(error, ast.Name) and error.id[0].isupper() else "?"
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


def result_of(item: Public) -> str:
    """The section that says what comes out; "" where nothing does, or where a property's annotation says it."""
    if item.is_class or item.is_property:
        return ""
    annotation = inspect.signature(item.value).return_annotation
    if annotation in NOTHING:
        return ""
    return "Yields" if inspect.isgeneratorfunction(inspect.unwrap(item.value)) else "Returns"


def is_plain_exception(item: Public) -> bool:
    """Whether it is an exception with nothing of its own: the example that shows it may be that of what raises it."""
    is_exception = item.is_class and issubclass(item.value, BaseException)
    return is_exception and not any(map(inspect.isfunction, vars(item.value).values()))


def problems(item: Public) -> list[str]:
    """What a docstring lacks, and what it has too much."""
    text = text_of(item)
    if not text:
        return ["no docstring"]
    found = sections(text)
    wrong = [f"{name}: no section" for name in found if name not in ("", *ORDER)]
    order = [name for name in found if name in ORDER]
    if order != sorted(order, key=ORDER.index):
        wrong.append(f"sections in the order {', '.join(order)}")
    explained, taken = entries(found.get("Args", [])), parameters(item)
    wrong += [f"Args without {name}" for name in taken if name not in explained]
    wrong += [f"Args with {name}" for name in explained if name not in taken]
    if (result := result_of(item)) and not found.get(result):
        wrong.append(f"no {result}")
    errors = entries(found.get("Raises", []))
    wrong += [f"Raises without {name}" for name in raised(item) if name not in errors and not (name == "?" and errors)]
    wrong += [f"Raises with {name}" for name in errors if not re.fullmatch(r"[A-Z]\w+", name)]
    is_shown = any(line.lstrip().startswith(">>> ") for line in found.get("Example", []))
    if item.owner is None and not is_shown and not is_plain_exception(item):
        wrong.append("no Example")
    return wrong


PUBLIC = everything()
EXAMPLES = [item for item in PUBLIC if "Example" in sections(text_of(item))]


@pytest.mark.parametrize("item", PUBLIC, ids=lambda item: item.name)
def test_it_is_documented(item: Public) -> None:
    assert not problems(item)


@pytest.mark.parametrize("item", EXAMPLES, ids=lambda item: item.name)
def test_its_example_runs(item: Public, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch, fastgan and the names that the item's module exports, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "fastgan": fastgan} | {name: getattr(item.module, name) for name in exported(item.module)}
    text = "\n".join(sections(text_of(item))["Example"])
    example = doctest.DocTestParser().get_doctest(textwrap.dedent(text), names, item.name, None, None)
    assert not any("import " in part.source for part in example.examples), "it uses what is there"
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert result.attempted and not result.failed, "".join(said)


def test_every_exception_is_shown() -> None:
    shown = "\n".join(line for item in EXAMPLES for line in sections(text_of(item))["Example"])
    plain = [item.value.__name__ for item in PUBLIC if is_plain_exception(item)]
    assert not [name for name in plain if name not in shown]


def test_it_looks_everywhere() -> None:
    names = {item.name.removeprefix("fastgan.") for item in PUBLIC}
    assert names >= {"losses.hinge_g_loss", "losses.GANLoss.forward", "data.ImageSet.size", "optim.Schedule.__call__"}
    assert names >= {"mlp.MLP.from_sequential", "models.Network.config", "layers.drawing", "Trainer", "Trainer.load"}
    assert not [name for name in names if "._" in name and "__call__" not in name]


def one(function: Callable) -> list[str]:
    return problems(Public(fastgan, function))


def test_a_parameter_without_a_line_is_found() -> None:
    def documented(real, fake, *more, scale=1.0, **options) -> int:
        """Adds.

        Args:
            real, fake: numbers,
                of any size.
            *more: others.
            scale: a factor.
            **options: what is left.

        Returns:
            The sum.

        Raises:
            ValueError: no number.

        Example:
            >>> 1 + 1
            2
        """
        raise ValueError

    assert one(documented) == []
    text = documented.__doc__
    for gone, problem in (
        ("    scale: a factor.\n        ", "Args without scale"),
        ("*more: others.", "Args without *more"),
        (", fake", "Args without fake"),
        ("Returns:\n            The sum.", "no Returns"),
        ("ValueError: no number.", "Raises without ValueError"),
        (">>> 1 + 1", "no Example"),
    ):
        documented.__doc__ = text.replace(gone, "")
        assert problem in one(documented)
    documented.__doc__ = text.replace("scale: a", "scales: a")
    assert one(documented) == ["Args without scale", "Args with scales"]
    documented.__doc__ = text.replace("Args", "Arguments")
    assert "Arguments: no section" in one(documented)
    documented.__doc__ = None
    assert one(documented) == ["no docstring"]
