"""The article's networks: keys, sizes, shapes, heads, and initial weights that are a function of the seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastgan import Trainer
from fastgan.models import Discriminator, Generator, Network, build, describe, latent_shape

G_SIZES, D_SIZES = (100, 256, 512, 1024, 784), (784, 1024, 512, 256, 1)


class ArticleGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        hidden = [nn.Linear(100, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 1024), nn.ReLU()]
        self.main = nn.Sequential(*hidden, nn.Linear(1024, 784), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


class ArticleDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for inputs, outputs in ((784, 1024), (1024, 512), (512, 256)):
            modules += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2), nn.Dropout(0.3)]
        self.main = nn.Sequential(*modules, nn.Linear(256, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x.view(x.size(0), -1))


def small(network: type[Network], **options) -> Network:
    return network(image_size=4, **options)


def weights(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def equal(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


@pytest.mark.parametrize(
    ("network", "sizes", "positions", "count"),
    [(Generator, G_SIZES, (0, 2, 4, 6), 1_486_352), (Discriminator, D_SIZES, (0, 3, 6, 9), 1_460_225)],
    ids=["generator", "discriminator"],
)
def test_keys_sizes_and_counts_are_the_articles(network: type, sizes: tuple[int, ...], positions: tuple, count: int) -> None:
    module = network()
    expected = {}
    for position, inputs, outputs in zip(positions, sizes[:-1], sizes[1:], strict=True):
        expected |= {f"main.{position}.weight": (outputs, inputs), f"main.{position}.bias": (outputs,)}
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in module.parameters()) == count


def test_the_articles_checkpoints_load_and_mean_the_same() -> None:
    theirs, ours, z = ArticleGenerator().eval(), Generator().eval(), torch.randn(8, 100)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(z), theirs(z), rtol=1e-5, atol=1e-6)
    images, critic, head = theirs(z).detach(), ArticleDiscriminator().eval(), Discriminator().eval()
    head.load_state_dict(critic.state_dict())
    torch.testing.assert_close(head.probability(images), critic(images), rtol=1e-5, atol=1e-6)
    critic.load_state_dict(Discriminator().state_dict())
    theirs.load_state_dict(Generator().state_dict())


def test_the_generator_draws_flat_images_in_the_datas_range() -> None:
    images = Generator(seed=1)(50 * torch.randn(16, 100))
    assert images.shape == (16, 784) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1 and images.std() > 0.1


def test_the_discriminator_returns_logits_of_flat_images_and_of_pictures() -> None:
    critic, images = Discriminator(seed=1).eval(), torch.randn(5, 1, 28, 28)
    logits = critic(images)
    assert logits.shape == (5, 1) and torch.equal(logits, critic(images.flatten(1)))
    torch.testing.assert_close(critic.probability(images), 1 / (1 + torch.exp(-logits)))
    with torch.no_grad():
        critic.main.layers[-1].bias.fill_(-5.0)
    assert (critic(images) < 0).all(), "a logit is not squashed"


def test_dropout_is_active_in_training_alone() -> None:
    critic, images = Discriminator(seed=1), torch.randn(5, 784)
    assert not torch.equal(critic(images), critic(images))
    assert torch.equal(critic.eval()(images), critic(images))
    assert [layer.dropout for layer in critic.main.layers] == [0.3, 0.3, 0.3, 0.0]
    undropped = Discriminator(dropout=0.0, seed=1)
    assert torch.equal(undropped(images), critic(images)) and list(undropped.state_dict()) == list(critic.state_dict())
    assert Generator(seed=1)(torch.zeros(2, 100)).equal(Generator(seed=1)(torch.zeros(2, 100)))


def test_other_sizes() -> None:
    generator, critic = Generator(z_dim=3, image_size=2), Discriminator(image_size=2, dropout=0.5)
    points = generator(torch.randn(7, 3))
    assert points.shape == (7, 2) and critic(points).shape == (7, 1)
    assert generator.config() == {"z_dim": 3, "image_size": 2}
    assert critic.config() == {"image_size": 2, "dropout": 0.5}


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_a_description_builds_the_network_again(network: type[Network]) -> None:
    first = small(network)
    description = describe(first)
    second = build(description, "network")
    second.load_state_dict(first.state_dict())
    assert type(second) is network and equal(first, second) and describe(second) == description


def test_a_network_of_ones_own_must_be_passed() -> None:
    with pytest.raises(ValueError, match="ArticleGenerator: pass one as generator="):
        build(describe(ArticleGenerator()), "generator")


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_a_seed_makes_the_same_weights_wherever_torchs_generator_stands(network: type[Network]) -> None:
    first = small(network, seed=7)
    torch.manual_seed(123)
    second = small(network, seed=7)
    assert equal(first, second) and not equal(first, small(network, seed=8))
    drawn = small(network)
    drawn.reset_parameters(7)
    assert equal(first, drawn)


def test_initial_weights_have_known_answers() -> None:
    """By Python's own integers; they may never change."""
    generator, critic = Generator(2, image_size=3, seed=5), Discriminator(image_size=3, seed=5)
    known = [
        (generator.main.layers[0], [0.1864714, -0.3058231]),
        (critic.main.layers[0], [-0.4405531, -0.3532418, -0.1844173]),
        (generator.main.layers[3], [0.0219374, -0.0158377, 0.0218521]),
        (critic.main.layers[3], [0.0646548, 0.0203846, -0.0292663]),
    ]
    for layer, expected in known:
        torch.testing.assert_close(layer.weight[0, : len(expected)], torch.tensor(expected), rtol=0, atol=1e-6)
        assert not layer.bias.any()


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_without_a_seed_torchs_generator_governs(network: type[Network]) -> None:
    torch.manual_seed(1)
    first, second = small(network), small(network)
    torch.manual_seed(1)
    assert equal(first, small(network)) and not equal(first, second)


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_initial_weights_carry_a_signal_through(network: type[Network]) -> None:
    """Uniform, with variance 2 / ((1 + slope^2) in) before a (leaky) ReLU and 1 / in before the end; biases are zero."""
    for layer in network(seed=3).main.layers:
        gain = {"relu": 2.0, "leaky_relu": 2.0 / 1.04}.get(layer.activation, 1.0)
        weight = layer.weight.detach().double()
        bound, count = math.sqrt(3.0 * gain / layer.in_features), weight.numel()
        unit = weight / bound
        assert not layer.bias.any()
        assert 1 - 20 / count < unit.abs().max() <= 1 + 1e-6
        assert unit.mean().item() == pytest.approx(0.0, abs=5 / math.sqrt(3 * count))
        assert unit.square().mean().item() == pytest.approx(1 / 3, abs=5 * math.sqrt(4 / 45 / count))


