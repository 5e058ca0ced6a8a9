"""Every block of code in README.md and docs/, run as it stands; the pairs of docs/migration.md, compared; its slopes, seen."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastgan
from benchmarks import tables
from fastgan import losses, penalties, testing

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MIGRATION = ROOT / "docs" / "migration.md"
VALUES = ("d_loss", "g_loss", "penalty")


class Block(NamedTuple):
    """A block of Python on a page: its heading, its line, its text."""

    page: str
    section: str
    line: int
    code: str

    @property
    def kind(self) -> str:
        """before, wrong or after, as its first comment says."""
        return re.sub(r"\W.*", "", self.code.removeprefix("# "), flags=re.DOTALL)


def blocks(page: Path) -> Iterator[Block]:
    section, start, lines = "", 0, page.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        if line.startswith("#") and not start:
            section = line.strip("# ")
        elif line == "```python":
            start = number
        elif line == "```" and start:
            yield Block(page.relative_to(ROOT).as_posix(), section, start, "\n".join(lines[start : number - 1]))
            start = 0


BLOCKS = [block for page in PAGES for block in blocks(page)]
PAIRS_ON = "docs/migration.md"


def small_critic() -> nn.Sequential:
    """An MLP whose logits lie on both sides of hinge's -1 and 1."""
    critic = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    nn.init.normal_(critic[-1].weight)
    return critic


def plain_hinge(real: Tensor, fake: Tensor) -> Tensor:
    dtype = torch.promote_types(real.dtype, torch.float32)
    return F.relu(1 - real.to(dtype)).mean() + F.relu(1 + fake.to(dtype)).mean()


def plain_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    alpha = torch.rand(len(real), *[1] * (real.dim() - 1))
    points = (alpha * fake + (1 - alpha) * real).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return 10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def reader() -> dict[str, Any]:
    """The names that somebody with a loop of their own has."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(8, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28)))
    critic, heads, patch_critic = small_critic(), nn.Embedding(10, 784), nn.Conv2d(1, 1, 8, stride=8)
    nn.init.normal_(patch_critic.weight)
    real, z, labels = torch.rand(16, 1, 28, 28) * 2 - 1, torch.randn(16, 8), torch.arange(16) % 10
    fake = generator(z)
    names = {name: value for name, value in locals().items() if name != "heads"}
    return names | {
        "torch": torch,
        "nn": nn,
        "F": F,
        "losses": losses,
        "penalties": penalties,
        "logits": critic(real).detach(),
        "g_optimizer": torch.optim.Adam(generator.parameters(), lr=1e-3),
        "d_optimizer": torch.optim.Adam(critic.parameters(), lr=1e-3),
        "conditional_critic": lambda x, y: (heads(y) * x.flatten(1)).sum(dim=1, keepdim=True),
        "critic_with_features": lambda x: (critic(x), critic[:2](x)),
        "pac_critic": lambda x: critic(x).tanh().view(-1, 2).sum(dim=1, keepdim=True),
        "step": 100,
        "my_d_loss": plain_hinge,
        "my_penalty": plain_penalty,
        "my_step": lambda critic, real, fake: plain_hinge(critic(real), critic(fake.detach())),
    }


def run(code: str, **others: Any) -> dict[str, Any]:
    """What a block leaves behind, from a fixed random state, and with other things under a reader's names."""
    names = reader() | others
    torch.manual_seed(1)
    exec(compile(code, "block", "exec"), names)
    return names


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two steps for any training, in a folder of its own."""
    fit = fastgan.Trainer.fit

    def fit_two_steps(trainer: fastgan.Trainer, data: Any, **options: Any) -> dict[str, Any]:
        return fit(trainer, data, **(options | {"epochs": None, "steps": 2}))

    monkeypatch.setattr(fastgan.Trainer, "fit", fit_two_steps)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of this process, for what DistributedDataParallel wraps."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_every_block_runs(block: Block, request: pytest.FixtureRequest) -> None:
    if "DistributedDataParallel" in block.code:
        request.getfixturevalue("one_process")
    left = run(block.code)
    found = {name: left[name] for name in VALUES if name in left}
    assert all(torch.as_tensor(value).isfinite().all() for value in found.values()), found


def pairs() -> Iterator[tuple[Block, Block]]:
    """Each block that is not fastgan's, and the next one of its section that is."""
    page = [block for block in BLOCKS if block.page == PAIRS_ON]
    for number, block in enumerate(page):
        if block.kind != "after":
            yield block, next(other for other in page[number:] if other.kind == "after" and other.section == block.section)


