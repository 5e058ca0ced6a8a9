"""What a critic's input gradient is differentiated through again: attention, recurrent layers, and norms that mix rows."""

from __future__ import annotations

import copy
import functools
import logging
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import fastgan
from fastgan import penalties
from fastgan.runtime import second_order
from fastgan.runtime.input_gradient import input_gradient


def images() -> Tensor:
    return torch.randn(6, 2, 4, 4, dtype=torch.float64)


class Attention(nn.Module):
    """scaled_dot_product_attention itself."""

    def __init__(self, causal: bool = False, masked: bool = False) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(8, 24), nn.Linear(8, 1)
        self.causal, self.masked = causal, masked

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.project(tokens).unsqueeze(1).chunk(3, -1)
        length = tokens.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).tril() if self.masked else None
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=self.causal)
        return self.head(attended[:, 0].mean(1))


class MultiHead(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.attention, self.head, self.options = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 1), options

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.attention(tokens, tokens, tokens, **self.options)[0].mean(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(tokens).mean(1))


ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "causal": lambda: Attention(causal=True),
    "masked": lambda: Attention(masked=True),
    "heads": lambda: MultiHead(need_weights=False),
    "heads with weights": lambda: MultiHead(need_weights=True),
    "encoder": Encoder,
    "encoder in evaluation": lambda: Encoder().eval(),
}
Result = tuple[Tensor, list[Tensor]]


def derivatives(value: Tensor, critic: nn.Module) -> Result:
    return value.detach(), list(torch.autograd.grad(value, list(critic.parameters()), materialize_grads=True))


def on_the_math_kernel(critic: nn.Module, tokens: Tensor) -> Result:
    with sdpa_kernel(SDPBackend.MATH):
        points = tokens.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
        return derivatives(5 * gradient.flatten(1).square().sum(1).mean(), critic)


