"""Builds fastgan._C, the C++ (and CUDA) operators, against the torch that is installed; pure Python where that cannot be.

    pip install --no-build-isolation .     with the extension
    pip install .                          an isolated build has no torch: pure Python

Environment: FASTGAN_REQUIRE_EXT=1 makes a build without the extension an error, FASTGAN_SKIP_EXT=1 leaves it out,
FORCE_CUDA=1 or TORCH_CUDA_ARCH_LIST compile csrc/cuda on a machine without a GPU, MAX_JOBS bounds the compiler processes.
"""

import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import setup

# of one core, for a source of each kind, and for those that take much longer
SECONDS = {".cpp": 2.0, "bindings.cpp": 7.0, "loss_rows.cpp": 7.0, "update.cpp": 12.0, "loss.cpp": 15.0}
SECONDS |= {f"{name}.cpp": 12.0 for name in ("avx2", "avx512", "avx512_bf16", "portable")}
SECONDS |= {".cu": 60.0, "loss.cu": 120.0}
NINJA = re.compile(r"\[\d+/\d+\] |ninja: (no work to do|Entering directory)")
METADATA_COMMANDS = {"egg_info", "dist_info", "sdist", "clean"}


def flag(name):
    return os.environ.get(name, "") not in ("", "0")


def fall_back(reason):
    """Go on without the extension, saying so, or stop when it is required."""
    if METADATA_COMMANDS.isdisjoint(sys.argv):
        if flag("FASTGAN_REQUIRE_EXT"):
            raise SystemExit(f"fastgan: FASTGAN_REQUIRE_EXT is set, but the C++ extension cannot be built: {reason}")
        print(f"fastgan: building without the C++ extension: {reason}", file=sys.stderr)
    return {}


def set_cuda_home():
    """Where nvcc on PATH is a script, asks nvcc itself for the toolkit: torch takes the folder above the script for it."""
    nvcc = shutil.which("nvcc")
    known = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if known or not nvcc or (Path(nvcc).parent.parent / "include" / "cuda_runtime.h").exists():
        return
    plan = subprocess.run([nvcc, "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    if found := re.search(r"^#\$ TOP=(.+)$", plan, re.MULTILINE):
        os.environ["CUDA_HOME"] = str(Path(found[1]).resolve())


def with_cuda(torch, cuda_home):
    """Whether csrc/cuda is compiled: torch has CUDA, nvcc is there, and some device is present or asked for."""
    if not (torch.version.cuda and cuda_home and any(Path("csrc/cuda").glob("*.cu"))):
        return False
    if torch.cuda.is_available() or os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return True
    if flag("FORCE_CUDA"):
        os.environ["TORCH_CUDA_ARCH_LIST"] = "8.0;9.0+PTX"  # without a device and a list torch fails
    return flag("FORCE_CUDA")


def stale(sources, headers, objects):
    """The sources that are about to be compiled: new or changed ones, and all of them after a change of a header."""
    made = [(source, objects / source.with_suffix(".o")) for source in sources]
    times = {path: path.stat().st_mtime for path in (*sources, *headers, *(o for _, o in made if o.exists()))}
    # ninja compiles what includes a changed header: the newest object is then newer than the header, others need not be
    last = max((times[o] for _, o in made if o in times), default=0.0)
    changed = any(times[path] > last for path in headers)
    return [source for source, o in made if changed or o not in times or times[o] < times[source]]


def seconds(source):
    """About how long a source takes to compile."""
    return SECONDS.get(source.name, SECONDS[source.suffix])


def announcement(sources, jobs):
    """What is compiled, and about how long that takes."""
    minutes = max(1, round(max(*map(seconds, sources), sum(map(seconds, sources)) / jobs) / 60.0))
    counts = {kind: sum(path.suffix == suffix for path in sources) for kind, suffix in (("C++", ".cpp"), ("CUDA", ".cu"))}
    kinds = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return f"fastgan: compiling {kinds} source{'s' * (len(sources) > 1)}, {jobs} at a time, about {minutes} min"


@contextlib.contextmanager
def without_commands():
    """Keeps ninja's lines of commands from the terminal; what the compiler says is shown once all is done, or has failed."""
    sys.stdout.flush()
    terminal = os.dup(1)
    with tempfile.TemporaryFile("w+") as said:
        os.dup2(said.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(terminal, 1)
            os.close(terminal)
            said.seek(0)
            sys.stdout.writelines(line for line in said if not NINJA.match(line))
            sys.stdout.flush()


def forgiving(build_extension):
    """torch's BuildExtension, but a failed build leaves a pure Python package; Extension(optional=True) raises under ninja."""

    class Build(build_extension):
        def build_extensions(self):
            (extension,) = self.extensions
            sources, headers = list(map(Path, extension.sources)), list(map(Path, extension.depends))
            sources = stale(sources, headers, Path(self.build_temp))
            if sources:
                jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
                print(announcement(sources, min(jobs, len(sources))), flush=True)
            try:
                with without_commands():
                    super().build_extensions()
            except Exception as error:
                fall_back(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
                self.extensions = []  # nothing to copy or to install

        def build_extension(self, extension):
            """What takes longest does not come last: setuptools sorts sources by name, and ninja begins in their order."""
            compile = self.compiler.compile
            self.compiler.compile = lambda sources, **options: compile(
                sorted(sources, key=lambda source: seconds(Path(source)), reverse=True), **options
            )
            super().build_extension(extension)

    return Build


def optimization(compiler):
    """Of gcc, -O3's vector code without the rest of -O3, which makes nothing faster here and takes it half as long again."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout if shutil.which(compiler) else ""
    if "Free Software Foundation" not in version:
        return ["-O3"]
    return ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-funswitch-loops"]


def extension_arguments():
    """The keywords of setup() that build fastgan._C."""
    if flag("FASTGAN_SKIP_EXT"):
        return {}
    set_cuda_home()
    # it warns of a toolkit without a device, which is how every machine without a GPU builds
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension, get_cxx_compiler
    except ImportError as error:
        return fall_back(f"torch cannot be imported ({error})")
    cuda = with_cuda(torch, CUDA_HOME)
    sources = [Path("csrc/bindings.cpp"), *Path("csrc/cpu").rglob("*.cpp")]
    sources += Path("csrc/cuda").glob("*.cu") if cuda else []
    missing = [str(path) for path in sources if not path.exists()]
    if missing:
        return fall_back(f"no {missing[0]}")
    # -fopenmp goes to the compiler alone: linked without it, the extension uses the OpenMP library that torch has loaded
    openmp = ["-fopenmp"] if sys.platform == "linux" else []
    cxx = [*optimization(get_cxx_compiler()), "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-g0", *openmp]
    extension = (CUDAExtension if cuda else CppExtension)(
        "fastgan._C",
        [path.as_posix() for path in sources],
        depends=[path.as_posix() for path in sorted(Path("csrc").rglob("*.h"))],
        extra_compile_args={"cxx": cxx, "nvcc": ["-O3"]},
        py_limited_api=True,  # and without libtorch_python, which is no part of the stable ABI
    )
    # one wheel for Python 3.11 and torch 2.11, and all that follow; with csrc/cuda, for the torch it was compiled with
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": forgiving(BuildExtension)},
        "options": {"bdist_wheel": {"py_limited_api": "cp311"}},
    }


os.chdir(Path(__file__).resolve().parent)
setup(**extension_arguments())
