"""Names are the field's own words: no identifier, file name, heading or first line of a docstring uses these private ones."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# with what the field calls it
PRIVATE = {
    r"judg(e|es|ed|ing)": "loss and gradients, critic logits",
    r"deal(s|er|ers|ing|t)?": "input loader",
    r"hands": "critic passes",
    r"pric(e|es|ed|ing)": "penalty value, penalized",
    r"push(es|ed|ing)?": "penalty gradient",
    r"ow(e|es|ed|ing)": "loss sum, accumulate",
    r"payments?": "logit loss",
    r"settl(e|es|ed|ing)": "flush",
    r"doubts?": "finite check",
    r"meet(s|ing)?": "reduce, barrier",
    r"rooms?": "buffer, workspace",
}
WORD = re.compile("|".join(f"(?:{word})" for word in PRIVATE))
THEIRS = {"push_back", "push_options"}  # of C++
FOLDERS = ("fastgan", "kernels", "csrc", "benchmarks", "tests", "examples", "docs")
CPP = {".cpp", ".cu", ".h"}


def files(*suffixes: str) -> list[Path]:
    """The project's files with these suffixes, apart from stored results."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    return sorted([*found, *(path for path in ROOT.glob("*") if path.suffix in suffixes)])


def words(identifier: str) -> list[str]:
    """penaltyValue_2 -> penalty, value"""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)]


def private(identifiers: Iterator[str]) -> list[str]:
    """Those of the identifiers that have a private word in them."""
    found = {name for name in identifiers if name not in THEIRS and any(WORD.fullmatch(word) for word in words(name))}
    return sorted(found)


def python_identifiers(text: str) -> Iterator[str]:
    """Names in code; those in strings and comments are no identifiers."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.string


def cpp_identifiers(text: str) -> Iterator[str]:
    """Names in code, of operators' schemas too, which are strings."""
    yield from re.findall(r"[A-Za-z_]\w*", re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL))


def first_lines(text: str) -> Iterator[str]:
    """The first line of each docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield (ast.get_docstring(node) or "").partition("\n")[0]


@pytest.mark.parametrize("path", files(".py", *CPP), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_identifiers(path: Path) -> None:
    text = path.read_text()
    found = private(cpp_identifiers(text) if path.suffix in CPP else python_identifiers(text))
    assert not found, f"{found}: say {PRIVATE}"
    assert not private(iter(path.relative_to(ROOT).parts)), "a file's name"


def test_headings_and_first_lines_of_docstrings() -> None:
    wrong = []
    for path in files(".py", ".md"):
        text = path.read_text()
        lines = first_lines(text) if path.suffix == ".py" else re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        wrong += [f"{path.relative_to(ROOT)}: {line}" for line in lines if any(WORD.fullmatch(word) for word in words(line))]
    assert not wrong, "\n".join(wrong)


def test_the_reader_tells_words_from_parts_of_words() -> None:
    names = iter(["judge_all", "_lastPrice", "PRICES", "push_back", "owner", "showed", "dealt", "broom", "meeting", "handle"])
    assert private(names) == ["PRICES", "_lastPrice", "dealt", "judge_all", "meeting"]
    assert list(cpp_identifiers("int a; // meet\n/* owe\n*/ f(b)")) == ["int", "a", "f", "b"]
    assert list(first_lines('"""One.\n\nTwo."""\ndef f():\n    """Three."""')) == ["One.", "Three."]
