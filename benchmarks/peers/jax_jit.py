"""JAX: the whole step, draws included, as one jitted function with donated buffers; on a GPU a scan over many steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import SLOPE, Z_DIM, Batch, Layers, Setup

try:
    BACKEND = jax.default_backend()
except RuntimeError as error:  # a plugin that does not start is as good as none
    raise ImportError(f"jax {jax.__version__} does not start: {error}") from error

Tree = Any
EPSILON = 1e-8
UNROLL = 4  # D updates of a scan's loop body: XLA makes launches that follow each other into one, but not across iterations
# of backward products: XLA's CPU has bf16 kernels for products without a transposed operand, so for forward ones alone
BACKWARD = jnp.float32 if BACKEND == "cpu" else jnp.bfloat16
# of fp32 operands: XLA's default on a GPU is tf32
EXACT = None if BACKEND == "cpu" else jax.lax.Precision.HIGHEST


def _product(x: jax.Array, w: jax.Array, dtype: Any, precision: Any = None) -> jax.Array:
    return jnp.dot(x.astype(dtype), w.astype(dtype), precision=precision, preferred_element_type=jnp.float32)


PRODUCTS = {"fp32": partial(_product, dtype=jnp.float32, precision=EXACT), "tf32": partial(_product, dtype=jnp.float32)}


@jax.custom_jvp
def _bf16_product(x: jax.Array, w: jax.Array) -> jax.Array:
    return _product(x, w, jnp.bfloat16)


@_bf16_product.defjvp
def _bf16_product_jvp(primals: Tree, tangents: Tree) -> tuple[jax.Array, jax.Array]:
    # linear in its tangents, so that reverse mode transposes it, and any order exists
    (x, w), (dx, dw) = primals, tangents
    return _bf16_product(x, w), _product(dx, w, BACKWARD) + _product(x, dw, BACKWARD)


def _tree(layers: Layers) -> Tree:
    return [dict(w=jnp.asarray(w.T.numpy()), b=jnp.asarray(b.numpy())) for w, b in layers]


class Jax:
    """The article's networks as pytrees of fp32 weights [in, out]."""

    numbers = "threefry2x32"  # XLA's own generators, rbg and unsafe_rbg, were no faster on a CPU

    def __init__(self, setup: Setup) -> None:
        self.scans = setup.images.device.type == "cuda"
        if self.scans and BACKEND != "gpu":
            raise ImportError(f"jax {jax.__version__} finds no GPU, it would run on {BACKEND}")
        self.work, self.batch, self.keep = setup.work, setup.batch, 1.0 - setup.dropout
        self.product = _bf16_product if setup.precision == "bf16" else PRODUCTS[setup.precision]
        self.images = jnp.asarray(setup.images.cpu().numpy())
        networks = {name: _tree(layers) for name, layers in zip("gd", setup.weights, strict=True)}
        zeros = {name: jax.tree.map(jnp.zeros_like, networks) for name in ("mean", "square")}
        self.state = dict(networks=networks, **zeros, count=dict(g=jnp.zeros(()), d=jnp.zeros(())))
        self.key = jax.random.key(setup.seed, impl=self.numbers)
        self.jitted = jax.jit(self._step, donate_argnums=(0, 1))
        self.scanned = jax.jit(self._scan, static_argnums=3, donate_argnums=(0, 1))

    def play(self, steps: int) -> jax.Array:
        if self.scans:
            self.state, self.key, loss = self.scanned(self.state, self.key, self.images, steps)
            return loss
        for _ in range(steps):
            self.state, self.key, loss = self.jitted(self.state, self.key, self.images)
        return loss

    def facts(self) -> dict[str, str]:
        """What a row says besides times."""
        return {"jax": jax.__version__}

    def first_losses(self, batches: list[Batch]) -> list[float]:
        losses, update_d, update_g = [], jax.jit(self._update_d), jax.jit(self._update_g)
        arrays = [Batch(*(np.asarray(tensor) for tensor in batch)) for batch in batches]
        for batch in arrays[:-1]:
            self.state, loss = update_d(self.state, batch, self.key)
            losses.append(float(loss))
        for _ in range(2):
            self.state, loss = update_g(self.state, arrays[-1].latents, self.key)
            losses.append(float(loss))
        return losses

    def _scan(self, state: Tree, key: jax.Array, images: jax.Array, steps: int) -> tuple[Tree, jax.Array, jax.Array]:
        def step(carry: tuple[Tree, jax.Array], _: None) -> tuple[tuple[Tree, jax.Array], jax.Array]:
            state, key, loss = self._step(*carry, images)
            return (state, key), loss

        unroll = max(1, min(steps, UNROLL // self.work.d_steps))
        (state, key), losses = jax.lax.scan(step, (state, key), length=steps, unroll=unroll)
        return state, key, losses[-1]

    def _step(self, state: Tree, key: jax.Array, images: jax.Array) -> tuple[Tree, jax.Array, jax.Array]:
        for _ in range(self.work.d_steps):
            key, draw, dropout = jax.random.split(key, 3)
            state, loss = self._update_d(state, self._draw(draw, images), dropout)
        key, draw, dropout = jax.random.split(key, 3)
        state, _ = self._update_g(state, jax.random.normal(draw, (self.batch, Z_DIM)), dropout)
        return state, key, loss

    def _draw(self, key: jax.Array, images: jax.Array) -> Batch:
        rows, latents, alpha = jax.random.split(key, 3)
        real = images[jax.random.randint(rows, (self.batch,), 0, len(images))].astype(jnp.float32) / 127.5 - 1.0
        return Batch(real, jax.random.normal(latents, (self.batch, Z_DIM)), jax.random.uniform(alpha, (self.batch, 1)))

    def _linear(self, layer: Tree, x: jax.Array) -> jax.Array:
        return self.product(x, layer["w"]) + layer["b"]

    def _generate(self, layers: Tree, latents: jax.Array) -> jax.Array:
        x = latents
        for layer in layers[:-1]:
            x = jax.nn.relu(self._linear(layer, x))
        return jnp.tanh(self._linear(layers[-1], x))

    def _critic_logits(self, layers: Tree, x: jax.Array, key: jax.Array) -> jax.Array:
        for layer, mask in zip(layers[:-1], jax.random.split(key, len(layers) - 1), strict=True):
            x = jax.nn.leaky_relu(self._linear(layer, x), SLOPE)
            if self.keep < 1.0:
                x = jnp.where(jax.random.bernoulli(mask, self.keep, x.shape), x / self.keep, 0.0)
        return self._linear(layers[-1], x)

    def _d_loss(self, d: Tree, fake: jax.Array, batch: Batch, key: jax.Array) -> jax.Array:
        rows, points = jax.random.split(key)
        real, made = jnp.split(self._critic_logits(d, jnp.concatenate((batch.real, fake)), rows), 2)
        if not self.work.penalty:
            return jax.nn.softplus(-real).mean() + jax.nn.softplus(made).mean()
        mixed = batch.real + batch.alpha * (fake - batch.real)
        gradient = jax.grad(lambda x: self._critic_logits(d, x, points).sum())(mixed)
        penalty = jnp.square(jnp.linalg.norm(gradient, axis=1) - 1.0).mean()
        return made.mean() - real.mean() + self.work.penalty * penalty

    def _g_loss(self, g: Tree, d: Tree, latents: jax.Array, key: jax.Array) -> jax.Array:
        logits = self._critic_logits(d, self._generate(g, latents), key)
        return -logits.mean() if self.work.penalty else jax.nn.softplus(-logits).mean()

    def _update_d(self, state: Tree, batch: Batch, key: jax.Array) -> tuple[Tree, jax.Array]:
        networks = state["networks"]
        fake = self._generate(networks["g"], batch.latents)
        loss, gradient = jax.value_and_grad(self._d_loss)(networks["d"], fake, batch, key)
        return self._adam(state, "d", gradient), loss

    def _update_g(self, state: Tree, latents: jax.Array, key: jax.Array) -> tuple[Tree, jax.Array]:
        networks = state["networks"]
        loss, gradient = jax.value_and_grad(self._g_loss)(networks["g"], networks["d"], latents, key)
        return self._adam(state, "g", gradient), loss

    def _adam(self, state: Tree, name: str, gradient: Tree) -> Tree:
        (beta1, beta2), count = self.work.betas, state["count"][name] + 1.0
        mean = jax.tree.map(lambda m, g: beta1 * m + (1.0 - beta1) * g, state["mean"][name], gradient)
        square = jax.tree.map(lambda s, g: beta2 * s + (1.0 - beta2) * g * g, state["square"][name], gradient)
        size, scale = self.work.lr / (1.0 - beta1**count), 1.0 / (1.0 - beta2**count)

        def descend(w: jax.Array, m: jax.Array, s: jax.Array) -> jax.Array:
            return w - size * m / (jnp.sqrt(s * scale) + EPSILON)

        weights = jax.tree.map(descend, state["networks"][name], mean, square)
        new = dict(networks=weights, mean=mean, square=square, count=count)
        return {part: state[part] | {name: new[part]} for part in new}


class JaxRbg(Jax):
    """The same on XLA's own generator of random bits."""

    numbers = "rbg"
