"""Metadata that must agree, and builds with and without a compiler."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import pickle
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from setuptools.config.pyprojecttoml import read_configuration

import fastgan
from fastgan.ops.backend import cuda_problem

ROOT = Path(__file__).resolve().parent.parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILT_FROM = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "fastgan", "kernels", "csrc")


def run(*command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTGAN_") and name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=600)


def test_the_version_is_one() -> None:
    """What a build reads is what the package says."""
    assert fastgan.__version__ == read_configuration(ROOT / "pyproject.toml")["project"]["version"]


def test_every_package_is_listed() -> None:
    folders = {path.parent for path in (ROOT / "fastgan").rglob("*.py")}
    found = {folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders} | {"fastgan.kernels"}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found


def test_constraints_pin_every_requirement_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines), "exact versions alone"
    pins = {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    for text in [*PYPROJECT["build-system"]["requires"], *project["dependencies"], *extras["dev"], *extras["triton"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


def modules_inside() -> set[str]:
    """fastgan's own modules and packages, the kernels among them."""
    inside = (ROOT / "fastgan").iterdir()
    found = {path.stem for path in inside if path.suffix == ".py" or (path / "__init__.py").exists()}
    return found - {"__init__", "__main__", "_version"} | {"kernels"}


def test_every_name_is_an_attribute_of_the_package() -> None:
    for name in [*fastgan.__all__, *modules_inside() - {"cli"}]:
        assert getattr(fastgan, name) is not None and name in dir(fastgan)
    assert fastgan.engines.__name__ == "fastgan.engines"
    assert fastgan.Trainer is importlib.import_module("fastgan.training.trainer").Trainer


