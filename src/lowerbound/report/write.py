"""From a run folder to its report: figures as files, and one page that holds everything."""

from __future__ import annotations

import json
import os
import shlex
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowerbound.core.distributed import place
from lowerbound.core.files import write_bytes
from lowerbound.evaluation import Gallery, Scores
from lowerbound.report import figures, tables
from lowerbound.report.aggregate_figure import SHOWN_UNITS, aggregated_posterior
from lowerbound.report.health import HEADER, health
from lowerbound.report.html import Markup, Page, Picture, Section, code, element, picture, render, table
from lowerbound.report.ladder import Rung, ladder, rungs
from lowerbound.report.records import Record, flat, read_record
from lowerbound.report.style import png
from lowerbound.report.verdict import headline, notes, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write"]

_HEALTH = ("unit_kl", "aggregated_posterior")  # figures that stand beside the numbers of the latents

_FIRST_MEASURES = {True: ("elbo", "iwae-1000"), False: ()}  # by whether the objective is certified

# name, the gallery's part, title, caption
_GALLERY: tuple[tuple[str, Callable[..., Figure], str, str, str], ...] = (
    (
        "reconstructions", figures.reconstructions, "reconstructions", "Reconstructions",
        "Rows of the evaluated data, and the mean of p(x | z) at the mean of their posterior.",
    ),
    (
        "samples", figures.samples, "samples", "Samples",
        "What the model makes of draws from the prior: the mean of p(x | z).",
    ),
    (
        "latent_scatter", figures.latent_scatter, "latents", "Latent space",
        "The posterior mean of each row, or one draw where the posterior is a sampler without a density. Rows of one "
        "class lie together where the class matters to what is seen.",
    ),
    (
        "manifold", figures.manifold, "manifold", "Latent manifold",
        "What each place of the latent plane decodes to. The steps hold equal prior probability, from 5 % to 95 %.",
    ),
)  # fmt: skip


def write(run: str | os.PathLike[str], scores: Scores | None = None) -> Path:
    """Write ``figures/*.png`` and the self-contained page ``report.html`` of a run; of several processes, one does.

    Args:
        run: The run folder, with ``config.json`` and ``metrics.jsonl``.
        scores: The scores to show; they are kept in the folder. None to show those that the folder holds, if any;
            without scores the page shows the training and says how to get them.

    Returns:
        The path of the page.

    Raises:
        RunError: if the folder is missing, foreign, damaged or cannot be written, or has no finished epoch.

    Example:
        >>> import tempfile
        >>> train, test = lb.data.four_points()
        >>> model = lb.models.VAE(event_shape=(4,), latent_dim=2, hidden=(8,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = lb.fit(lb.objectives.ELBO(model), train, epochs=1, out=f"{folder}/run", progress=False)
        ...     lb.report.write(f"{folder}/run", lb.evaluate(run.model, test, "elbo", limit=8)).name
        'report.html'
    """
    if not place().first:
        return Path(run) / "report.html"
    record = read_record(run)
    folder = record.folder
    if scores is not None:
        scores.write(folder)
    elif (folder / "scores.json").exists():
        scores = Scores.read(folder)
    gallery = scores.gallery if scores is not None and scores.gallery is not None else Gallery.read(folder)
    steps = rungs(record, scores) if scores is not None and scores.measures else []
    pictures = list(_pictures(record, steps, scores, gallery))
    for shown in pictures:
        write_bytes(folder / "figures" / f"{shown.name}.png", shown.png)
    page = Page(
        title=f"Report of the run {folder.resolve().name}",
        verdict=verdict(record, scores),
        headline=headline(record, scores),
        notes=notes(record, scores),
        sections=[
            _scores_section(record, scores, steps, [shown for shown in pictures if shown.name == "ladder"]),
            *_health_section(scores, [shown for shown in pictures if shown.name in _HEALTH]),
            Section("Figures", [_figures(shown for shown in pictures if shown.name not in ("ladder", *_HEALTH))]),
            Section("What was trained on what", [table((), _trained(record))]),
            _reproduce_section(record, scores),
        ],
    )
    path = folder / "report.html"
    write_bytes(path, render(page).encode())
    return path


