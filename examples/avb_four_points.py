"""Adversarial variational Bayes for beginners, in the order of the article of that name: four points in two dimensions.

Four 2 x 2 images, each with one pixel lit, are stretched into rows of four pixels. An encoder without a density learns
to cut the latent plane into four regions; a Gaussian posterior of the same size, trained beside it, cannot.

Run: python examples/avb_four_points.py [--quick]
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.optim.lr_scheduler import CosineAnnealingLR

import lowerbound as lb
from lowerbound.report import style

# Parameters
batch_size = 512
latent_dim = 2  # dimension of latent space
input_dim = 4  # dimension of input data
hidden = [256, 256]  # sizes of the hidden layers

# Input data: every class equally often
labels = torch.arange(input_dim).repeat_interleave(batch_size // input_dim)
x = torch.eye(input_dim)[labels]


# Encoder: noise is joined to the input data, and what comes out is a draw of z, whose density nobody knows.
class Encoder(lb.BayesianNet):
    def __init__(self) -> None:
        super().__init__()
        self.net = lb.nn.MLP(input_dim + input_dim, hidden, latent_dim)

    def forward(self, bn: lb.Trace, x: Tensor) -> None:
        noise = torch.randn(*bn.particles, len(x), input_dim)
        bn.implicit("z", self.net(torch.cat([x.expand_as(noise), noise], -1)))


# The encoder of a VAE, for comparison: the same network gives the mean and the scale of a Gaussian.
class GaussianEncoder(lb.BayesianNet):
    def __init__(self) -> None:
        super().__init__()
        self.net = lb.nn.MLP(input_dim, hidden, 2 * latent_dim)

    def forward(self, bn: lb.Trace, x: Tensor) -> None:
        mean, log_scale = self.net(x).chunk(2, -1)
        bn.sample("z", Normal(mean, log_scale.exp()), event_dims=1)


# Decoder: the prior of z, and a Bernoulli for each pixel.
class Decoder(lb.BayesianNet):
    def __init__(self) -> None:
        super().__init__()
        self.net = lb.nn.MLP(latent_dim, hidden, input_dim)

    def forward(self, bn: lb.Trace, n: int) -> None:
        z = bn.sample("z", Normal(torch.zeros(n, latent_dim), 1.0), event_dims=1)
        bn.sample("x", Bernoulli(logits=self.net(z)), event_dims=1)


# Discriminator, the critic: one logit that tells draws of the posterior (label 1) from draws of the prior (label 0).
class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = lb.nn.MLP(input_dim + latent_dim, hidden, 1)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        rows = (2 * x - 1).expand(*z.shape[:-1], input_dim)
        return self.net(torch.cat([rows, z], -1))


# Loss functions: sgvb() is T - log p(x|z), the generator's; critic_cost() is the discriminator's, the cross-entropy
# softplus(-T) on draws of the posterior plus softplus(T) on draws of the prior.
def adversarial_losses(
    decoder: Decoder, encoder: Encoder, critic: Critic, particles: int = 1
) -> lb.objectives.AdversarialEstimate:
    model, posterior = decoder.bind(len(x)), encoder.bind(x)
    return lb.avb(model, {"x": x}, posterior, critic, learns="ratio", particles=particles)


# Optimization and training
def train_avb(decoder: Decoder, encoder: Encoder, critic: Critic, steps: int) -> tuple[list[float], list[float]]:
    model_parameters, critic_parameters = [*encoder.parameters(), *decoder.parameters()], list(critic.parameters())
    optimizer = torch.optim.Adam(model_parameters, lr=2e-4, betas=(0.5, 0.999))
    critic_optimizer = torch.optim.Adam(critic_parameters, lr=1e-3, betas=(0.5, 0.999))
    gen_loss_list, disc_loss_list = [], []
    for _ in range(steps):
        losses = adversarial_losses(decoder, encoder, critic)
        gen_loss = losses.sgvb().mean()
        optimizer.zero_grad()
        gen_loss.backward(inputs=model_parameters)
        optimizer.step()

        disc_loss = losses.critic_cost().mean()  # on the same draws, as in the article
        critic_optimizer.zero_grad()
        disc_loss.backward(inputs=critic_parameters)
        critic_optimizer.step()
        gen_loss_list.append(gen_loss.item())
        disc_loss_list.append(disc_loss.item())
    return gen_loss_list, disc_loss_list


def train_vae(decoder: Decoder, encoder: GaussianEncoder, steps: int) -> None:
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    schedule = CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        bound = lb.elbo(decoder.bind(len(x)), {"x": x}, encoder.bind(x), analytic_kl=True)
        optimizer.zero_grad()
        bound.sgvb().mean().backward()
        optimizer.step()
        schedule.step()


# Results
@style.styled
def training_curve(gen_loss_list: list[float], disc_loss_list: list[float]) -> Figure:
    figure = style.new_figure(6.4, 4)
    axes = figure.subplots()
    axes.plot(gen_loss_list, color=style.MAIN, linewidth=0.6, label="generation loss: a training estimate, no bound")
    axes.plot(disc_loss_list, color=style.ACCENT, linewidth=0.6, label="discrimination loss")
    # If each point had a quarter of the prior to itself, T would be log 4 there.
    ideal = {"color": style.INK, "linewidth": 0.8, "linestyle": "--"}
    axes.axhline(math.log(4), **ideal, label="where they would be if each point had its own quarter of the prior")
    axes.axhline(math.log(5 / 4) + math.log(5) / 4, **ideal)
    axes.set(
        title="Training curve",
        xlabel="step",
        ylabel="loss (nats per row)",
        ylim=(0, None),
        xlim=(0, len(gen_loss_list)),
    )
    axes.legend()
    return figure


@style.styled
def latent_scatter(encoders: dict[str, lb.BayesianNet], n_vis: int = 10) -> Figure:
    figure = style.new_figure(8.4, 4.4, picture=True)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (name, encoder) in zip(panels, encoders.items(), strict=True):
        with torch.no_grad():
            z = encoder.bind(x).run(particles=n_vis)["z"]  # 10 draws for each of 512 rows
        for label, colour in enumerate(style.palette(input_dim)):
            points = z[:, labels == label].flatten(0, 1)
            axes.scatter(*points.T, s=3, color=colour, alpha=0.5, linewidth=0, label=f"pixel {label + 1} lit")
        axes.set(title=name, xlabel="z1", ylabel="z2", aspect="equal")
    legend = figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, markerscale=3)
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    return figure


@torch.no_grad()
def averages(
    bound: Callable[[], lb.objectives.AdversarialEstimate | lb.objectives.EvidenceLowerBound], repeats: int
) -> tuple[float, float]:
    """Return a bound or estimate and its E log p(x|z), in nats a row, each a mean over `repeats` sets of draws."""
    bounds = (bound() for _ in range(repeats))
    pairs = [torch.stack([each.value.mean(), each.terms["reconstruction"].mean()]) for each in bounds]
    value, reconstruction = torch.stack(pairs).mean(0).tolist()
    return value, reconstruction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="of AVB; the VAE takes three times as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/avb-four-points"))
    parser.add_argument("--quick", action="store_true", help="50 steps")
    options = parser.parse_args()
    steps = 50 if options.quick else options.steps
    torch.manual_seed(options.seed)

    decoder, encoder, critic = Decoder(), Encoder(), Critic()
    gen_loss_list, disc_loss_list = train_avb(decoder, encoder, critic, steps)
    vae_decoder, vae_encoder = Decoder(), GaussianEncoder()
    train_vae(vae_decoder, vae_encoder, 3 * steps)

    def avb() -> lb.objectives.AdversarialEstimate:
        return adversarial_losses(decoder, encoder, critic, particles=100)

    def vae() -> lb.objectives.EvidenceLowerBound:
        return lb.elbo(vae_decoder.bind(len(x)), {"x": x}, vae_encoder.bind(x), particles=100, analytic_kl=True)

    results = {
        "AVB": (decoder, avb, "E[log p(x|z) - T]: training estimate, no bound"),
        "VAE": (vae_decoder, vae, "ELBO, a lower bound of log p(x)"),
    }
    for name, (network, bound, label) in results.items():
        log_likelihood, _ = lb.evaluation.quadrature(network, torch.eye(input_dim))  # of each of the four points
        value, reconstruction = averages(bound, repeats=1 if options.quick else 10)
        print(f"{name}: exact log p(x) = {float(log_likelihood.mean()):.3f} nats by quadrature; -1.386 is the limit")
        print(f"    {value:.3f} nats: {label}")
        print(f"    reconstruction error {-reconstruction / input_dim:.4f} nats a pixel")

    options.out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "training_curve": training_curve(gen_loss_list, disc_loss_list),
        "latent_scatter": latent_scatter({"AVB": encoder, "VAE, a Gaussian posterior": vae_encoder}),
    }
    for name, figure in pictures.items():
        (options.out / f"{name}.png").write_bytes(style.png(figure))
    print(f"pictures: {options.out}")


if __name__ == "__main__":
    main()