def test_an_untrained_generator_draws_a_different_picture_for_every_latent() -> None:
    images = Generator(seed=0)(torch.randn(200, 100))
    assert images.std(0).mean() > 0.3


def correlation(first: Tensor, second: Tensor) -> float:
    """Of the elements that both have, as a z-score."""
    count = min(first.numel(), second.numel())
    pair = torch.stack((first.flatten()[:count], second.flatten()[:count])).double()
    return torch.corrcoef(pair)[0, 1].item() * math.sqrt(count)


def test_weights_of_one_seed_have_nothing_to_do_with_each_other() -> None:
    """Between G and D, between layers, between seeds, and between a layer and another one's transpose."""
    networks = (Generator(seed=5), Discriminator(seed=5), Generator(seed=6))
    g, d, other = ([layer.weight.detach() for layer in network.main.layers] for network in networks)
    pairs = [*combinations([*g, *d], 2), *zip(g, other, strict=True), *((a, b.t()) for a in g for b in d)]
    assert max(abs(correlation(a, b)) for a, b in pairs) < 5


TOUCHES: dict[str, Callable[[Network], object]] = {
    "data redrawn": lambda network: [parameter.data.normal_() for parameter in network.parameters()],
    "one weight": lambda network: network.main.layers[1].weight.data[0, 0].add_(1e-3),
    "one bias": lambda network: network.main.layers[-1].bias.data.add_(1e-3),
    "state dict loaded": lambda network: network.load_state_dict(type(network)(**network.config()).state_dict()),
    "torch's initialisation": lambda network: nn.init.xavier_uniform_(network.main.layers[0].weight),
}


