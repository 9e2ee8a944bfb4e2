"""Eight schools, with one posterior for all latents: mean-field Gaussian, full-rank Gaussian, and adversarial.

The standard deviation tau between the schools may have either sign, so its posterior has two modes, and the effects
eta_j go with it. Integrating eta out leaves two dimensions, in which the exact posterior is a sum over a grid:
y_j ~ N(mu, tau^2 + sigma_j^2). Every posterior is held against it.

Run: python examples/eight_schools.py [--quick]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal
from torch.optim.lr_scheduler import CosineAnnealingLR

import lowerbound as lb
from lowerbound.report import style

# The effects that eight schools measured, and their standard errors.
Y = torch.tensor([2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2])
SIGMA = torch.tensor([0.8, 0.5, 0.8, 0.6, 0.5, 0.6, 0.5, 0.4])


# The model: no data set with rows, so no batch axis; its latents are the same for all data.
class EightSchools(lb.BayesianNet):
    def forward(self, bn: lb.Trace) -> None:
        mu = bn.sample("mu", Normal(0.0, 1.0))
        tau = bn.sample("tau", Normal(0.0, 1.0))
        eta = bn.sample("eta", Normal(torch.zeros(8), 1.0), event_dims=1)
        bn.sample("y", Normal(mu[..., None] + tau[..., None] * eta, SIGMA), event_dims=1)


# A Gaussian posterior, written node by node: (mu, tau, eta) = loc + L e, with L triangular, or diagonal for mean-field.
class Gaussian(lb.BayesianNet):
    def __init__(self, *, full_rank: bool) -> None:
        super().__init__()
        loc = 0.1 * torch.randn(10)
        loc[1] = 1.0  # near one mode: from zero, a full-rank Gaussian may end astride both, a worse optimum
        self.loc, self.log_scale = nn.Parameter(loc), nn.Parameter(torch.full((10,), -1.0))
        self.below = nn.Parameter(torch.zeros(10, 10), requires_grad=full_rank)

    def forward(self, bn: lb.Trace) -> None:
        L = self.below.tril(-1) + self.log_scale.exp().diag()
        mu = bn.sample("mu", Normal(self.loc[0], L[0, 0]))
        e_mu = (mu - self.loc[0]) / L[0, 0]
        tau = bn.sample("tau", Normal(self.loc[1] + L[1, 0] * e_mu, L[1, 1]))
        e = torch.stack([e_mu, (tau - self.loc[1] - L[1, 0] * e_mu) / L[1, 1]], -1)
        bn.sample("eta", MultivariateNormal(self.loc[2:] + e @ L[2:, :2].T, scale_tril=L[2:, 2:]))


# An implicit posterior: a network of noise. It can be drawn from, and has no density.
class Sampler(lb.BayesianNet):
    def __init__(self) -> None:
        super().__init__()
        self.net = lb.nn.MLP(10, [128, 128], 10, activate="elu")

    def forward(self, bn: lb.Trace) -> None:
        z = self.net(torch.randn(*bn.particles, 10))
        bn.implicit("mu", z[..., 0], event_dims=0)
        bn.implicit("tau", z[..., 1], event_dims=0)
        bn.implicit("eta", z[..., 2:])


def train_gaussian(posterior: Gaussian, steps: int) -> tuple[float, float]:
    """Maximise the evidence lower bound; return it and its standard error."""
    optimizer = torch.optim.Adam([p for p in posterior.parameters() if p.requires_grad], lr=0.02)
    schedule = CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        lb.elbo(EightSchools().bind(), {"y": Y}, posterior.bind(), particles=64).sgvb().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        log_weights = lb.elbo(EightSchools().bind(), {"y": Y}, posterior.bind(), particles=100_000).log_weights
    return float(log_weights.mean()), float(log_weights.std()) / len(log_weights) ** 0.5


def train_avb(posterior: Sampler, critic: nn.Module, steps: int) -> float:
    """Train posterior and critic against each other; return the mean of the last training estimates, no bound."""
    q_parameters, critic_parameters = list(posterior.parameters()), list(critic.parameters())
    q_optimizer = torch.optim.Adam(q_parameters, lr=5e-4, betas=(0.5, 0.999))
    critic_optimizer = torch.optim.Adam(critic_parameters, lr=1e-3, betas=(0.5, 0.999))
    schedules = [CosineAnnealingLR(optimizer, steps) for optimizer in (q_optimizer, critic_optimizer)]

    def estimate() -> lb.objectives.AdversarialEstimate:  # each call has draws of its own
        model, q = EightSchools().bind(), posterior.bind()
        return lb.avb(model, {"y": Y}, q, critic, particles=512, contrast="adaptive", moment_draws=2048)

    values = []
    for step in range(1, steps + 1):
        of_model = estimate()
        q_optimizer.zero_grad()
        of_model.sgvb().backward(inputs=q_parameters)
        q_optimizer.step()
        values.append(of_model.value)
        for _ in range(2):
            critic_optimizer.zero_grad()
            estimate().critic_cost().backward(inputs=critic_parameters)
            critic_optimizer.step()
        for schedule in schedules:
            schedule.step()
        if step % 1000 == 0:
            print(f"step {step}: training estimate {torch.stack(values[-100:]).mean():.2f} nats, no bound")
    return float(torch.stack(values[-100:]).mean())


# The exact posterior, in 60 x 60 bins of mu and tau.
MU, TAU, BINS = (-1.2, 2.8), (-3.0, 3.0), 60


def exact_log_joint(mu: Tensor, tau: Tensor) -> Tensor:
    """Return log p(y, mu, tau) at all pairs of mu and tau, shape ``[len(tau), len(mu)]``."""
    mu, tau = mu[:, None], tau[:, None, None]
    log_likelihood = Normal(mu, (tau**2 + SIGMA.double() ** 2).sqrt()).log_prob(Y.double()).sum(-1)
    prior = Normal(torch.zeros((), dtype=torch.float64), 1.0)
    return log_likelihood + prior.log_prob(mu[:, 0]) + prior.log_prob(tau[..., 0])


def midpoints(low: float, high: float, n: int) -> Tensor:
    return low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n


def exact_log_evidence() -> float:
    everywhere = midpoints(-8.0, 8.0, 800)
    return float(exact_log_joint(everywhere, everywhere).logsumexp((0, 1)) + 2 * torch.tensor(16 / 800).log())


def exact_bins(log_evidence: float, cells: int = 10) -> Tensor:
    """Return the probability of every bin, shape ``[tau, mu]``, each the sum of `cells` x `cells` cells."""
    n = BINS * cells
    area = (MU[1] - MU[0]) * (TAU[1] - TAU[0]) / n**2
    mass = area * (exact_log_joint(midpoints(*MU, n), midpoints(*TAU, n)) - log_evidence).exp()
    return mass.reshape(BINS, cells, BINS, cells).sum((1, 3))


def binned_kl(draws: Tensor, exact: Tensor) -> float:
    """Return KL(q(mu, tau) || exact) in nats over the bins, and one more bin for all that is outside of them."""
    edges = [torch.linspace(*TAU, BINS + 1), torch.linspace(*MU, BINS + 1)]
    counts = torch.histogramdd(draws.flip(-1).contiguous(), edges).hist.double().flatten()
    q = torch.cat([counts, (len(draws) - counts.sum())[None]]) / len(draws)
    p = torch.cat([exact.flatten(), (1 - exact.sum()).clamp_min(1e-12)[None]])
    return float(torch.special.xlogy(q, q / p).sum())


@torch.no_grad()
def draw(posterior: lb.BayesianNet, n: int) -> Tensor:
    """Return draws of mu and tau, shape ``[n, 2]``."""
    traces = [posterior.bind().run(particles=n // 10) for _ in range(10)]
    return torch.cat([torch.stack([trace["mu"], trace["tau"]], -1) for trace in traces])


def summary(mu: Tensor, tau: Tensor, weight: Tensor) -> str:
    """Describe weighted values of mu and tau."""
    mean = (weight * mu).sum()
    sd = (weight * (mu - mean) ** 2).sum().sqrt()
    positive, size = (weight * (tau > 0)).sum(), (weight * tau.abs()).sum()
    return f"tau > 0 in {positive:.1%}, mu {mean:.3f} with sd {sd:.3f}, E|tau| = {size:.3f}"


@style.styled
def picture(draws: dict[str, Tensor]) -> Figure:
    """Draw the exact density, and each posterior's draws over its contours."""
    mu, tau = midpoints(*MU, 300), midpoints(*TAU, 300)
    relative = exact_log_joint(mu, tau)
    relative = (relative - relative.max()).exp()
    figure = style.new_figure(9, 4)
    panels = figure.subplots(1, 4, sharex=True, sharey=True)
    for axes in panels:
        colour = "white" if axes is panels[0] else style.INK
        axes.contour(mu, tau, relative, [0.05, 0.2, 0.4, 0.6, 0.8], colors=colour, linewidths=0.7)
        axes.set(xlabel="mu", xlim=MU, ylim=TAU)
    panels[0].pcolormesh(mu, tau, relative, cmap="viridis")
    panels[0].set(title="exact posterior", ylabel="tau")
    for axes, (name, points), colour in zip(panels[1:], draws.items(), style.palette(3), strict=True):
        axes.scatter(*points[:4000].T, s=3, color=colour, alpha=0.3, linewidth=0, zorder=0)
        axes.set_title(name)
    figure.supxlabel("contours: the exact density at 5, 20, 40, 60 and 80 % of its peak; 4000 draws each", fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000, help="of the adversarial posterior; Gaussians take half")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/eight-schools"))
    parser.add_argument("--quick", action="store_true", help="20 steps")
    options = parser.parse_args()
    steps, n = (20, 10_000) if options.quick else (options.steps, 1_000_000)
    torch.manual_seed(options.seed)

    posteriors: dict[str, lb.BayesianNet] = {}
    bounds: dict[str, tuple[float, float]] = {}
    for name, full_rank in (("mean-field Gaussian", False), ("full-rank Gaussian", True)):
        gaussian = Gaussian(full_rank=full_rank)
        bounds[name] = train_gaussian(gaussian, steps // 2)
        posteriors[name] = gaussian
    critic = lb.nn.MLP(10, [256, 256, 256], 1, activate="leaky-relu")
    nn.init.zeros_(critic[-1].weight)  # so that the contrast is the critic's first guess of the posterior
    sampler = Sampler()
    estimate = train_avb(sampler, critic, steps)
    posteriors["adversarial"] = sampler

    log_evidence = exact_log_evidence()
    exact = exact_bins(log_evidence)
    grid = torch.meshgrid(midpoints(*MU, BINS), midpoints(*TAU, BINS), indexing="xy")
    print(f"exact: log p(y) = {log_evidence:.3f} nats; {summary(*grid, exact / exact.sum())}")
    draws = {name: draw(posterior, n) for name, posterior in posteriors.items()}
    for name, points in draws.items():
        kl, moments = binned_kl(points, exact), summary(*points.T, torch.full((n,), 1 / n, dtype=torch.float64))
        print(f"{name}: KL(q(mu, tau) || exact) = {kl:.3f} nats (binned); {moments}")
        if name in bounds:
            bound, stderr = bounds[name]
            print(f"    ELBO {bound:.3f} +- {stderr:.3f} nats; KL in all ten dimensions {log_evidence - bound:.3f}")
        else:
            print(f"    E[log p(y|z) - T] = {estimate:.3f} nats: training estimate, no bound")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "posterior.png").write_bytes(style.png(picture(draws)))
    print(f"picture: {options.out}")


if __name__ == "__main__":
    main()
