"""What CONTRIBUTING.md says of files is true of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
ROW = re.compile(r"^\| ([^|`]+) \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
WHERE = ROW.findall(TEXT)


@pytest.mark.parametrize(("question", "word", "file"), WHERE, ids=[question.strip() for question, _, _ in WHERE])
def test_the_word_is_in_the_file(question: str, word: str, file: str) -> None:
    assert word in (ROOT / file).read_text(), f"{question}: {file} does not have {word!r}"


def test_there_is_a_row_for_each_question() -> None:
    assert len(WHERE) == 24 and len({question for question, _, _ in WHERE}) == 24


def test_paths_exist() -> None:
    paths = re.findall(r"`((?:fastgan|csrc|kernels|benchmarks|tests|docs)/[\w/.-]+)`", TEXT)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert paths and not missing


RECIPES = re.findall(r"^### ([^\n]+) \((\d+)\)\n\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
LIMITS = {"A kind of loss, of a form that the kernels have": 4, "A kind of loss of a new form": 7, "An optimizer": 5}


def test_recipes_keep_their_limits() -> None:
    counts = {name: int(count) for name, count, _ in RECIPES}
    assert len(counts) == 9 and all(counts[name] <= limit for name, limit in LIMITS.items())


@pytest.mark.parametrize("name", ["A kind of loss, of a form that the kernels have", "A penalty", "An optimizer", "A data set"])
def test_a_recipe_counts_the_files_that_its_steps_name(name: str) -> None:
    count, text = next((count, text) for recipe, count, text in RECIPES if recipe == name)
    steps = re.findall(r"^\d\. .*(?:\n   .*)*", text, re.MULTILINE)
    assert int(count) == len(steps) == len(set(re.findall(r"^\d\. `((?:fastgan|csrc|kernels)/[^`]+)`", text, re.MULTILINE)))