def test_type_checkers_are_told_every_name() -> None:
    """What stands under TYPE_CHECKING is what __getattr__ finds; `kernels` is another folder, unknown to them."""
    tree = ast.parse((ROOT / "fastgan" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    told = {name.name for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert told == {*fastgan.__all__, *modules_inside()} - {"__version__", "kernels", "cli"}


def test_an_unknown_name_is_an_attribute_error_with_advice() -> None:
    with pytest.raises(AttributeError, match="module 'fastgan' has no attribute 'Trainr'") as found:
        fastgan.Trainr  # noqa: B018
    assert found.value.name == "Trainr" and found.value.obj is fastgan, "from which Python takes its 'Did you mean'"
    with pytest.raises(ImportError, match="cannot import name 'Trainr'"):
        from fastgan import Trainr  # noqa: F401


def test_what_replaces_a_name_is_seen_only_while_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = fastgan.Trainer
    with monkeypatch.context() as patch:
        patch.setattr("fastgan.training.trainer.Trainer", "another")
        assert fastgan.Trainer == "another"
    assert fastgan.Trainer is trainer
    with monkeypatch.context() as patch:
        patch.setattr("fastgan.Trainer", "another")
        assert fastgan.Trainer == "another"
    assert fastgan.Trainer is trainer


def test_pickles_and_reloads_give_the_same_names() -> None:
    before = {name: getattr(fastgan, name) for name in fastgan.__all__}
    assert pickle.loads(pickle.dumps(before["Generator"])) is before["Generator"]
    assert importlib.reload(fastgan) is fastgan
    assert {name: getattr(fastgan, name) for name in fastgan.__all__} == before


def test_a_checkout_takes_its_own_kernels(tmp_path: Path) -> None:
    """Where another one is installed in place, an import of fastgan.kernels would find that one's."""
    for name in ("fastgan", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    script = "import fastgan, fastgan.kernels; print(fastgan.__file__, fastgan.kernels.__file__)"
    done = run(sys.executable, "-c", script, folder=tmp_path, PYTHONPATH=str(tmp_path))
    files = [str(tmp_path / name / "__init__.py") for name in ("fastgan", "kernels")]
    assert done.returncode == 0 and done.stdout.split() == files


def names_of_upgrading() -> Iterator[tuple[str, str, bool]]:
    """(cell, a dotted name in it written out, whether that is the new one) of the tables of docs/upgrading.md."""
    starts = {"ops.": "fastgan.ops.", "Penalty.": "fastgan.penalties.Penalty.", "python -m ": ""}
    for row in re.findall(r"^\| (`.*) \| (.*) \|$", (ROOT / "docs" / "upgrading.md").read_text(), re.MULTILINE):
        for is_new, cell in enumerate(row):
            for text in re.findall(r"`([^`]+)`", cell):
                name = re.sub(r"\(.*", "", text)
                for short, long in starts.items():
                    name = long + name.removeprefix(short) if name.startswith(short) else name
                if name.startswith(("fastgan.", "benchmarks.", "torch.ops.")):
                    yield cell, name, bool(is_new)


def is_there(name: str) -> bool:
    """Whether a dotted name is a module or in one."""
    if name.startswith("benchmarks."):
        return any((ROOT / name.replace(".", "/")).with_suffix(suffix).exists() for suffix in ("", ".py"))
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_the_upgrading_page_leads_to_what_is_there(requires_extension: None) -> None:
    names = list(names_of_upgrading())
    missing = [f"{name} in: {cell}" for cell, name, is_new in names if is_new and not is_there(name)]
    assert len(names) > 100 and not missing, "\n".join(missing)


def test_what_the_upgrading_page_calls_old_is_gone(requires_extension: None) -> None:
    kept = {name for _, name, is_new in names_of_upgrading() if is_new}
    kept |= {"fastgan.ops.backend.BackendUnavailable", "fastgan.chain"}  # the same name, and a package of the same name
    left = {name for cell, name, is_new in names_of_upgrading() if not is_new and is_there(name)}
    assert left <= kept


def test_dotted_names_in_docs_are_there(requires_extension: None) -> None:
    pages = [page for page in (ROOT / "docs").glob("*.md") if page.name != "upgrading.md"]
    pages += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "NOTES.md"]
    dotted = re.compile(r"`(?:python -m )?((?:fastgan|benchmarks)(?:\.\w+)+)")
    names = [(page.name, name) for page in pages for name in dotted.findall(page.read_text())]
    missing = [f"{page}: {name}" for page, name in names if not is_there(name)]
    assert len(names) > 20 and not missing, "\n".join(missing)


@pytest.mark.slow
def test_the_api_reference_has_every_public_name(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    done = run(sys.executable, "docs/reference.py", str(tmp_path), folder=ROOT, PYTHONPATH=str(ROOT))
    assert done.returncode == 0 and not done.stderr, done.stderr
    pages = {page.relative_to(tmp_path).as_posix(): page.read_text() for page in tmp_path.rglob("*.html")}
    assert {"fastgan.html", "fastgan/losses.html", "fastgan/training/trainer.html", "fastgan/ops/reference/loss.html"} <= set(
        pages
    )
    names = [name for name in fastgan.__all__ if name != "__version__" and not inspect.ismodule(getattr(fastgan, name))]
    assert not [name for name in names if f'id="{name}"' not in pages["fastgan.html"]]
    assert not [name for name in fastgan.losses.__all__ if f'id="{name}"' not in pages["fastgan/losses.html"]]


@pytest.mark.slow
def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, fastgan; print(sorted(name for name in sys.modules if name.partition('.')[0] in sys.argv[1:]))"
    done = run(sys.executable, "-c", code, "fastgan", "torch", "triton", "numpy", folder=ROOT)
    assert set(ast.literal_eval(done.stdout)) <= {"fastgan", "fastgan._version"}, done.stderr


@pytest.mark.slow
def test_kernels_is_found_in_a_checkout_that_is_not_installed() -> None:
    """-S: no packages are installed for this interpreter, neither fastgan nor torch nor Triton."""
    code = "import fastgan, sys; print(fastgan.kernels.__file__, 'torch' in sys.modules); import fastgan.kernels.tiles"
    done = run(sys.executable, "-S", "-c", code, folder=ROOT)
    assert done.stdout.split() == [str(ROOT / "kernels" / "__init__.py"), "False"], done.stderr


@pytest.mark.slow
def test_kernels_is_a_part_of_fastgan_and_nothing_else() -> None:
    code = """
from fastgan import kernels
print(kernels.__name__)
try:
    import kernels
except ImportError as error:
    print(error)
"""
    lines = run(sys.executable, "-c", code, folder=ROOT).stdout.splitlines()
    assert lines[0] == "fastgan.kernels"
    assert lines[1].startswith("import fastgan.kernels instead")


def test_kernels_of_the_cpu_know_no_torch() -> None:
    """They compile and run without it: tests/native does that."""
    files = [*(ROOT / "csrc" / "cpu").glob("*.*"), ROOT / "csrc" / "logit_loss.h", ROOT / "csrc" / "objective.h"]
    included = {(path.name, name) for path in files for name in re.findall(r"#include [<\"](.+?)[>\"]", path.read_text())}
    assert len(included) > 30
    assert not [each for each in included if re.match(r"torch/|ATen/|c10/|Python\.h", each[1])]


def test_the_extension_is_bound_to_no_torch_and_no_python(requires_extension: None) -> None:
    """What it needs is the stable C interfaces of LibTorch and Python, the C and C++ libraries, and OpenMP's."""
    if cuda_problem() is None:
        pytest.skip("with csrc/cuda the extension is bound to the torch that it was compiled with")
    spec = importlib.util.find_spec("fastgan._C")
    assert spec is not None and spec.origin is not None
    table = subprocess.run(["nm", "-D", "--undefined-only", spec.origin], check=True, capture_output=True, text=True).stdout
    needed = {line.split()[-1].partition("@")[0] for line in table.splitlines()}
    assert {"torch_library_impl", "PyModule_Create2"} <= needed
    unstable = re.compile(r"_Z.*(2at|3c10|5torch|8c10)|_?Py_?[a-z_]|THP")  # names of namespaces as C++ writes them
    assert not [name for name in needed if unstable.match(name)]
    of_torch = {name for name in needed if re.match(r"aoti_|torch_", name)}
    newer = {"torch_library_def_with_tags", "torch_library_set_python_module", "torch_exception_get_what"}
    assert len(of_torch) > 10 and not of_torch & newer, "nothing that torch 2.11 lacks"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the package is built from, with one small C++ file instead of all."""
    for name in BUILT_FROM:
        if (source := ROOT / name).is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.cpp", "*.cu"))
        elif source.exists():
            shutil.copy(source, tmp_path / name)
    (tmp_path / "csrc" / "bindings.cpp").write_text('extern "C" int fastgan_probe() { return 1; }\n')
    return tmp_path


def build(tree: Path, **environment: str) -> tuple[int, list[Path], str]:
    result = run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", folder=tree, **environment)
    return result.returncode, list((tree / "fastgan").glob("_C*")), result.stdout + result.stderr


@pytest.mark.slow
def test_the_extension_is_built_in_place_and_the_terminal_stays_quiet(tree: Path, requires_extension: None) -> None:
    with (tree / "csrc" / "bindings.cpp").open("a") as file:
        file.write('#warning "a word of the compiler"\n')
    code, built, output = build(tree, FASTGAN_REQUIRE_EXT="1", FASTGAN_SKIP_EXT="0")
    assert code == 0, output
    assert [path.name for path in built] == ["_C.abi3.so"]
    first, *rest = output.splitlines()
    assert first == "fastgan: compiling 1 C++ source, 1 at a time, about 1 min"
    assert "a word of the compiler" in output, "what the compiler says is shown"
    assert len(rest) <= 6 and "-fPIC" not in output, "its commands are not"
    assert build(tree, FASTGAN_REQUIRE_EXT="1")[::2] == (0, ""), "nothing is left to compile"


@pytest.mark.slow
def test_without_a_compiler_the_package_is_pure_python_and_says_so_once(tree: Path) -> None:
    code, built, output = build(tree, CXX="/bin/false", CC="/bin/false", FASTGAN_REQUIRE_EXT="0")
    assert code == 0, output
    assert built == []
    assert output.count("fastgan: building without the C++ extension") == 1


@pytest.mark.slow
def test_a_required_extension_that_does_not_build_is_an_error(tree: Path) -> None:
    code, built, output = build(tree, CXX="/bin/false", CC="/bin/false", FASTGAN_REQUIRE_EXT="1")
    assert code != 0
    assert built == []
    assert "FASTGAN_REQUIRE_EXT is set" in output


@pytest.mark.slow
def test_without_torch_the_package_is_pure_python(tree: Path) -> None:
    (tree / "torch.py").write_text("raise ImportError('no torch here')\n")
    code, built, output = build(tree, PYTHONPATH=str(tree))
    assert (code, built) == (0, []), output
    assert "torch cannot be imported (no torch here)" in output
    code, _, output = build(tree, PYTHONPATH=str(tree), FASTGAN_REQUIRE_EXT="1")
    assert code != 0, output


@pytest.mark.slow
def test_the_extension_can_be_left_out(tree: Path) -> None:
    code, built, output = build(tree, FASTGAN_SKIP_EXT="1")
    assert (code, built) == (0, []), output