def attention_game(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(4)
    return ATTENTION[name]().double(), torch.randn(3, 5, 8, dtype=torch.float64)


def eagerly(critic: nn.Module, tokens: Tensor) -> Result:
    return derivatives(penalties.r1_penalty(critic, tokens), critic)


def compiled(critic: nn.Module, tokens: Tensor) -> Result:
    run = torch.compile(functools.partial(penalties.r1_penalty, critic), fullgraph=True, backend="aot_eager")
    return derivatives(run(tokens), critic)


def of_a_compiled_critic(critic: nn.Module, tokens: Tensor) -> Result:
    other = torch.compile(critic, backend="aot_eager")
    other(tokens)
    return derivatives(penalties.r1_penalty(other, tokens), critic)


def functionally(critic: nn.Module, tokens: Tensor) -> Result:
    def value(parameters: dict[str, Tensor]) -> Tensor:
        return penalties.r1_penalty(lambda x: torch.func.functional_call(critic, parameters, (x,)), tokens)

    gradients, found = torch.func.grad_and_value(value)(dict(critic.named_parameters()))
    return found, list(gradients.values())


def compiled_functionally(critic: nn.Module, tokens: Tensor) -> Result:
    return torch.compile(functionally, fullgraph=True, backend="aot_eager")(critic, tokens)


WAYS = [eagerly, functionally]
SLOW_WAYS = [compiled, of_a_compiled_critic, compiled_functionally]


@pytest.mark.parametrize("way", [*WAYS, *(pytest.param(way, marks=pytest.mark.slow) for way in SLOW_WAYS)])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_runs_on_the_math_kernel(name: str, way: Callable[[nn.Module, Tensor], Result]) -> None:
    if name == "encoder in evaluation" and way is compiled_functionally:
        pytest.skip("torch takes its fast path there, which has no derivative at all")
    torch._dynamo.reset()
    critic, tokens = attention_game(name)
    kernels = [is_on() for is_on, _, _ in second_order._ATTENTION]
    found, wanted = way(critic, tokens), on_the_math_kernel(critic, tokens)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    assert [is_on() for is_on, _, _ in second_order._ATTENTION] == kernels


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_attention_under_autocast(half: torch.dtype) -> None:
    critic, tokens = attention_game("attention")
    value, gradients = on_the_math_kernel(critic, tokens)
    with torch.autocast("cpu", half):
        found = penalties.r1_penalty(critic.float(), tokens.float())
    torch.testing.assert_close(found.double(), value, rtol=5e-2, atol=0)
    moved = torch.autograd.grad(found, list(critic.parameters()), materialize_grads=True)
    for mine, wanted in zip(moved, gradients, strict=True):
        assert (mine - wanted).norm() <= 0.1 * wanted.norm() + 1e-6


def test_kernels_are_restored_after_an_error_and_as_they_were() -> None:
    def failing(x: Tensor) -> Tensor:
        assert torch.backends.cuda.math_sdp_enabled() and not torch.backends.cuda.flash_sdp_enabled()
        raise KeyError("mine")

    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        with pytest.raises(KeyError, match="mine"):
            penalties.r1_penalty(failing, images())
        assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
        assert not torch.backends.cuda.math_sdp_enabled() and not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_threads_that_overlap_restore_the_kernels() -> None:
    """The first to begin is the first to end, and the other is still on the math kernel."""
    critic, tokens = attention_game("attention")
    wanted = on_the_math_kernel(critic, tokens)
    inside, go = threading.Barrier(2), threading.Event()
    results: dict[str, Result] = {}

    def penalize(name: str, wait: Callable[[], object]) -> None:
        def watched(x: Tensor) -> Tensor:
            inside.wait(timeout=60)
            wait()
            return critic(x)

        results[name] = derivatives(penalties.r1_penalty(watched, tokens), critic)

    first = threading.Thread(target=penalize, args=("first", lambda: None))
    second = threading.Thread(target=penalize, args=("second", lambda: go.wait(timeout=60)))
    first.start(), second.start()
    first.join()
    go.set()
    second.join()
    assert torch.backends.cuda.flash_sdp_enabled()
    for found in results.values():
        torch.testing.assert_close(found, wanted)
    assert len(results) == 2


def test_a_kernel_that_a_critic_chooses_itself_is_refused_with_the_remedy() -> None:
    critic, tokens = attention_game("attention")

    def forced(x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return critic(x)

    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=r"ScaledDotProductFlashAttention.*no second derivative.*scaled_dot_product_attention"
        ):
            penalties.r1_penalty(forced, tokens)
    with torch.no_grad():  # of a value alone nobody asks for a second derivative
        value = penalties.r1_penalty(forced, tokens)
    torch.testing.assert_close(value, on_the_math_kernel(critic, tokens)[0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_critics(kind: type[nn.RNNBase]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = kind(8, 4, batch_first=True), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x)[0][:, -1])

    critic, tokens = Recurrent().double(), torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(eagerly(critic, tokens), on_the_math_kernel(critic, tokens))


class CudnnRnn(torch.autograd.Function):
    """A node with the name of cuDNN's."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, upstream: Tensor) -> Tensor:
        return upstream


def test_recurrent_layers_on_cudnn_are_refused_with_the_remedy() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"no second derivative.*cudnn\.flags\(enabled=False\)"):
            penalties.r1_penalty(lambda x: CudnnRnn.apply(x).flatten(1), images())


def test_recurrent_layers_of_a_module_on_cuda_run_without_cudnn() -> None:
    class Seen(Exception):
        pass

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.GRU(2, 2)])

        def forward(self, x: Tensor) -> Tensor:
            raise Seen(torch.backends.cudnn.enabled)

    enabled, critic, plain = torch.backends.cudnn.enabled, Recurrent(), Recurrent()
    del plain.layers[1]
    with FakeTensorMode():
        on_cuda, on_cpu = (torch.empty(3, 5, 2, device=device) for device in ("cuda", "cpu"))
        around = lambda x: critic(x)  # noqa: E731
        for network, rows, expected in (
            (critic, on_cuda, False),
            (around, on_cuda, False),
            (critic, on_cpu, enabled),
            (plain, on_cuda, enabled),
        ):
            with pytest.raises(Seen) as caught:
                input_gradient(network, rows)
            assert caught.value.args == (expected,)
    assert torch.backends.cudnn.enabled == enabled


def with_norm(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)).double()


def notes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name == "fastgan" and "batch norm" in record.getMessage()
    ]


@pytest.mark.parametrize("options", [{}, dict(track_running_stats=False), dict(affine=False)], ids=str)
def test_batch_norm_in_training_mode_is_said_once(options: dict, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fastgan")
    critic, x = with_norm(nn.BatchNorm2d(3, **options)), images()
    for _ in range(3):
        penalties.r1_penalty(critic, x)
        penalties.gradient_penalty(critic, x, x + 1)
        critic.eval(), critic.train()
    assert len(notes(caplog)) == 1 and "Sequential has batch norm in training mode" in notes(caplog)[0]
    penalties.r1_penalty(with_norm(nn.BatchNorm2d(3)), x)
    assert len(notes(caplog)) == 2, "another critic"


def test_batch_norm_behind_a_function_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """For each critic that the same line was written around, whoever calls it."""
    x, critics = images(), [with_norm(norm) for norm in (nn.Identity(), nn.BatchNorm2d(3), nn.BatchNorm2d(3))]
    for critic in critics:
        for _ in range(2):
            penalties.r1_penalty(lambda y: critic(y), x)  # noqa: B023
            penalties.r1_penalty(critic.forward, x)
            penalties.r1_penalty(functools.partial(critic), x)
    assert len(notes(caplog)) == 2
    functionally(with_norm(nn.BatchNorm2d(3, track_running_stats=False)), x)
    assert len(notes(caplog)) == 3


def test_batch_norm_of_a_function_alone_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        penalties.r1_penalty(lambda y: F.batch_norm(y, None, None, training=True).flatten(1).square().sum(1), images())
    assert len(notes(caplog)) == 1 and "the critic has" in notes(caplog)[0]


def test_what_does_not_mix_rows_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    x = images()
    for norm in (nn.InstanceNorm2d(3), nn.GroupNorm(3, 3), nn.LayerNorm((3, 2, 2)), nn.BatchNorm2d(3).eval()):
        critic = with_norm(nn.Identity())
        critic[1] = norm.double()
        penalties.r1_penalty(critic, x)
    critic = with_norm(nn.BatchNorm2d(3)).eval()
    penalties.r1_penalty(critic, x)
    assert not notes(caplog)
    penalties.r1_penalty(critic.train(), x)
    assert len(notes(caplog)) == 1, "in training mode since"


def test_a_trainers_critic_with_batch_norm_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    networks = nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    options = dict(engine="autograd", precision="fp32", penalty=penalties.R1(1.0), capture="off", device="cpu")
    trainer = fastgan.Trainer(*networks, **options).attach(torch.rand(20, 6) * 2 - 1, 8)
    for _ in range(3):
        trainer.step()
    assert len(notes(caplog)) == 1


def test_copies_of_a_critic_are_copies() -> None:
    """What was seen of a critic is kept beside it, not in it."""
    critic = with_norm(nn.BatchNorm2d(3))
    before = set(vars(critic))
    penalties.r1_penalty(critic, images())
    assert set(vars(critic)) == before
    copy.deepcopy(critic)
