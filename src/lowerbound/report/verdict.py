"""The result of a run in plain words: a verdict, a headline of numbers, and notes on what to know or change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lowerbound.evaluation.latents import ACTIVE_VARIANCE
from lowerbound.report.health import split_of
from lowerbound.report.records import Record, scores_are_fresh
from lowerbound.report.tables import critic_line, measure_name, nats

if TYPE_CHECKING:
    from lowerbound.evaluation import Scores

__all__ = ["Note", "headline", "notes", "verdict"]


@dataclass(frozen=True)
class Note:
    """A sentence for the reader.

    Attributes:
        text: The sentence.
        level: ``"warning"`` if something should be changed, ``"info"`` if it is only good to know.
        cure: What to do, in a few words, for the verdict.
    """

    text: str
    level: Literal["info", "warning"] = "info"
    cure: str = ""


def verdict(record: Record, scores: Scores | None = None) -> str:
    """Return in plain words what became of the run, and the first two things to do about it."""
    cures = list(dict.fromkeys(note.cure for note in notes(record, scores) if note.cure))
    if scores is None or not scores.measures:
        return "; ".join(["Trained and not evaluated yet: evaluate it", *cures[:1]])
    active, size = scores.latents.get("active_units"), scores.latents.get("latent_dim")
    used = "Evaluated" if active is None else f"{active} of {size} latents used"
    return f"{used}: {'; '.join(cures[:2])}" if cures else f"{used}, and nothing stands out"


def headline(record: Record, scores: Scores | None = None) -> str:
    """Return the result in one line: the measures and the active units, or the last bound of the training."""
    if scores is None or not scores.measures:
        part = "validation" if _best(record) else "train"
        best = _best(record) or record.history[-1]
        kind = measure_name(record.bound) + ("" if record.certified else " (no bound)")
        value = nats(best[part][record.bound])
        return f"{part.capitalize()} {kind} {value} nats at epoch {best['epoch']}; not evaluated yet"
    results = [f"{measure_name(name)} {nats(m['value'], m.get('stderr'))}" for name, m in scores.measures.items()]
    split = str(scores.data.get("split") or "all rows")
    line = f"{split.capitalize()} {', '.join(results)} nats"
    active, size = scores.latents.get("active_units"), scores.latents.get("latent_dim")
    return line if active is None else f"{line}; {active} of {size} latent units active"


def notes(record: Record, scores: Scores | None = None) -> list[Note]:
    """Return what a reader should know about the training and the scores, warnings first."""
    found = [*_on_validation(record), *_on_objective(record)]
    if scores is not None:
        if not scores_are_fresh(record.folder, scores):
            text = "The scores are of earlier weights than the run's present ones: evaluate again."
            found.insert(0, Note(text, "warning", "evaluate again, the scores are of earlier weights"))
        found += [
            *_on_latents(record, scores),
            *_on_split(scores),
            *_on_tightness(scores),
            *_on_critic(scores),
            *_on_rows(scores),
        ]
    return sorted(found, key=lambda note: note.level != "warning")


def _best(record: Record) -> dict[str, Any] | None:
    """Return the epoch with the highest validation bound; None without validation, or if it is no bound."""
    if not record.certified:
        return None
    validated = [epoch for epoch in record.history if _finite((epoch.get("validation") or {}).get(record.bound))]
    return max(validated, key=lambda epoch: epoch["validation"][record.bound]) if validated else None


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _on_validation(record: Record) -> list[Note]:
    """Say whether training ran too long or not long enough, from ten epochs on."""
    best, last, total = _best(record), record.history[-1], len(record.history)
    if best is None or total < 10 or not _finite((last.get("validation") or {}).get(record.bound)):
        return []
    epoch, loss = best["epoch"], best["validation"][record.bound] - last["validation"][record.bound]
    if last["epoch"] - epoch >= max(3, total // 10):
        text = f"Validation stopped improving at epoch {epoch} of {last['epoch']} and has since lost {loss:.2f} nats."
        return [Note(f"{text} The weights of epoch {epoch} are kept; fewer epochs would do.")]
    earlier = record.history[-max(2, total // 10) - 1]
    gain = best["validation"][record.bound] - ((earlier.get("validation") or {}).get(record.bound) or math.nan)
    if gain > 0.2:
        span = last["epoch"] - earlier["epoch"]
        text = f"Validation was still rising: {gain:.2f} nats over the last {span} epochs. Train longer."
        return [Note(text, "warning", "train longer")]
    return []


def _on_objective(record: Record) -> list[Note]:
    """Say whether the training curve may be read as a bound."""
    found = []
    if not record.certified:
        text = f"The training objective, {measure_name(record.bound)}, is no certified bound of log p(x)"
        found.append(Note(f"{text}: compare runs by their scores, and never by their curves.", "warning"))
    last = record.history[-1]
    found += [Note(f"In the last epoch: {remark}", "warning") for remark in last.get("remarks", ())]
    weight = record.history[-1].get("kl_weight")
    if weight is not None and weight < 1:
        text = f"The KL warm-up had not finished when training ended (weight {weight:.2f})"
        found.append(Note(f"{text}, so the bound itself was never maximised. Train longer.", "warning", "train longer"))
    return found


def _on_latents(record: Record, scores: Scores) -> list[Note]:
    """Warn of a collapsed posterior, and of units that cost and tell nothing."""
    active, size = scores.latents.get("active_units"), scores.latents.get("latent_dim")
    if active is None or not size:
        return []
    training = record.config.get("training")
    warmed_up = bool(training.get("kl_warmup")) if isinstance(training, dict) else False
    try_first = "try a longer KL warm-up" if warmed_up else "try a KL warm-up"
    if active == 0:
        text = "No latent unit varies with the data: the decoder ignores z (posterior collapse)."
        cure = f"{try_first[0].upper()}{try_first[1:]}, train longer, or take a weaker decoder."
        return [Note(f"{text} {cure}", "warning", f"the decoder ignores them, {try_first}"), *_on_constants(scores)]
    if size >= 4 and active <= size // 4:
        units = "unit is" if active == 1 else "units are"
        text = f"Only {active} of {size} latent {units} active: {try_first}"
        note = Note(f"{text}, or save time with a smaller latent space.", "warning", try_first)
        return [note, *_on_constants(scores)]
    return _on_constants(scores)


def _on_constants(scores: Scores) -> list[Note]:
    """Warn of units that are the same for every row and not the prior."""
    kl, variance = scores.latents.get("unit_kl"), scores.latents.get("unit_variance")
    if not kl or not variance:
        return []
    wasted = [cost for cost, moves in zip(kl, variance, strict=True) if moves <= ACTIVE_VARIANCE and cost > 0.05]
    if not wasted:
        return []
    who = "1 latent unit is" if len(wasted) == 1 else f"{len(wasted)} latent units are"
    text = f"{who} much the same for every row and away from the prior, at a cost of {sum(wasted):.2f} nats a row"
    return [Note(f"{text}. Train longer.", "warning", "train longer")]


def _on_split(scores: Scores) -> list[Note]:
    """Say what a prior that fits would gain, where there are rows enough to know."""
    split = split_of(scores)
    if split is None or split.saturated or split.misfit - 2 * split.error < max(0.5, 0.1 * split.kl):
        return []
    text = f"All posteriors together lie {split.misfit:.2f} nats from the prior, so some samples come from where no row"
    cure = "A prior that is learned (--prior vamp, mixture or a flow) can gain up to that much."
    return [Note(f"{text} lies. {cure}", "info", f"a learned prior may gain up to {split.misfit:.1f} nats")]


def _on_tightness(scores: Scores) -> list[Note]:
    """Say how far the ELBO lies below the tightest lower bound."""
    bounds = {name: m["value"] for name, m in scores.measures.items() if m.get("kind") == "lower bound"}
    bounds = {name: value for name, value in bounds.items() if _finite(value)}
    if "elbo" not in bounds or len(bounds) < 2:
        return []
    name = max(bounds, key=lambda other: bounds[other])
    gap = bounds[name] - bounds["elbo"]
    if gap <= 0:
        return []
    text = f"{measure_name(name)} lies {gap:.2f} nats above the ELBO, so the posterior costs the ELBO about that much"
    return [Note(f"{text} or more.")]


def _on_critic(scores: Scores) -> list[Note]:
    """Say how far the critic of the training flatters, against a fresh one and against log p(x)."""
    estimate = scores.measures.get("avb")
    if estimate is None or not _finite(estimate.get("claimed")):
        return []
    claimed, fresh = estimate["claimed"], estimate["refitted"]
    text = (
        f"The training's critic claims {claimed:.3f} nats; a fresh one fitted to these rows says {fresh:.3f}. "
        f"{critic_line(scores).capitalize()}."
    )
    flatters = estimate["loss_refitted"] < estimate["loss_claimed"] and claimed - fresh > 0.1
    cure = "the training's critic flatters"
    found = [Note(text, "warning", cure) if flatters else Note(text)]
    exact = scores.measures.get("quadrature")
    if exact is not None and claimed > exact["value"]:
        text = f"The claim lies {claimed - exact['value']:.3f} nats above log p(x) itself, where no true bound can lie."
        found.append(Note(text, "warning", cure))
    return found


def _on_rows(scores: Scores) -> list[Note]:
    """Warn of scores on a part of the data."""
    total = scores.data.get("n")
    used = [m["n"] for m in scores.measures.values()]
    if not isinstance(total, int) or not used or min(used) >= total:
        return []
    text = f"Only {min(used):,} of {total:,} rows were evaluated: fit for a quick look, not for a comparison."
    return [Note(text, "warning", "evaluate all rows before you compare")]