PAIRS = list(pairs())


def test_every_block_of_the_migration_page_says_what_it_is() -> None:
    assert {block.kind for block in BLOCKS if block.page == PAIRS_ON} == {"before", "wrong", "after"}


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def value_and_slopes(names: dict[str, Any], value: str) -> list[Tensor]:
    """A loss, and its gradient by each parameter of the networks that it trains."""
    networks = ("generator",) if value == "g_loss" else ("critic", "patch_critic")
    parameters = [parameter for network in networks for parameter in names[network].parameters()]
    return [names[value], *torch.autograd.grad(names[value], parameters, materialize_grads=True)]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("one", "other"), PAIRS, ids=lambda block: f"{block.line}")
def test_a_pair_agrees_where_the_page_says_so(one: Block, other: Block) -> None:
    """In fp64, values and slopes."""
    theirs, ours = run(one.code), run(other.code)
    common = [name for name in VALUES if name in ours and name in theirs]
    assert common
    rtol = 1e-5 if "eps" in one.code else 1e-10  # an eps inside a logarithm
    for name in common:
        if one.kind == "before":
            found, expected = (value_and_slopes(names, name) for names in (ours, theirs))
            assert any(slope.any() for slope in expected[1:])
            torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol / 100)
        else:
            assert not math.isclose(ours[name].item(), theirs[name].item(), rel_tol=1e-5, abs_tol=1e-7)


def variants(section: str) -> list[tuple[str, str, str]]:
    """The rows of a section's table: the first cell's line of code, the second and the third cell."""
    text = MIGRATION.read_text().partition(f"\n## {section}")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+ = .*?|\(gradient,\) = .*?)` \| (.*?) \| (.*?) \|$", text, flags=re.MULTILINE)


def exchanged(section: str, line: str) -> str:
    """A section's first block with one line exchanged for the one that assigns the same name."""
    block = next(block for block in BLOCKS if block.section == section)
    target = line.partition(" = ")[0]
    pattern = rf"^( *){re.escape(target)} = .*$"
    code, count = re.subn(pattern, lambda match: match[1] + line, block.code, count=1, flags=re.MULTILINE)
    assert count == 1
    return code


WGAN_GP, R1 = "5. The gradient penalty of WGAN-GP", "6. R1 and R2"


@pytest.mark.slow
@pytest.mark.parametrize(("line", "fault"), [cells[:2] for cells in variants(WGAN_GP)])
def test_the_suite_names_the_fault_of_each_line(line: str, fault: str) -> None:
    if fault == "no graph to the critic's parameters":  # the block itself runs all the same
        assert not run(exchanged(WGAN_GP, line))["penalty"].requires_grad
    faults = testing.diagnose_gradient_penalty(run(exchanged(WGAN_GP, line))["penalize"])
    assert fault in [found.name for found in faults], faults


def test_the_lines_as_they_stand_have_no_fault() -> None:
    block = next(block for block in BLOCKS if block.section == WGAN_GP)
    assert testing.diagnose_gradient_penalty(run(block.code)["penalize"]) == ()


@pytest.mark.parametrize(("line", "gave", "option"), variants(R1))
def test_other_conventions_of_r1_are_a_gamma(line: str, gave: str, option: str) -> None:
    names = run(exchanged(R1, line))
    ours = eval(f"penalties.r1_penalty(critic, real, {option.strip('`')})", names)
    torch.testing.assert_close(names["penalty"], ours)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(784, 1))
    nn.init.constant_(critic[1].weight, 784**-0.5)
    known = run(exchanged(R1, line), critic=critic, real=torch.randn(64, 1, 28, 28))["penalty"].item()
    assert known == pytest.approx(float(re.findall(r"^[\d.]+", gave)[0]), rel=0.01), "for 64 gradients of norm 1"


def test_tables_were_read() -> None:
    assert (len(variants(WGAN_GP)), len(variants(R1))) == (8, 3)


