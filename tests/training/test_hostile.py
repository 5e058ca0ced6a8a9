"""Damaged and hostile checkpoints: a CheckpointError of one line, soon and in little memory, and an older one is taken."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastgan import Trainer, cli
from fastgan.training import checkpoint
from fastgan.training.checkpoint import Checkpoint
from tests.training.runs import POINTS, assert_refused, critic, generator, trained, weights_of

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

MEMORY = 2**30  # bytes that reading a small checkpoint may take besides what the process has
NESTED: list[Any] = []
for _ in range(40):  # 10 lists of 10 lists of ...: few bytes, and a text without end
    NESTED = [NESTED] * 10


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with whole checkpoints of steps 0, 2 and 4."""
    out = tmp_path_factory.mktemp("hostile") / "run"
    torch.manual_seed(0)
    trainer = Trainer(generator(), critic(), seed=3, ema=0.5, device="cpu")
    trainer.fit(POINTS, steps=4, batch_size=4, out=out, checkpoint_every=2, sample_every=0, progress=False)
    return out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run, with a newest checkpoint that may be changed."""
    for step, how in ((2, os.link), (4, shutil.copy)):
        place = checkpoint.step_folder(Path("checkpoints"), step)
        shutil.copytree(run / place, tmp_path / "run" / place, copy_function=how)
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """What takes gigabytes fails here."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def seal(place: Path) -> None:
    """A manifest with the sums of what is there."""
    sums = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in place.iterdir() if file.name != "manifest.json"
    }
    (place / "manifest.json").write_text(json.dumps({"format": 1, "sha256": sums}))


def load(place: Path) -> Trainer:
    return Trainer.load(place, generator(), critic(), device="cpu")


