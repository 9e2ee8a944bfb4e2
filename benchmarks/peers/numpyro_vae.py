"""NumPyro as its VAE example writes it: SVI whose epoch is a `lax.fori_loop`."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import jit, lax, random
from jax.example_libraries import stax
from numpyro import optim
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO
from protocol import BATCH, main

CHUNK = 20


def encoder(hidden, z_dim):
    return stax.serial(
        stax.Dense(hidden),
        stax.Relu,
        stax.Dense(hidden),
        stax.Relu,
        stax.FanOut(2),
        stax.parallel(stax.Dense(z_dim), stax.serial(stax.Dense(z_dim), stax.Exp)),
    )


def decoder(hidden, out):
    return stax.serial(stax.Dense(hidden), stax.Relu, stax.Dense(hidden), stax.Relu, stax.Dense(out))


def model(batch):
    decode = numpyro.module("decoder", decoder(500, 784), (len(batch), 40))
    with numpyro.plate("batch", len(batch)):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([40]).to_event(1))
        numpyro.sample("obs", dist.Bernoulli(logits=decode(z)).to_event(1), obs=batch)


def guide(batch):
    encode = numpyro.module("encoder", encoder(500, 40), (len(batch), 784))
    loc, scale = encode(batch)
    with numpyro.plate("batch", len(batch)):
        numpyro.sample("z", dist.Normal(loc, scale).to_event(1))


def train(job, rows, steps):
    rows, size = jnp.asarray(rows.reshape(len(rows), -1)), BATCH[job]
    loss = RenyiELBO(alpha=0, num_particles=50) if job == "iwae" else Trace_ELBO()
    svi = SVI(model, guide, optim.Adam(1e-3), loss)

    def batch(key):
        index, draw = random.split(key)
        grey = rows[random.randint(index, (size,), 0, len(rows))].astype(jnp.float32) / 255
        return random.bernoulli(draw, grey).astype(jnp.float32)

    state = svi.init(random.PRNGKey(0), batch(random.PRNGKey(1)))

    @jit
    def epoch(state, key):
        def body(i, carry):
            total, state = carry
            state, value = svi.update(state, batch(random.fold_in(key, i)))
            return total + value, state

        return lax.fori_loop(0, CHUNK, body, (0.0, state))

    for i in range(steps // CHUNK + 2):
        total, state = epoch(state, random.PRNGKey(i + 2))
        yield total / CHUNK / size


if __name__ == "__main__":
    main(train, chunk=CHUNK)