def _pictures(
    record: Record, steps: Sequence[Rung], scores: Scores | None, gallery: Gallery | None
) -> Iterator[Picture]:
    """Yield the figures that the folder has data for."""
    curves = figures.training_curves(record.history, certified=record.certified)
    caption = "Means over the rows of each epoch. Higher is better for the bound and for the reconstruction."
    if not record.certified:
        caption += " The objective is no certified bound of log p(x)."
    yield Picture("training_curves", "Training", caption, png(curves))
    if steps:
        caption = "What is known of log p(x), in nats a row. Compare numbers of the same rows only."
        yield Picture("ladder", "The ladder of bounds", caption, png(ladder(steps)))
    for name, draw, part, title, text in _GALLERY:
        if gallery is not None and getattr(gallery, part) is not None:
            yield Picture(name, title, text, png(draw(gallery)))
    for source in (scores, gallery):
        known = source.latents.get("unit_kl") if isinstance(source, Scores) else getattr(source, "unit_kl", None)
        if source is not None and known is not None:
            caption = "The mean KL(q(z_d | x) || p(z_d)) of each unit: what it tells about a row, in nats."
            yield Picture("unit_kl", "KL per latent unit", caption, png(figures.unit_kl(source)))
            break
    if gallery is not None and gallery.draws is not None:
        caption = (
            "Draws of the posteriors of all rows, unit by unit, and the prior. Where the prior has mass and no row "
            "lies, samples are of what the model has not learned."
        )
        if gallery.draws.shape[1] > SHOWN_UNITS:
            caption += f" Shown are {SHOWN_UNITS} of {gallery.draws.shape[1]} units, by falling KL."
        yield Picture("aggregated_posterior", "Posterior and prior", caption, png(aggregated_posterior(gallery)))


def _scores_section(
    record: Record, scores: Scores | None, steps: Sequence[Rung], pictures: Sequence[Picture]
) -> Section:
    """Return the table of the scores and what each rung of the ladder means, or the command that makes them."""
    if scores is None or not scores.measures:
        text = "The run has not been evaluated. This command adds the scores, the samples and the latents:"
        return Section(
            "Scores", [element("p", text), code(_evaluate_command(record, _FIRST_MEASURES[record.certified]))]
        )
    about = f"On {tables.rows_of(scores.data)}. The number after ± is the standard error over rows."
    if any("bits_per_dim" in measure for measure in scores.measures.values()):
        about += " Bits per dimension are −nats / (values a row · ln 2): lower is better, and 8 is what a guess costs."
    titles = tables.header(scores)
    shown = table(titles, tables.rows(scores), numbers=range(1, len(titles) - 1))
    meanings = table(("rung", "of which rows", "meaning"), [(step.name, step.rows, step.meaning) for step in steps])
    return Section("Scores", [element("p", about), shown, _figures(pictures), meanings])


def _health_section(scores: Scores | None, pictures: Sequence[Picture]) -> Iterator[Section]:
    """Yield what the latents carry, if anything is known of them."""
    rows = [] if scores is None else list(health(scores))
    if rows or pictures:
        shown = [table(HEADER, rows, numbers=(1,))] if rows else []
        yield Section("Health of the latents", [*shown, _figures(pictures)])


def _figures(pictures: Iterable[Picture]) -> Markup:
    return element("div", map(picture, pictures), class_="figures")


def _trained(record: Record) -> Iterator[tuple[str, Markup]]:
    """Yield one row a part of the run: its name, and its settings."""
    config = record.config
    objective = config.get("objective")
    recipe = config.get("recipe")
    if isinstance(recipe, dict):  # its settings are the model's, the objective's and the training's, which follow
        recipe = {key: recipe.get(key) for key in ("name", "summary")}
    parts = {"recipe": recipe, "model": config.get("model"), "objective": objective}
    if isinstance(objective, dict):
        parts["model"] = parts["model"] or objective.get("model")
        parts["objective"] = {key: value for key, value in objective.items() if key != "model"}
    for key in ("data", "validation", "training"):
        parts[key] = config.get(key)
    for key, value in parts.items():
        if value is not None:
            yield key, _facts(value if isinstance(value, dict) else {"name": value})
    seconds = [epoch["seconds"] for epoch in record.history if epoch.get("seconds") is not None]
    speeds = [epoch["rows_per_second"] for epoch in record.history if epoch.get("rows_per_second") is not None]
    done = {"epochs": len(record.history), "steps": record.history[-1].get("step")}
    if seconds:
        done["time"] = _duration(sum(seconds))
    if speeds:
        done["speed"] = f"{statistics.median(speeds):,.0f} rows/s"
    yield "done", _facts(done)


