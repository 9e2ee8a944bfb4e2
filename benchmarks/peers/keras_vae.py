"""Keras as its guide to variational autoencoders writes it, on JAX: a sampling layer, `compile` and `fit`."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import keras_avb
import numpy as np
from keras import layers, ops
from keras_avb import CHUNK
from protocol import BATCH, main


def networks(job):
    if job != "conv":
        body = [layers.Dense(500, activation="relu"), layers.Dense(500, activation="relu")]
        back = [layers.Dense(500, activation="relu"), layers.Dense(500, activation="relu"), layers.Dense(784)]
        return keras.Sequential(body), 40, keras.Sequential(back)
    wide = {"padding": "same", "activation": "relu"}
    body = [
        layers.Reshape((28, 28, 1)),
        *(layers.Conv2D(32, 3, **wide), layers.Conv2D(64, 3, strides=2, **wide)),
        *(layers.Conv2D(64, 3, **wide), layers.Conv2D(64, 3, **wide)),
        *(layers.Flatten(), layers.Dense(32, activation="relu")),
    ]
    back = [
        *(layers.Dense(64 * 14 * 14, activation="relu"), layers.Reshape((14, 14, 64))),
        layers.Conv2DTranspose(32, 3, strides=2, **wide),
        *(layers.Conv2D(1, 3, padding="same"), layers.Reshape((784,))),
    ]
    return keras.Sequential(body), 2, keras.Sequential(back)


class VAE(keras.Model):
    def __init__(self, job):
        super().__init__()
        self.body, latent_dim, self.decoder = networks(job)
        self.loc, self.log_variance = layers.Dense(latent_dim), layers.Dense(latent_dim)
        self.particles = 50 if job == "iwae" else 0
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, grey):
        x = ops.cast(keras.random.uniform(ops.shape(grey), seed=self.seeds) < grey, "float32")
        h = self.body(x)
        loc, log_variance = self.loc(h), self.log_variance(h)
        lead = (self.particles,) if self.particles else ()
        noise = keras.random.normal((*lead, *loc.shape), seed=self.seeds)
        z = loc + ops.exp(0.5 * log_variance) * noise
        logits = self.decoder(ops.reshape(z, (-1, z.shape[-1])))
        logits = ops.reshape(logits, (*lead, *x.shape))
        error = ops.sum(ops.softplus(logits) - x * logits, -1)
        if self.particles:
            log_ratio = 0.5 * ops.sum(noise**2 - z**2 + log_variance, -1)
            bound = ops.logsumexp(log_ratio - error, 0) - float(np.log(self.particles))
            self.add_loss(-ops.mean(bound))
        else:
            kl = 0.5 * ops.sum(ops.exp(log_variance) + loc**2 - 1 - log_variance, -1)
            self.add_loss(ops.mean(error + kl))
        return loc


def train(job, rows, steps):
    if job == "avb":
        yield from keras_avb.train(job, rows, steps)
        return
    model, size = VAE(job), BATCH[job]
    grey = rows.reshape(len(rows), -1).astype("float32") / 255
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    generator = np.random.default_rng(0)
    for _ in range(steps // CHUNK + 2):
        chosen = generator.integers(0, len(grey), CHUNK * size)
        yield model.fit(grey[chosen], batch_size=size, epochs=1, verbose=0).history["loss"][0]


if __name__ == "__main__":
    main(train, chunk=CHUNK)