@pytest.mark.slow
@pytest.mark.parametrize("network", [Generator, Discriminator])
@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_weights_that_somebody_changed_are_known(network: type[Network], touch: Callable[[Network], object]) -> None:
    module = small(network)
    assert module.is_untouched()
    touch(module)
    assert not module.is_untouched()


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_only_a_network_without_a_seed_is_there_to_be_drawn_again(network: type[Network]) -> None:
    assert not small(network, seed=0).is_untouched()
    module = small(network)
    assert copy.deepcopy(module).is_untouched() and module.eval().is_untouched()
    assert module.bfloat16().is_untouched() and not module.float().is_untouched(), "rounded weights are not the drawn ones"
    again = small(network)
    again.reset_parameters(3)
    assert again.is_untouched()


def with_z_dim(z_dim: object) -> nn.Module:
    module = nn.Linear(3, 2)
    module.z_dim = z_dim
    return module


@pytest.mark.parametrize(
    ("generator", "shape"),
    [
        pytest.param(lambda: Generator(z_dim=9), (9,), id="fastgan's"),
        pytest.param(lambda: with_z_dim(12), (12,), id="a number"),
        pytest.param(lambda: with_z_dim([8, 1, 1]), (8, 1, 1), id="a shape"),
        pytest.param(lambda: with_z_dim(torch.Size([8, 2])), (8, 2), id="torch's shape"),
        pytest.param(lambda: with_z_dim(np.int64(12)), (12,), id="numpy's number"),
        pytest.param(lambda: with_z_dim((np.int32(8), 1)), (8, 1), id="a shape of numpy's numbers"),
        pytest.param(lambda: with_z_dim(None), (3,), id="none"),
        pytest.param(lambda: nn.Sequential(nn.Linear(64, 10), nn.Linear(10, 2)), (64,), id="the first Linear's"),
        pytest.param(lambda: nn.Sequential(nn.ConvTranspose2d(32, 8, 4), nn.Linear(3, 3)), (32, 1, 1), id="DCGAN's"),
        pytest.param(lambda: nn.ConvTranspose1d(6, 2, 8), (6, 1), id="of signals"),
        pytest.param(lambda: nn.ConvTranspose3d(7, 2, 4), (7, 1, 1, 1), id="of voxels"),
    ],
)
def test_latents_have_the_shape_a_generator_says(generator: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert latent_shape(generator()) == shape


def test_a_generator_that_does_not_say_it_is_told_how() -> None:
    with pytest.raises(ValueError, match="z_dim"):
        latent_shape(nn.Sequential(nn.Conv2d(1, 1, 1)))


@pytest.mark.parametrize(
    "z_dim",
    ["4", 4.0, True, (), ("4",), (4, 1.0), (4, False), [[4]], {4}, np.ones(2), nn.Linear, 0, -4, np.int64(-1), (4, 0), (-4, 1)],
    ids=repr,
)
def test_a_z_dim_that_is_none_is_refused_by_its_name(z_dim: object) -> None:
    with pytest.raises(
        ValueError, match=r"^generator.z_dim must be .*, such as 100, or its shape, such as \(100, 1, 1\), got "
    ):
        Trainer(with_z_dim(z_dim), nn.Linear(2, 1), device="cpu")


def test_a_trainer_takes_numpys_number_for_latents() -> None:
    trainer = Trainer(with_z_dim(np.int64(3)), nn.Linear(2, 1), device="cpu").attach(torch.zeros(4, 2), 2)
    trainer.step(1)
    assert trainer.sample(5).shape == (5, 2)
