"""Adversarial variational Bayes in Keras on JAX as its guide to custom training steps has it, with two optimizers."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from keras import layers, ops
from protocol import BATCH, main

CHUNK = 50


def mlp(fan_in, fan_out):
    hidden = (layers.Dense(256, activation="relu"), layers.Dense(256, activation="relu"))
    return keras.Sequential([keras.Input((fan_in,)), *hidden, layers.Dense(fan_out)])


class AVB(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.critic = mlp(4 + 4, 2), mlp(2, 4), mlp(4 + 2, 1)
        self.seeds = keras.random.SeedGenerator(0)
        self.tracker = keras.metrics.Mean(name="loss")

    def compile(self, model_optimizer, critic_optimizer):
        super().compile(optimizer=model_optimizer)
        model_optimizer.build(self.encoder.trainable_variables + self.decoder.trainable_variables)
        critic_optimizer.build(self.critic.trainable_variables)
        self.critic_optimizer = critic_optimizer
        self.critic_moments = critic_optimizer.variables  # tracked: `fit` carries no second optimizer by itself

    @property
    def metrics(self):
        return [self.tracker]

    def judge(self, x, z):
        return self.critic(ops.concatenate([2 * x - 1, z], -1))[..., 0]

    def call(self, x, turn="model"):
        noise = keras.random.normal((len(x), 4), seed=self.seeds)
        z = self.encoder(ops.concatenate([x, noise], -1))
        if turn == "model":
            logits = self.decoder(z)
            return ops.mean(ops.sum(ops.softplus(logits) - x * logits, -1) + self.judge(x, z))
        z, prior = ops.stop_gradient(z), keras.random.normal(z.shape, seed=self.seeds)
        return ops.mean(ops.softplus(-self.judge(x, z)) + ops.softplus(self.judge(x, prior)))

    def model_cost(self, model, critic, rest, x):
        return self.stateless_call(model + critic, rest, x, turn="model")

    def critic_cost(self, critic, model, rest, x):
        return self.stateless_call(model + critic, rest, x, turn="critic")

    def train_step(self, state, data):
        trainable, rest, moments, metrics = state
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        split = len(trainable) - len(self.critic.trainable_variables)
        model, critic = trainable[:split], trainable[split:]
        (cost, rest), gradient = jax.value_and_grad(self.model_cost, has_aux=True)(model, critic, rest, x)
        model, moments = self.optimizer.stateless_apply(moments, gradient, model)
        (_, rest), gradient = jax.value_and_grad(self.critic_cost, has_aux=True)(critic, model, rest, x)
        split = len(self.critic_moments)
        critic, critic_moments = self.critic_optimizer.stateless_apply(rest[:split], gradient, critic)
        metrics = self.tracker.stateless_update_state(metrics, cost)
        state = (model + critic, critic_moments + rest[split:], moments, metrics)
        return {"loss": self.tracker.stateless_result(metrics)}, state


def train(job, rows, steps):
    model, size = AVB(), BATCH[job]
    betas = {"beta_1": 0.5, "beta_2": 0.999}
    model.compile(keras.optimizers.Adam(2e-4, **betas), keras.optimizers.Adam(1e-3, **betas))
    generator = np.random.default_rng(0)
    for _ in range(steps // CHUNK + 2):
        chosen = generator.integers(0, len(rows), CHUNK * size)
        yield model.fit(rows[chosen], batch_size=size, epochs=1, verbose=0).history["loss"][0]


if __name__ == "__main__":
    main(train, chunk=CHUNK)
