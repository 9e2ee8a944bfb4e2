"""The page's server: what it tells of a run, and what it computes when it is asked."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from lowerbound.core.errors import ArgumentError, DataError, LowerboundError, explain
from lowerbound.explorer import cells, images
from lowerbound.explorer.guard import Guard, TooLargeError, read_body
from lowerbound.explorer.latents import Latents, principal_axes
from lowerbound.report.style import palette
from lowerbound.report.tiles import is_image, value_range

__all__ = ["MOST_BYTES", "application"]

MOST_BYTES = 10_000_000  # of a picture
_MOST_QUESTION = 4_000_000  # bytes of any other request
_MOST_ROWS = 64  # of one answer

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def application(latents: Latents, *, token: str) -> Starlette:
    """Return the server of a page that explores latents.

    Args:
        latents: The encoded rows and their model.
        token: What a request has to carry, in the address of the page or in the cookie that it sets.
    """
    answers = _Answers(latents)
    posts: dict[str, Callable[[Any], Response]] = {
        "decode": answers.decode,
        "rows": answers.rows,
        "nearest": answers.nearest,
        "sample": answers.sample,
    }
    gets: dict[str, Callable[[], Response]] = {
        "space": answers.space,
        "latents": answers.latents,
        "map": answers.map,
    }
    routes = [
        *(Route(f"/api/{name}", partial(_get, answer)) for name, answer in gets.items()),
        *(Route(f"/api/{name}", partial(_post, answer), methods=["POST"]) for name, answer in posts.items()),
        Route("/api/encode", partial(_encode, answers), methods=["POST"]),
        *_files(),
    ]
    handlers: Any = {LowerboundError: _mistake, TooLargeError: _too_large, HTTPException: _missing}
    return Starlette(routes=routes, middleware=[Middleware(Guard, token=token)], exception_handlers=handlers)


class _Answers:
    """What each request is answered; all but `encode` take and give plain values or arrays."""

    def __init__(self, latents: Latents) -> None:
        self._latents = latents
        shape = tuple(latents.rows.event_shape)
        self._pictures = is_image(shape)
        some = latents.observed(range(min(len(latents), 1000)))
        self._low, self._high = value_range(some.numpy()) if self._pictures else (0.0, 1.0)
        self._space = self._described(some)

    def _described(self, some: Tensor) -> dict[str, Any]:
        latents = self._latents
        about: dict[str, Any] = {
            "name": latents.name,
            "model": type(latents.model).__name__,
            "data": latents.rows.name,
            "split": latents.rows.split,
            "n": len(latents),
            "dims": latents.latent_dim,
            "spans": latents.spans,
            "binary": latents.binary,
            "spreads": latents.means.std(0, correction=0).tolist(),
            "map": latents.has_map,
            "pictures": self._pictures,
            "shape": list(latents.rows.event_shape),
            "columns": [] if self._pictures else cells.describe(some, latents.columns),
            "hidden": 0 if self._pictures else max(math.prod(latents.rows.event_shape) - cells.MOST_COLUMNS, 0),
            "mostBytes": MOST_BYTES,
        }
        if latents.latent_dim > 1:
            center, axes, share = principal_axes(latents.means)
            about["principal"] = {"center": center.tolist(), "axes": axes.tolist(), "share": share.tolist()}
        if latents.labels is not None:
            values, codes = latents.labels.unique(return_inverse=True)
            names = latents.rows.label_names
            about["labels"] = {
                "codes": codes.tolist(),
                "names": [str(v) if names is None else str(names[v]) for v in values.tolist()],
                "light": palette(len(values)),
                "dark": palette(len(values), dark=True),
            }
        return about

    def space(self) -> Response:
        """Tell what there is: rows, latents, labels, columns."""
        return JSONResponse(self._space)

    def latents(self) -> Response:
        """Give the means, float32, little-endian, row by row."""
        return _floats(self._latents.means.numpy())

    def map(self) -> Response:
        """Give the places on a UMAP, in the same form."""
        if not self._latents.has_map:
            cure = "Run: pip install umap-learn."
            raise ArgumentError(explain("view", expected="umap-learn", got="no such package", cure=cure))
        return _floats(self._latents.map())

    def decode(self, question: Any) -> Response:
        """Decode latents: their mean images, or cells."""
        p = self._latents.decode(self._vectors(question))
        if self._pictures:
            return self._strip(p.mean)
        return JSONResponse({"rows": cells.decoded(p, self._latents.columns)})

    def rows(self, question: Any) -> Response:
        """Give rows of the data."""
        indices = question.get("rows")
        whole = isinstance(indices, list) and all(type(i) is int for i in indices)
        if not whole or not 1 <= len(indices) <= _MOST_ROWS:
            cure = "Ask with {'rows': [0, 1]}."
            raise ArgumentError(explain("rows", expected=f"1 to {_MOST_ROWS} integers", got="others", cure=cure))
        rows = self._latents.observed(indices)
        if self._pictures:
            return self._strip(rows)
        return JSONResponse({"rows": cells.observed(rows, self._latents.columns)})

    def nearest(self, question: Any) -> Response:
        """Find the rows whose means are nearest."""
        (z,) = self._vectors({"z": [question.get("z")]})
        indices, distances = self._latents.nearest(z, _count(question, "k"))
        return JSONResponse({"rows": indices.tolist(), "distances": distances.tolist()})

    def sample(self, question: Any) -> Response:
        """Draw latents from the model."""
        seed = question.get("seed", 0)
        if type(seed) is not int or not 0 <= seed < 2**31:
            raise ArgumentError(explain("seed", expected="0 to 2147483647", got=seed, cure="Change it."))
        return JSONResponse({"z": self._latents.sample(_count(question, "n"), seed=seed).tolist()})

    def encode(self, content: bytes, invert: bool) -> Response:
        """Encode a picture: as the model sees it, and its reconstruction; its latents stand in a header."""
        if not self._pictures:
            cure = "Explore a run that was trained on images."
            raise DataError(explain("picture", expected="a model of images", got="one of tables", cure=cure))
        rows = self._latents.rows
        shape = tuple(rows.event_shape)
        row = images.read_picture(
            content, shape, low=self._low, high=self._high, binary=rows.binary, invert=invert
        ).unsqueeze(0)
        z = self._latents.encode(row)
        answer = self._strip(torch.cat([row, self._latents.decode(z).mean.cpu()]))
        answer.headers["Latents"] = json.dumps([round(value, 5) for value in z[0].tolist()])
        return answer

    def _strip(self, rows: Tensor) -> Response:
        return Response(images.strip(rows.float().cpu(), self._low, self._high), media_type="image/png")

    def _vectors(self, question: Any) -> Tensor:
        """Return the latent vectors of a question, float32 ``[n, latent_dim]``."""
        try:
            z = torch.tensor(question.get("z"), dtype=torch.float32)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            z = torch.empty(0)
        shape_fits = z.dim() == 2 and 1 <= len(z) <= _MOST_ROWS and z.shape[1] == self._latents.latent_dim
        if not shape_fits or not bool(z.isfinite().all()):
            expected = f"1 to {_MOST_ROWS} vectors of {self._latents.latent_dim} finite numbers"
            raise ArgumentError(explain("z", expected=expected, got="others", cure="Ask with {'z': [[0.0, ...]]}."))
        return z


def _count(question: Any, name: str) -> int:
    number = question.get(name)
    if type(number) is not int or not 1 <= number <= _MOST_ROWS:
        raise ArgumentError(explain(name, expected=f"1 to {_MOST_ROWS}", got=number, cure="Change it."))
    return number


def _floats(array: np.ndarray[Any, Any]) -> Response:
    return Response(array.astype("<f4").tobytes(), media_type="application/octet-stream")


# --- From requests to answers -----------------------------------------------------------------------------------------


async def _get(answer: Callable[[], Response], request: Request) -> Response:
    return await _timed(answer)


async def _post(answer: Callable[[Any], Response], request: Request) -> Response:
    content = await read_body(request, _MOST_QUESTION)
    try:
        question = json.loads(content)
    except (ValueError, RecursionError) as error:
        cure = "Send a JSON object."
        raise DataError(explain("request", expected="JSON", got="something else", cure=cure)) from error
    if not isinstance(question, dict):
        cure = "Send a JSON object."
        raise DataError(explain("request", expected="an object", got=type(question).__name__, cure=cure))
    return await _timed(partial(answer, question))


async def _encode(answers: _Answers, request: Request) -> Response:
    content = await read_body(request, MOST_BYTES)
    return await _timed(partial(answers.encode, content, request.query_params.get("invert") == "1"))


async def _timed(answer: Callable[[], Response]) -> Response:
    """Compute an answer in a thread, so that the server stays awake, and tell how long it took."""
    start = time.perf_counter()
    response = await run_in_threadpool(answer)
    response.headers["Server-Timing"] = f"compute;dur={1000 * (time.perf_counter() - start):.2f}"
    return response


def _mistake(request: Request, error: LowerboundError) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _too_large(request: Request, error: TooLargeError) -> Response:
    return JSONResponse({"error": str(error)}, 413, headers={"Connection": "close"})


def _missing(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _files() -> list[Route]:
    """Return a route for each file of the page, read once: no address ever becomes a path."""
    routes = []
    for file in sorted((Path(__file__).parent / "static").iterdir()):
        if file.suffix in _TYPES:
            answer = partial(_file, file.read_bytes(), _TYPES[file.suffix])
            routes.append(Route("/" if file.name == "index.html" else f"/static/{file.name}", answer))
    return routes


async def _file(content: bytes, kind: str, request: Request) -> Response:
    return Response(content, media_type=kind)
