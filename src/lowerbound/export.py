"""A run's encoder and decoder as files that need no lowerbound: for onnxruntime, or for torch alone."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowerbound import evaluation, runs
from lowerbound.core.checks import choice
from lowerbound.core.errors import ArgumentError, RunError, explain
from lowerbound.core.files import write_bytes, writing
from lowerbound.core.random import seeded
from lowerbound.distributions import Flow, Implicit
from lowerbound.training import Run

__all__ = ["FORMATS", "export"]

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
_TOLERANCE = 1e-5  # of a file's answers, relative to the model's where those are above 1


class _Encode(nn.Module):
    """From rows to the means of q(z | x)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = self.model.encode(x).mean
        return mean


class _Decode(nn.Module):
    """From latents to the means of p(x | z), or to the most probable levels of columns of mixed types."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        row: Tensor = self.model.point(z)
        return row


def export(run: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None, format: str = "onnx") -> Path:
    """Write a run's encoder and decoder, and a model card, into a folder.

    ``encode`` takes rows, float32 ``[rows, *event_shape]``, to the means of q(z | x), ``[rows, latent_dim]``, and
    ``decode`` takes latents to the means of p(x | z), ``[rows, *event_shape]``, for columns of mixed types to the most
    probable levels. Both are deterministic, take any number of rows, and count in the units of the data that the run
    was trained on. The files are run before they are kept, and must agree with the model to 1e-5.

    Args:
        run: The run folder.
        out: The folder to write into; None for ``export`` in the run folder.
        format: ``"onnx"``, or ``"torch"`` for `torch.export`.

    Returns:
        The folder.

    Raises:
        ArgumentError: if the format is unknown, or a package that it needs is missing.
        RunError: if the folder is no run, or a file does not agree with the model.

    Example:
        >>> import tempfile
        >>> from lowerbound.recipes import RECIPES, train
        >>> quick = RECIPES["vae"].changed(latent_dim=2, training={"epochs": 1})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = train(quick, out=folder, progress=False)
        ...     sorted(path.name for path in export(folder, format="torch").iterdir())
        ['README.md', 'decode.pt2', 'encode.pt2']
    """
    choice("format", format, FORMATS)
    _check_packages(format)
    loaded = runs.load(run)
    model: Any = loaded.model
    folder = Path(run) / "export" if out is None else Path(out)
    with torch.no_grad(), seeded(0, "export"):
        rows = model.sample(8)["x"]
        latents = model.encode(rows).mean
        _save(_Encode(model), rows, folder / f"encode{FORMATS[format]}", "x", "z")
        _save(_Decode(model), latents, folder / f"decode{FORMATS[format]}", "z", "x")
    write_bytes(folder / "README.md", _card(loaded, format).encode())
    return folder


def _check_packages(format: str) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        try:
            importlib.import_module(package)
        except ImportError:
            cure = "Install it: pip install 'lowerbound[onnx]'; or take --format torch."
            raise ArgumentError(explain("format", expected=f"the package {package}", got="none", cure=cure)) from None


def _save(module: nn.Module, example: Tensor, path: Path, name: str, output: str) -> None:
    """Write a module as a file that takes any number of rows, if it answers as the module does."""
    module.eval()
    more = torch.cat([example, example[:3]])  # another number of rows than it is traced with
    expected = module(more).numpy()
    with _quiet(), writing(path) as temporary:
        program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("rows")},))
        if path.suffix == ".onnx":
            written: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=[name], output_names=[output]
            )
            written.save(str(temporary), external_data=False)
            found = _run_onnx(temporary, more)
        else:
            with temporary.open("wb") as file:
                torch.export.save(program, file)
            with temporary.open("rb") as file:
                found = torch.export.load(file).module()(more).numpy()
        error = float(np.max(np.abs(found - expected) / np.maximum(1.0, np.abs(expected))))
        if not error <= _TOLERANCE:
            cure = "Report the model and the versions; nothing was kept."
            got = f"a difference of {error:.2g}"
            raise RunError(explain(str(path), expected=f"the model's answers to {_TOLERANCE:g}", got=got, cure=cure))


def _run_onnx(path: Path, x: Tensor) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's remarks on what it exports from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# --- The model card ---------------------------------------------------------------------------------------------------


def _card(run: Run, format: str) -> str:
    """Return the card: what the files are, what they were trained on, how good they are, and how they are used."""
    model: Any = run.model
    described = run.config["data"]
    end, rows, latents = FORMATS[format], _shape(*model.event_shape), _shape(model.latent_dim)
    what = f"{type(model).__name__} with latents of size {model.latent_dim}"
    parts = [
        f"# {what}, trained on {described.get('name', 'data')}",
        f"Made by lowerbound {run.config['versions']['lowerbound']} with torch {run.config['versions']['torch']}.",
        "## What it was trained on",
        "\n".join(_data_lines(described)),
        "## How good it is",
        "\n".join(_score_lines(run)),
        "## What goes in and what comes out",
        f"- `encode{end}`: rows `x`, float32 `{rows}`, to latents `z`, `{latents}`: {_encoded(model)}.\n"
        f"- `decode{end}`: latents `z`, float32 `{latents}`, to rows `x`, `{rows}`: {_decoded(model)}.",
        f"Both are deterministic: they draw nothing. {_units(described)}",
        *_column_lines(run),
        "## How it is used",
        f"```python\n{_USE[format]}\n```",
    ]
    return "\n\n".join(parts) + "\n"


_USE = {
    "onnx": """import numpy as np