def _facts(settings: Mapping[str, Any]) -> Markup:
    """Return settings as one line of names and values; nested ones get dotted names, and unset ones are left out."""
    pieces: list[str] = []
    for key, value in flat(settings):
        name = key.removeprefix("arguments.")
        if name in ("class", "name"):
            pieces.insert(0, element("b", str(value), class_="fact"))
        elif name != "sha256" and value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            pieces.append(element("span", [element("span", f"{name} "), shown], class_="fact"))
    return element("div", [piece for pair in pieces for piece in (pair, " ")])


def _duration(seconds: float) -> str:
    """Return a time as people say it.

    Example:
        >>> _duration(4.2), _duration(75), _duration(7320)
        ('4.2 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _reproduce_section(record: Record, scores: Scores | None) -> Section:
    """Return the commands, the versions and the hashes that give the same numbers again."""
    config, content = record.config, []
    command = config.get("command")
    if command:
        content.append(code(shlex.join(map(str, command)) if isinstance(command, list) else str(command)))
    else:
        content.append(element("p", "The run was started from Python; all of its settings stand below."))
    if scores is not None and scores.measures:
        content += [code(command) for command in _evaluate_commands(record, scores)]
    rows = [("seeds", _seeds(config, scores))]
    rows += [("versions", ", ".join(f"{name} {version}" for name, version in (config.get("versions") or {}).items()))]
    for label, data in (("training", config.get("data")), ("evaluated", scores.data if scores else None)):
        if isinstance(data, dict) and data.get("sha256"):
            rows.append((f"{label} data (SHA-256)", element("code", str(data["sha256"]))))
    content.append(table((), [row for row in rows if row[1]]))
    settings = json.dumps(config, indent=2, ensure_ascii=False, default=str)
    content.append(element("details", [element("summary", "All settings (config.json)"), code(settings)]))
    return Section("How to reproduce", content)


def _seeds(config: Mapping[str, Any], scores: Scores | None) -> str:
    """Return the seeds of the training, of the splits and of the evaluation, as far as they are known."""
    training, data = (part if isinstance(part, dict) else {} for part in (config.get("training"), config.get("data")))
    seeds = {
        "training": training.get("seed"),
        "split": data.get("split_seed"),
        "binarisation": data.get("binarize_seed") if data.get("binarize") != "none" else None,
        "evaluation": None if scores is None else scores.data.get("evaluation_seed"),
    }
    return ", ".join(f"{name} {seed}" for name, seed in seeds.items() if seed is not None)


def _evaluate_commands(record: Record, scores: Scores) -> Iterator[str]:
    """Yield the commands that repeat the evaluation: one for each setting of the annealing."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    plain = [name for name, measure in scores.measures.items() if "temperatures" not in measure]
    for name, measure in scores.measures.items():
        if "temperatures" in measure:
            groups.setdefault((measure.get("chains"), measure["temperatures"]), []).append(name)
    if not groups:
        yield _evaluate_command(record, plain, scores.data)
    for number, (setting, names) in enumerate(groups.items()):
        annealing = dict(zip(("--chains", "--temperatures"), setting, strict=True))
        yield _evaluate_command(record, [*(plain if number == 0 else []), *names], scores.data, annealing)


def _evaluate_command(
    record: Record,
    measures: Sequence[str],
    data: Mapping[str, Any] | None = None,
    annealing: Mapping[str, Any] | None = None,
) -> str:
    """Return the command that evaluates the run with some measures."""
    words = ["lowerbound", "evaluate", str(record.folder)]
    for name in measures:
        words += ["--measure", name]
    words += [str(word) for pair in (annealing or {}).items() for word in pair]
    if data is not None:
        trained_on = record.config.get("data")
        source = trained_on.get("source") if isinstance(trained_on, dict) else None
        options = {
            "--data": data.get("source") if data.get("source") != source else None,
            "--split": data.get("split") if data.get("split") in ("train", "validation") else None,
            "--limit": data.get("n_evaluated") if data.get("n_evaluated") != data.get("n") else None,
            "--seed": data.get("evaluation_seed") or None,
        }
        words += [str(word) for option, value in options.items() if value is not None for word in (option, value)]
    return shlex.join(words)
