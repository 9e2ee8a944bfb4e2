"""``lowerbound train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lowerbound import recipes as library
from lowerbound.cli.options import COMPILE, Device, Seed, key_values, say, schema_lines, sizes
from lowerbound.core.checks import choice
from lowerbound.data import Dataset
from lowerbound.nn import POSTERIORS, PRIORS

__all__ = ["train"]


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe; `lowerbound recipes` lists them.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to write.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH", help="digits, four-points, mnist, or a .npy, .npz, .csv, .parquet or folder of images."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How often every row is seen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help="The size of the latent vector.")] = None,
    hidden: Annotated[str | None, typer.Option(metavar="N,N", help="Sizes of the hidden layers, for MLPs.")] = None,
    activation: Annotated[str | None, typer.Option(help="relu, elu, gelu, silu, tanh, softplus or leaky-relu.")] = None,
    likelihood: Annotated[
        str | None,
        typer.Option(
            help="bernoulli, gaussian, logistic (pixels) or logistic-mixture; for counts poisson or negative-binomial, "
            "alone or after zero-inflated-; mixed for columns of several types; by default what fits "
            "the data, counts aside."
        ),
    ] = None,
    components: Annotated[int | None, typer.Option(help="The components of logistic-mixture.")] = None,
    scale: Annotated[
        str | None, typer.Option(help="The likelihood's scale: shared, per-dimension (both learned), or a number.")
    ] = None,
    posterior: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"The posterior q(z | x): {', '.join(POSTERIORS)}.")
    ] = None,
    posterior_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Its argument, such as transforms=2; may be repeated."),
    ] = None,
    prior: Annotated[str | None, typer.Option(metavar="NAME", help=f"The prior p(z): {', '.join(PRIORS)}.")] = None,
    prior_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Its argument, such as components=500; may be repeated."),
    ] = None,
    binarize: Annotated[str | None, typer.Option(help="none, threshold, dynamic or static.")] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Values may be missing: NaN in arrays, empty cells in tables.")
    ] = False,
    schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What the columns of a table are, in TOML; see `lowerbound data`."),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="The side of the square that the pictures of a folder are brought to, in pixels."
        ),
    ] = None,
    particles: Annotated[int | None, typer.Option(help="Posterior draws a row.")] = None,
    gradient: Annotated[
        str | None, typer.Option(help="The estimator: sgvb, stl, dreg, reinforce, vargrad, vimco or relaxed.")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="The weight of the KL term in the bound of an ELBO.")] = None,
    groups: Annotated[int | None, typer.Option(help="Groups that the particles of an IWAE form: MIWAE.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Groups for the posterior only, all particles for the model: PIWAE.")
    ] = False,
    alpha: Annotated[float | None, typer.Option(help="The order of Rényi's bound, 0 for an IWAE's own.")] = None,
    elbo_share: Annotated[float | None, typer.Option(help="The ELBO's share in the bound of an IWAE: CIWAE.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of --gradient relaxed, for binary latents: lower is less biased.")
    ] = None,
    straight_through: Annotated[
        bool, typer.Option("--straight-through", help="Of --gradient relaxed: rounded draws, relaxed gradients.")
    ] = False,
    network: Annotated[str | None, typer.Option(help="For implicit posteriors: dense or conv.")] = None,
    sampler: Annotated[str | None, typer.Option(help="For implicit posteriors: noise or basis.")] = None,
    noise_dim: Annotated[int | None, typer.Option(help="For implicit posteriors: the size of the noise.")] = None,
    contrast: Annotated[
        str | None, typer.Option(help="What a critic compares the posterior with: prior or adaptive.")
    ] = None,
    critic: Annotated[str | None, typer.Option(help="The critic's form: mlp or bilinear.")] = None,
    critic_hidden: Annotated[
        str | None, typer.Option(metavar="N,N", help="Sizes of the critic's hidden layers.")
    ] = None,
    critic_steps: Annotated[int | None, typer.Option(help="Updates of the critic for each of the model's.")] = None,
    critic_lr: Annotated[float | None, typer.Option(help="The critic's learning rate.")] = None,
    lr: Annotated[float | None, typer.Option(help="The learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Any optimizer of torch.optim, by name.")] = None,
    optimizer_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An argument of the optimizer; may be repeated.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="The learning rate's course: constant, cosine or onecycle.")
    ] = None,
    kl_warmup: Annotated[int | None, typer.Option(help="Steps over which the KL term's weight rises to 1.")] = None,
    clip: Annotated[float | None, typer.Option(help="The largest norm of the gradient.")] = None,
    validation: Annotated[float | None, typer.Option(help="The share of rows held out to choose the weights.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better validation bound.")
    ] = None,
    seed: Seed = 0,
    data_seed: Annotated[
        int | None, typer.Option(help="The seed of splits and binarisation, to compare runs of several seeds.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16 for the networks, or auto for what is measured to be faster.")
    ] = None,
    compile: Annotated[
        str | None,
        typer.Option(help="on: compiled steps; graphs: recorded kernels (CUDA); off; auto: what is measured to pay."),
    ] = None,
    microbatches: Annotated[
        int | None, typer.Option(help="Parts in which a step is computed; by default one for each process of torchrun.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN, if there is one.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write RUN/tensorboard too (an extra).")] = False,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Log to MLflow too (an extra).")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a recipe on data and leave a run folder.

    Example: `lowerbound train vae --data digits --out runs/digits`
    """
    options = key_values("--optimizer-option", optimizer_option or [])
    chosen = library.RECIPES[choice("recipe", recipe, library.RECIPES)].changed(
        data=data,
        binarize=binarize,
        missing=missing or None,
        schema=None if schema is None else str(schema),
        image_size=image_size,
        likelihood=likelihood,
        likelihood_options={"scale": _scale(scale), "components": components},
        latent_dim=latent_dim,
        model_options={
            "hidden": sizes("--hidden", hidden),
            "activation": activation,
            "posterior": posterior,
            "posterior_options": key_values("--posterior-option", posterior_option or []) or None,
            "prior": prior,
            "prior_options": key_values("--prior-option", prior_option or []) or None,
            "network": network,
            "sampler": sampler,
            "noise_dim": noise_dim,
            "critic": critic,
            "critic_hidden": sizes("--critic-hidden", critic_hidden),
        },
        objective_options={
            "particles": particles,
            "gradient": gradient,
            "beta": beta,
            "groups": groups,
            "partial": partial or None,
            "alpha": alpha,
            "elbo_share": elbo_share,
            "temperature": temperature,
            "straight_through": straight_through or None,
            "contrast": contrast,
            "critic_steps": critic_steps,
            "critic_lr": critic_lr,
        },
        validation=validation,
        seed=seed,
        data_seed=data_seed,
        training={
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "optimizer": optimizer,
            "optimizer_options": options if options or optimizer else None,  # another optimizer's do not fit
            "schedule": schedule,
            "kl_warmup": kl_warmup,
            "clip": clip,
            "patience": patience,
            "precision": precision,
            "compile": None if compile is None else COMPILE[choice("compile", compile, COMPILE)],
            "microbatches": microbatches,
        },
    )
    run = library.train(
        chosen,
        out=out,
        resume=resume,
        device=device,
        progress=not quiet,
        tensorboard=tensorboard,
        mlflow=mlflow,
        command=["lowerbound", *sys.argv[1:]],
        show=_show,
    )
    last = run.history[-1]
    shown = last.get("validation") or last["train"]
    where = "held-out" if "validation" in last else "training"
    terms = ", ".join(f"{name} {value:.2f}" for name, value in shown.items() if not name.startswith("critic_"))
    say(f"{where} rows after epoch {last['epoch']}: {terms} nats a row")
    if "critic_loss" in shown:
        say(
            f"the critic: loss {shown['critic_loss']:.3f} nats, accuracy {shown['critic_accuracy']:.1%}; "
            "the estimate is no bound, evaluate to see what holds"
        )
    elif not run.config["objective"]["certified"]:
        say(f"{next(iter(shown))} is no certified bound of log p(x): evaluate to see what holds")
    say(f"run folder: {out}")
    say(f"next: lowerbound evaluate {out}; lowerbound report {out}")


def _show(rows: Dataset) -> None:
    """Say what the rows were taken for, where a reader could not know."""
    if rows.schema:
        say("\n".join(["columns:", *schema_lines(rows.schema)]))
    images = rows.describe().get("images")
    if images is not None:
        *colours, height, width = rows.event_shape
        size = f"{height} x {width}" if height == width else f"{height} (height) x {width} (width)"
        say(f"images: {size} pixels, {'RGB' if colours else 'grey'}")
        for done, count in images.items():
            say(f"  {done}: {count:,}")


def _scale(text: str | None) -> float | str | None:
    if text is None or text in ("shared", "per-dimension"):
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"expected shared, per-dimension or a number, got {text!r}.", param_hint="--scale"
        ) from None