import onnxruntime

encode = onnxruntime.InferenceSession("encode.onnx")
decode = onnxruntime.InferenceSession("decode.onnx")
(z,) = encode.run(None, {"x": rows.astype(np.float32)})
(x,) = decode.run(None, {"z": z})""",
    "torch": """import torch

encode = torch.export.load("encode.pt2").module()
decode = torch.export.load("decode.pt2").module()
z = encode(rows.float())
x = decode(z)""",
}


def _data_lines(described: dict[str, Any]) -> list[str]:
    names = {"source": "source", "n": "rows", "binarize": "binarisation", "sha256": "SHA-256 of the rows"}
    lines = [f"- {text}: {described[key]}" for key, text in names.items() if described.get(key) is not None]
    return lines or ["- data of one's own"]


def _score_lines(run: Run) -> list[str]:
    """Return the measures of the run as a Markdown table, or how to get them."""
    try:
        scores = evaluation.Scores.read(run.folder or "")
    except RunError:
        return ["It was not evaluated when it was exported: `lowerbound evaluate RUN`."]
    lines = ["| measure | nats a row | what it is to log p(x) | rows |", "| --- | ---: | --- | ---: |"]
    for name, found in scores.measures.items():
        error = "" if found.get("stderr") is None else f" ± {found['stderr']:.3f}"
        lines.append(f"| {name} | {found['value']:.3f}{error} | {found.get('kind', '')} | {found['n']} |")
    return lines


def _shape(*event: int) -> str:
    return f"[rows, {', '.join(map(str, event))}]"


def _encoded(model: Any) -> str:
    q = model.encode(torch.zeros(1, *model.event_shape))
    estimated = isinstance(q, (Flow, Implicit))
    return "the means of q(z | x)" + (", estimated by evenly spread draws of the same noise" if estimated else "")


def _decoded(model: Any) -> str:
    mixed = getattr(model.generator.likelihood, "mixed", False)
    return "means of numbers, and the most probable of levels" if mixed else "the means of p(x | z)"


def _units(described: dict[str, Any]) -> str:
    """Return what the values of a row are."""
    levels, binarize = described.get("levels"), described.get("binarize", "none")
    grey = f"{levels} grey levels, divided by {levels - 1}" if isinstance(levels, int) and levels > 1 else ""
    if binarize not in (None, "none"):
        return f"A row holds 0 and 1, binarised ({binarize}){f' from {grey}' if grey else ''}."
    return f"A row holds {grey or 'values in the units of the training data'}."


def _column_lines(run: Run) -> Sequence[str]:
    columns = [column for column in runs.schema(run) or () if column.kind != "skip"]
    if not columns:
        return []
    rows = [f"| {i} | {c.name} | {c.kind} | {', '.join(map(str, c.levels))} |" for i, c in enumerate(columns)]
    head = ["A column of levels holds codes 0, 1, ... in this order; NaN is a gap.", ""]
    return ["\n".join([*head, "| place | column | type | levels |", "| ---: | --- | --- | --- |", *rows])]
