"""Annealed importance sampling in hand-written JAX: all temperatures of a batch under one `scan`, jitted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax, random
from jax_plain import bce, decode, init
from protocol import BATCH, main

CHAINS, TEMPERATURES, LEAPFROGS, STEP_SIZE = 16, 32, 2, 0.05


def transition(gradient, z, value, slope, beta, key):
    a, b = random.split(key)
    momentum = random.normal(a, z.shape)
    energy = beta * value - 0.5 * (z**2 + momentum**2).sum(-1)
    new, new_value, new_slope = z, value, slope
    for _ in range(LEAPFROGS):
        momentum = momentum + 0.5 * STEP_SIZE * (beta * new_slope - new)
        new = new + STEP_SIZE * momentum
        new_value, new_slope = gradient(new)
        momentum = momentum + 0.5 * STEP_SIZE * (beta * new_slope - new)
    after = beta * new_value - 0.5 * (new**2 + momentum**2).sum(-1)
    accepted = jnp.log(random.uniform(b, energy.shape)) < after - energy
    wide = accepted[..., None]
    return jnp.where(wide, new, z), jnp.where(accepted, new_value, value), jnp.where(wide, new_slope, slope)


def train(job, rows, steps):
    rows = jnp.asarray(rows.reshape(len(rows), -1))
    parameters, _ = init(random.key(0), job)
    betas = jnp.linspace(0.0, 1.0, TEMPERATURES)

    @jax.jit
    def anneal(key):
        key, a, b, c = random.split(key, 4)
        grey = rows[random.randint(a, (BATCH[job],), 0, len(rows))].astype(jnp.float32) / 255
        x = (random.uniform(b, grey.shape) < grey).astype(jnp.float32)

        def likelihood(z):
            found = -bce(decode(parameters, z), x)
            return found.sum(), found

        def gradient(z):
            (_, value), slope = jax.value_and_grad(likelihood, has_aux=True)(z)
            return value, slope

        def move(carry, beta_and_key):
            (z, value, slope, log_weight, before), (beta, one) = carry, beta_and_key
            log_weight = log_weight + (beta - before) * value
            return (*transition(gradient, z, value, slope, beta, one), log_weight, beta), None

        z = random.normal(c, (CHAINS, len(x), 40))
        keys = random.split(key, TEMPERATURES - 2)
        carry = (z, *gradient(z), jnp.zeros(z.shape[:2]), betas[0])
        (_, value, _, log_weight, before), _ = lax.scan(move, carry, (betas[1:-1], keys))
        log_weight = log_weight + (1.0 - before) * value
        return key, jnp.log(CHAINS) - jax.nn.logsumexp(log_weight, 0).mean()

    key = random.key(1)
    for _ in range(steps):
        key, cost = anneal(key)
        yield cost


if __name__ == "__main__":
    main(train)
