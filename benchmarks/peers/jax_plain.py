"""Hand-written JAX: the step jitted in a loop, or an epoch under `lax.scan` (``--scan`` as the fourth argument)."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
from jax import lax, random
from protocol import BATCH, main


def layers(key, sizes):
    keys = random.split(key, len(sizes) - 1)
    glorot = jax.nn.initializers.glorot_uniform()
    return [(glorot(k, (a, b)), jnp.zeros(b)) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def mlp(parameters, x):
    for i, (weight, bias) in enumerate(parameters):
        x = x @ weight + bias
        x = jax.nn.relu(x) if i < len(parameters) - 1 else x
    return x


def convolution(parameters, x, *, stride=1):
    weight, bias = parameters
    x = lax.conv_general_dilated(x, weight, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return x + bias


def transposed(parameters, x):
    weight, bias = parameters
    x = lax.conv_transpose(x, weight, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return x + bias


def encode(parameters, x):
    if "body" not in parameters:
        return mlp(parameters["encoder"], x)
    h = x.reshape(-1, 28, 28, 1)
    for i, layer in enumerate(parameters["body"]):
        h = jax.nn.relu(convolution(layer, h, stride=2 if i == 1 else 1))
    return mlp(parameters["encoder"], h.reshape(len(h), -1))


def decode(parameters, z):
    if "body" not in parameters:
        return mlp(parameters["decoder"], z)
    h = jax.nn.relu(mlp(parameters["decoder"], z)).reshape(-1, 14, 14, 64)
    h = jax.nn.relu(transposed(parameters["up"], h))
    return convolution(parameters["last"], h).reshape(len(h), -1)


def bce(logits, x):
    return (jax.nn.softplus(logits) - x * logits).sum(-1)


def init(key, job):
    if job == "avb":
        a, b, c = random.split(key, 3)
        model = {"encoder": layers(a, (8, 256, 256, 2)), "decoder": layers(b, (2, 256, 256, 4))}
        return model, layers(c, (6, 256, 256, 1))
    if job == "conv":
        glorot, keys = jax.nn.initializers.glorot_uniform(), random.split(key, 8)
        sizes = [(1, 32), (32, 64), (64, 64), (64, 64), (64, 32), (32, 1)]
        made = [(glorot(k, (3, 3, *s)), jnp.zeros(s[1])) for k, s in zip(keys[:6], sizes, strict=True)]
        networks = {"encoder": layers(keys[6], (64 * 196, 32, 4)), "decoder": layers(keys[7], (2, 64 * 196))}
        return {"body": made[:4], "up": made[4], "last": made[5], **networks}, None
    a, b = random.split(key)
    return {"encoder": layers(a, (784, 500, 500, 80)), "decoder": layers(b, (40, 500, 500, 784))}, None


def vae_cost(parameters, x, key, particles):
    draw, noise = random.split(key)
    x = (random.uniform(draw, x.shape) < x).astype(jnp.float32)
    loc, log_variance = jnp.split(encode(parameters, x), 2, -1)
    lead = (particles,) if particles else ()
    eps = random.normal(noise, (*lead, *loc.shape))
    z = loc + jnp.exp(0.5 * log_variance) * eps
    error = bce(decode(parameters, z), x)
    if not particles:
        kl = 0.5 * (jnp.exp(log_variance) + loc**2 - 1 - log_variance).sum(-1)
        return (error + kl).mean()
    log_ratio = 0.5 * (eps**2 - z**2 + log_variance).sum(-1)
    return -(jax.nn.logsumexp(log_ratio - error, 0) - jnp.log(particles)).mean()


def draw_z(model, x, key):
    return mlp(model["encoder"], jnp.concatenate([x, random.normal(key, (len(x), 4))], -1))


def judge(critic, x, z):
    return mlp(critic, jnp.concatenate([2 * x - 1, z], -1))[..., 0]


def model_cost(model, critic, x, key):
    z = draw_z(model, x, key)
    return (bce(mlp(model["decoder"], z), x) + judge(critic, x, z)).mean()


def critic_cost(critic, model, x, key):
    a, b = random.split(key)
    z = lax.stop_gradient(draw_z(model, x, a))
    return (jax.nn.softplus(-judge(critic, x, z)) + jax.nn.softplus(judge(critic, x, random.normal(b, z.shape)))).mean()


def adam(parameters, gradient, state, lr, betas=(0.9, 0.999)):
    m, v, t = state
    t = t + 1
    m = jax.tree.map(lambda a, g: betas[0] * a + (1 - betas[0]) * g, m, gradient)
    v = jax.tree.map(lambda a, g: betas[1] * a + (1 - betas[1]) * g * g, v, gradient)
    scale = lr * jnp.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
    return jax.tree.map(lambda p, a, b: p - scale * a / (jnp.sqrt(b) + 1e-8), parameters, m, v), (m, v, t)


def zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree), jax.tree.map(jnp.zeros_like, tree), jnp.zeros(())


def make_step(job, rows):
    size = BATCH[job]

    def step(carry, i):
        model, critic, model_state, critic_state, key = carry
        key, a, b, c = random.split(key, 4)
        x = rows[random.randint(a, (size,), 0, len(rows))]
        if job == "avb":
            cost, gradient = jax.value_and_grad(model_cost)(model, critic, x, b)
            model, model_state = adam(model, gradient, model_state, 2e-4, (0.5, 0.999))
            _, gradient = jax.value_and_grad(critic_cost)(critic, model, x, c)
            critic, critic_state = adam(critic, gradient, critic_state, 1e-3, (0.5, 0.999))
        else:
            grey, particles = x.astype(jnp.float32) / 255, 50 if job == "iwae" else 0
            cost, gradient = jax.value_and_grad(vae_cost)(model, grey, b, particles)
            model, model_state = adam(model, gradient, model_state, 1e-3)
        return (model, critic, model_state, critic_state, key), cost

    return step


SCAN = "--scan" in sys.argv


def train(job, rows, steps):
    rows = jnp.asarray(rows.reshape(len(rows), -1))
    model, critic = init(random.key(0), job)
    carry = (model, critic, zeros(model), None if critic is None else zeros(critic), random.key(1))
    step = make_step(job, rows)
    if SCAN:
        many = jax.jit(lambda c: lax.scan(step, c, jnp.arange(CHUNK)), donate_argnums=0)
        for _ in range(steps // CHUNK + 2):
            carry, costs = many(carry)
            yield costs.mean()
    else:
        one = jax.jit(step, donate_argnums=0)
        for i in range(steps):
            carry, cost = one(carry, i)
            yield cost


CHUNK = 20
if __name__ == "__main__":
    main(train, chunk=CHUNK if SCAN else 1)