def slope(loss: Callable[[Tensor], Tensor], logit: float, dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """A loss at one logit, and its slope there."""
    x = torch.tensor([[logit]], dtype=dtype, requires_grad=True)
    value = loss(x)
    value.sum().backward()
    assert x.grad is not None
    return value.sum().item(), x.grad.item()


def through_sigmoid(x: Tensor) -> Tensor:
    return F.binary_cross_entropy(torch.sigmoid(x).float(), torch.zeros(1, 1))


def by_hand(x: Tensor) -> Tensor:
    return -torch.log(torch.sigmoid(x) + 1e-8)


def unit_gradient(x: Tensor) -> Tensor:
    """A critic whose gradient has norm 1 everywhere."""
    return x.flatten(1).sum(dim=1, keepdim=True) / x[0].numel() ** 0.5


def penalty_of(section: str, line: str, rows: int) -> float:
    """The penalty of a section's block, with a line exchanged, for a batch of unit gradients."""
    code = exchanged(section, line)
    setting = "critic, real, fake = unit_gradient, torch.rand(ROWS, 1, 28, 28), torch.rand(ROWS, 1, 28, 28)\n"
    names = reader() | {"unit_gradient": unit_gradient, "ROWS": rows}
    exec(setting + code, names)
    return names["penalty"].item()


def test_slopes_of_the_page() -> None:
    assert slope(through_sigmoid, 17.0) == (100.0, 0.0)
    assert slope(through_sigmoid, 7.0, torch.bfloat16) == (100.0, 0.0)
    assert slope(through_sigmoid, 6.0, torch.bfloat16)[1] > 0.9
    for dtype in (torch.float32, torch.bfloat16):
        assert slope(losses.GANLoss().g, -17.0, dtype) == (17.0, -1.0)
    assert slope(by_hand, -20.0)[1] == pytest.approx(-0.17, abs=0.002)
    assert slope(by_hand, -25.0)[1] == pytest.approx(-0.0014, abs=0.00005)
    value, tangent = slope(lambda x: -torch.log(1 - torch.sigmoid(x)), 17.0)
    assert value == math.inf and math.isnan(tangent)
    assert slope(losses.minimax_g_loss, -10.0)[1] == pytest.approx(-4.5e-5, abs=1e-6)
    hinge = losses.GANLoss("hinge")
    assert slope(lambda x: hinge(x, True), 2.0)[1] == 0
    assert slope(lambda x: hinge(x, True, for_discriminator=False), 2.0)[1] == -1
    assert slope(lambda x: torch.sigmoid(x).square(), 10.0)[1] == pytest.approx(9e-5, rel=0.02)


def test_values_of_the_page() -> None:
    ones = torch.ones(4, 1)
    assert losses.hinge_d_loss(2 * ones, -2 * ones) == 0
    assert losses.hinge_d_loss(-2 * ones, 2 * ones) == 6
    assert penalty_of(WGAN_GP, "norms = gradient.norm(2)", 64) == pytest.approx(490, rel=1e-3)
    lines = [line for line, _, _ in variants(R1)]
    assert [penalty_of(R1, line, 64) for line in lines] == pytest.approx([320, 0.0064, 10], rel=5e-3)
    with pytest.raises(ValueError, match=re.escape("Target size (torch.Size([64, 1])) must be the same as input size")):
        nn.BCEWithLogitsLoss()(torch.zeros(5, 1), torch.ones(64, 1))
    with pytest.raises(ValueError, match=re.escape("real and fake differ beyond their rows: (64, 1) and (64,)")):
        losses.relativistic_d_loss(torch.zeros(64, 1), torch.zeros(64))


def test_a_penalty_under_fp16_autocast() -> None:
    torch.manual_seed(1)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2))
    critic.append(nn.Linear(256, 1))
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(10)
    real, fake = torch.randn(2, 64, 1, 28, 28)
    by_script = run(next(block for block in BLOCKS if block.section == WGAN_GP).code)["penalize"]

    def is_finite(part: Callable[[], Tensor], scale: int) -> bool:
        with torch.autocast("cpu", torch.float16):
            value = part()
        slopes = torch.autograd.grad(scale * value, list(critic.parameters()), allow_unused=True)
        return all(slope.isfinite().all() for slope in slopes if slope is not None)

    assert is_finite(lambda: losses.wgan_d_loss(critic(real), critic(fake)), 2**8)
    assert not is_finite(lambda: by_script(critic, real, fake), 2**8)
    assert is_finite(lambda: penalties.gradient_penalty(critic, real, fake), 2**24)


def test_links_lead_somewhere() -> None:
    """Links between pages and to files, and to headings of the page itself."""
    for page in PAGES:
        text = page.read_text()
        headings = [
            re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-")
            for line in text.splitlines()
            if line[:1] == "#"
        ]
        for link in re.findall(r"\]\(([^)]+)\)", text):
            target, _, anchor = link.partition("#")
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {link}"
                assert target or anchor in headings, f"{page.name}: {link}"


def test_nobody_typed_the_readmes_tables() -> None:
    text = (ROOT / "README.md").read_text()
    assert tables.written(text) == text, "python -m benchmarks.tables writes them"
    assert "| fastgan, pairs of MLPs" in text