def assert_passed_over(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The newest checkpoint is refused, and the run is read by the one before, with a warning that names the newest."""
    newest = max((run / "checkpoints").iterdir())
    assert_refused(lambda: load(newest))
    caplog.clear()
    assert load(run).step_count == 2
    assert [record.message.count(newest.name) > 0 for record in caplog.records] == [True]


# what the manifest is, and what it says


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def instead(file: Path) -> None:
        file.unlink()
        make(file)

    return instead


def as_socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        folder = os.open(file.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{folder}/{file.name}")
        os.close(folder)


KINDS: dict[str, Callable[[Path], object]] = {
    "absent": Path.unlink,
    "a FIFO": replaced(os.mkfifo),
    "a socket": replaced(as_socket),
    "a folder": replaced(Path.mkdir),
    "/dev/zero": replaced(lambda file: file.symlink_to("/dev/zero")),
    "a link to itself": replaced(lambda file: file.symlink_to(file.name)),
    "a link to nothing": replaced(lambda file: file.symlink_to("nowhere")),
    "50 GB of nothing": lambda file: os.truncate(file, 50 << 30),
    "behind 50 GB of nothing": lambda file: _behind(file, 50 << 30),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
}


def _behind(file: Path, place: int) -> None:
    data = file.read_bytes()
    with file.open("r+b") as stream:
        stream.seek(place)
        stream.write(data)


@pytest.mark.parametrize("file", ["manifest.json", "config.json", "state.pt", "generator.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_or_size(kind: str, file: str, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = copy / "checkpoints" / "step_00000004"
    KINDS[kind](newest / file)
    if file == "manifest.json" and kind == "absent":
        caplog.clear()
        assert load(copy).step_count == 2 and "step_00000004" in caplog.text
        return
    assert_passed_over(copy, caplog)
    assert checkpoint.latest(copy / "checkpoints") == copy / "checkpoints" / "step_00000002"
    assert checkpoint.find(copy).name == "step_00000002"
    assert "memory" not in assert_refused(lambda: checkpoint.verify(newest)), "its size was looked at before"


def test_a_file_that_stands_elsewhere_is_read_through_its_link(copy: Path) -> None:
    file = copy / "checkpoints" / "step_00000004" / "state.pt"
    file.rename(copy / "kept")
    file.symlink_to("../../kept")
    assert load(copy).step_count == 4


SUM = "0" * 64
MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"format {value!r}"[:30]: lambda m, v=value: m | {"format": v} for value in (None, "1", 1.0, True, 2, [], {}, 10**400)},
    **{f"sums {value!r}": lambda m, v=value: m | {"sha256": v} for value in (None, 5, "x", [], {}, True)},
    **{
        f"sum {value!r}"[:30]: lambda m, v=value: m | {"sha256": m["sha256"] | {"state.pt": v}}
        for value in (None, 5, [], "", SUM, SUM[1:], "٣" * 64, "x" * 10**5)
    },
    **{
        f"name {name!r}"[:30]: lambda m, n=name: m | {"sha256": m["sha256"] | {n: SUM}}
        for name in (
            "",
            "..",
            "a/b.safetensors",
            "/etc/passwd",
            "x" * 300 + ".safetensors",
            "a\0.safetensors",
            "\ud800.safetensors",
        )
    },
    **{
        f"without {name}": lambda m, n=name: m | {"sha256": {key: value for key, value in m["sha256"].items() if key != n}}
        for name in ("config.json", "state.pt", "generator.safetensors", "average.safetensors")
    },
    "no format": lambda m: {"sha256": m["sha256"]},
    "a list": lambda m: [m],
    "repeated sums": lambda m: f'{json.dumps(m)[:-1]}, "sha256": {{}}}}',
    "sums behind others": lambda m: f'{{"sha256": {{}}, {json.dumps(m)[1:]}',
    "nesting": lambda m: "[" * 10**5,
    "nested names": lambda m: '{"format":' * 10**5,
    "spaces": lambda m: json.dumps(m) + " " * 2**20,
    "a whole number of 5000 digits": lambda m: '{"format": ' + "1" * 5000 + "}",
    "no text": lambda m: "\0\1",
}


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_that_is_none(manifest: str, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = copy / "checkpoints" / "step_00000004" / "manifest.json"
    content = MANIFESTS[manifest](json.loads(file.read_text()))
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    assert_passed_over(copy, caplog)


# contents of which the manifest has the sums


def state(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        content = torch.load(place / "state.pt", weights_only=True)
        changed = change(content)
        torch.save(content if changed is None else changed, place / "state.pt")

    return spoil


def records(change: Callable[[str, bytes], bytes], packing: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        made = io.BytesIO()
        with zipfile.ZipFile(place / "state.pt") as archive, zipfile.ZipFile(made, "w", packing) as other:
            for name in archive.namelist():
                other.writestr(name, change(name, archive.read(name)))
        (place / "state.pt").write_bytes(made.getvalue())

    return spoil


def pickled(program: bytes) -> Callable[[Path], None]:
    return records(lambda name, data: program if name.endswith("data.pkl") else data)


def weights(change: Callable[[dict[str, Any]], dict[str, Any]], role: str = "generator") -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        file = place / f"{role}.safetensors"
        found = {name: value.clone() for name, value in load_file(file).items()}
        save_file(change(found), file)

    return spoil


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda place: (place / name).write_bytes(data)


def tensors(header: Any, data: bytes = b"") -> Callable[[Path], object]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return content("generator.safetensors", struct.pack("<Q", len(text)) + text + data)


def entry(**changes: Any) -> dict[str, Any]:
    return {"0.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}


def buffer(change: Callable[[torch.Tensor], Any], name: str = "state.0") -> Callable[[Path], None]:
    return state(lambda s: s["g_optimizer"].update({name: change(s["g_optimizer"][name])}))


def unfolding(place: Path) -> None:
    state(lambda s: s | {"more": torch.zeros(2**25)})(place)
    records(lambda name, data: data, zipfile.ZIP_DEFLATED)(place)


def legacy(place: Path) -> None:
    content = torch.load(place / "state.pt", weights_only=True)
    torch.save(content, place / "state.pt", _use_new_zipfile_serialization=False)


VALUES = (None, -1, 1.5, "x", [], True, 10**400, torch.ones(2), torch.zeros((), dtype=torch.int64, device="meta"), NESTED[:1])
SHAPES = (None, -1, 1.5, "x", NESTED, (0,), (1,) * 99)
LEFT_OUT = ("step_count", "skipped", "d_optimizer", "step")
FILES = ("generator", "discriminator", "average")
SEALED: dict[str, Callable[[Path], object]] = {
    **{f"step_count {n}": state(lambda s, v=value: s | {"step_count": v}) for n, value in enumerate(VALUES)},
    **{f"g_optimizer {n}": state(lambda s, v=value: s | {"g_optimizer": v}) for n, value in enumerate(VALUES)},
    **{f"step {n}": state(lambda s, v=value: s | {"step": v}) for n, value in enumerate(VALUES)},
    **{f"sample_shape {n}": state(lambda s, v=value: s | {"sample_shape": v}) for n, value in enumerate(SHAPES)},
    **{f"without {name}": state(lambda s, n=name: s.pop(n) and None) for name in LEFT_OUT},
    "skipped of another dtype": state(lambda s: s | {"skipped": torch.zeros(())}),
    "skipped of many numbers": state(lambda s: s | {"skipped": torch.zeros((), dtype=torch.int64).expand(10**6, 10**6)}),
    "skipped nested": state(lambda s: s | {"skipped": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}),
    "a state that is a list": state(lambda s: [1]),
    "a state that is a tensor": state(lambda s: torch.ones(3)),
    "a state with weights": state(lambda s: s | {"generator": {}}),
    "extra states of nobody": state(lambda s: s | {"extra": {"nobody": {"a": 1}}}),
    "extra states that are none": state(lambda s: s | {"extra": {"generator": 5}}),
    "extra states for weights": state(lambda s: s | {"extra": {"generator": {"0.weight": torch.ones(16, 4).to_sparse()}}}),
    "an optimizer's number as a name": state(lambda s: s["g_optimizer"].update({5: torch.ones(3)})),
    "an optimizer without a buffer": state(lambda s: s["g_optimizer"].pop("state.1") is None or None),
    "an optimizer without an average": state(lambda s: s["g_optimizer"].pop("average") is None or None),
    "another buffer": state(lambda s: s["g_optimizer"].update({"state.2": torch.ones(3)})),
    "half a buffer": buffer(lambda b: b[: len(b) // 2].clone()),
    "a buffer of 10^12 numbers": buffer(lambda b: b[:1].expand(10**12)),
    "a buffer in float64": buffer(torch.Tensor.double),
    "a complex buffer": buffer(lambda b: b.to(torch.complex64)),
    "a sparse buffer": buffer(torch.Tensor.to_sparse),
    "a quantized average": buffer(lambda b: torch.quantize_per_tensor(b, 0.1, 0, torch.qint8), "average"),
    "a buffer without memory": buffer(lambda b: b.to("meta")),
    "a buffer of lists": buffer(lambda b: [0.0] * 3),
    "state.pt is garbage": content("state.pt", b"garbage" * 99),
    "state.pt is an empty archive": content("state.pt", b"PK\5\6" + bytes(18)),
    "state.pt of another format": legacy,
    "a record that unfolds": unfolding,
    "short records": records(lambda name, data: data[:4] if "/data/" in name else data),
    "a call": pickled(b"cos\nsystem\n(S'exit 1'\ntR."),
    "a tensor of 10^10 numbers": pickled(b"\x80\x02ctorch\nTensor\n(L10000000000L\ntR."),
    "a pickle of nothing": pickled(b"\x80\x02(((((t."),
    "no header": content("generator.safetensors", b"1234567"),
    "a header of 2^63 bytes": content("generator.safetensors", struct.pack("<Q", 2**63) + b"{}"),
    "a header that is no JSON": tensors(b"zzz"),
    "a header of lists": tensors([]),
    "a header of nesting": tensors(b"[" * 10**5),
    "an unknown dtype": tensors(entry(dtype="Q5"), bytes(4)),
    "a shape of 10^18": tensors(entry(shape=[10**9, 10**9]), bytes(4)),
    "offsets behind the end": tensors(entry(data_offsets=[4, 8]), bytes(4)),
    "offsets that are texts": tensors(entry(data_offsets=["a", "b"]), bytes(4)),
    "bytes behind the tensors": tensors(entry(), bytes(400)),
    "a name of many lines": tensors({"a\nb\n" * 10**4: entry()["0.weight"]}, bytes(4)),
    "no weights": tensors({}),
    "weights in float64": weights(lambda w: {name: value.double() for name, value in w.items()}),
    "whole numbers": weights(lambda w: {name: value.int() for name, value in w.items()}),
    "turned weights": weights(lambda w: {name: value.T.contiguous() for name, value in w.items()}),
    "other names": weights(lambda w: {f"x.{name}": value for name, value in w.items()}),
    "names of many lines": weights(lambda w: {"\n" * 9 + name: value for name, value in w.items()}, "average"),
    "more weights": weights(lambda w: w | {"more": torch.ones(2)}),
    "an average of another shape": weights(lambda w: {name: value.flatten() for name, value in w.items()}, "average"),
    "an average of others' weights": weights(lambda w: {"more": torch.ones(2)}, "average"),
    **{f"without the {role}": lambda f, r=role: (f / f"{r}.safetensors").unlink() for role in FILES},
}  # fmt: skip


@pytest.mark.parametrize("what", SEALED)
def test_contents_that_nobody_wrote(what: str, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = copy / "checkpoints" / "step_00000004"
    SEALED[what](newest)
    seal(newest)
    assert_passed_over(copy, caplog)


@pytest.mark.parametrize("text", ["[]", "", "\0\1", '{"a":' * 10**5, "{}" + " " * 2**24, "1" * 5000], ids=range(6))
def test_a_configuration_that_is_none(text: str, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = copy / "checkpoints" / "step_00000004"
    (newest / "config.json").write_text(text)
    seal(newest)
    assert_passed_over(copy, caplog)


@pytest.mark.parametrize("change", [{"seed": 4}, {"d_steps": 2}, {"loss": "hinge"}, {"data": {}, "precision": "fp64"}], ids=str)
def test_a_checkpoint_of_another_run_among_those_of_one(change: Any, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is passed over where an older one is of the trainer's run; where none is, the newest one's reason is said."""
    newest = copy / "checkpoints" / "step_00000004"
    config = json.loads((newest / "config.json").read_text())
    (newest / "config.json").write_text(json.dumps(config | change))
    seal(newest)
    trainer = trained(ema=0.5)
    trainer.restore(copy)
    assert trainer.step_count == 2 and f"{newest}: " in caplog.text
    caplog.clear()
    other = trained(ema=0.25)
    before = weights_of(other)
    message = assert_refused(lambda: other.restore(copy))
    assert "was trained with another" in message and not caplog.records
    assert all(torch.equal(value, before[name]) for name, value in weights_of(other).items())


@pytest.mark.parametrize("shape", [(1,), (9,), (2, 3), (10**9,) * 3, (10**30,)], ids=str)
def test_a_shape_of_other_samples_is_not_theirs(shape: tuple[int, ...], copy: Path) -> None:
    newest = copy / "checkpoints" / "step_00000004"
    state(lambda s: s | {"sample_shape": shape})(newest)
    seal(newest)
    assert load(newest).sample(3).shape == (3, 8)


@pytest.mark.parametrize("role", ["encoder", "step"])
def test_weights_of_other_names_are_saved_and_replaced(role: str, tmp_path: Path) -> None:
    for number in (1.0, 2.0):
        checkpoint.save(tmp_path / "saved", Checkpoint({role: {"weight": torch.full((3,), number)}}, {}, {}))
        assert checkpoint.load(tmp_path / "saved").weights[role]["weight"].tolist() == [number] * 3


def test_sums_in_capitals_are_the_same(copy: Path) -> None:
    file = copy / "checkpoints" / "step_00000004" / "manifest.json"
    manifest = json.loads(file.read_text())
    sums = {name: digits.upper() for name, digits in manifest["sha256"].items()}
    file.write_text(json.dumps(manifest | {"sha256": sums}))
    assert load(copy).step_count == 4


@pytest.mark.parametrize("what", ["half a buffer", "step_count 2", "state.pt is garbage", "a FIFO"])
def test_commands_pass_over_it_too(what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, picture = tmp_path / "run", tmp_path / "samples.png"
    flags = ["--data", "ring", "--batch-size", "8", "--device", "cpu", "--sample-every", "0", "--out", str(run)]
    assert cli.main(["train", *flags, "--checkpoint-every", "1", "--steps", "2"]) == 0
    newest = checkpoint.step_folder(run / "checkpoints", 2)
    if what in SEALED:
        SEALED[what](newest)
        seal(newest)
    else:
        KINDS[what](newest / "state.pt")
    capfd.readouterr()
    assert cli.main(["sample", str(newest), "--out", str(picture)]) == 2
    message = capfd.readouterr().err.splitlines()
    assert len(message) == 1 and message[0].startswith("fastgan: ") and not picture.exists()
    assert cli.main(["sample", str(run), "--out", str(picture)]) == 0
    assert "of step 1" in capfd.readouterr().out and picture.exists()
