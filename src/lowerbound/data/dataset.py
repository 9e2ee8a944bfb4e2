"""`Dataset`: rows to train on and to evaluate on, binarised by name, split by seed, identified by a hash.

Nothing here has a state that moves. The order of an epoch and the noise of a batch are functions of seeds and counters,
so a run can be taken up at any batch, and rows as evaluated are the same whoever asks for them.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.core.checks import positive_int
from lowerbound.core.errors import ArgumentError, DataError, explain
from lowerbound.core.random import generator, stream_seed
from lowerbound.data.binarize import Binarize, bernoulli_, check, threshold_
from lowerbound.data.schema import Column
from lowerbound.data.store import Resident, Store, numbers

__all__ = ["Dataset"]

_HALF = 127  # the largest of the lower half of 8 bits
_BLOCK = 2**22  # values that a scan holds at once: 16 MiB of float32


class Dataset:
    """Rows of real numbers with their labels, a name, and a way to become binary.

    Rows are handed out as float32. Integer levels are scaled into [0, 1]: a stored uint8 value k means
    k / (levels - 1). Binarisation turns values p in [0, 1] into 0 and 1:

    - ``"none"``: nothing is done;
    - ``"threshold"``: 1 if p > 1/2, which for 8-bit pixels is k > 127.5;
    - ``"dynamic"``: drawn from Bernoulli(p), anew in every epoch of training, once (from `seed`) for evaluation;
    - ``"static"``: drawn once (from `seed`), for training and evaluation alike.

    A row keeps the bits of its evaluation when it moves to another split or device, and they are the same bits under
    ``"dynamic"`` and ``"static"``.

    Args:
        rows: Shape ``[n, *event_shape]``. uint8 is kept as it is (levels 256, or 2 if no value exceeds 1), booleans
            are 0 and 1 (levels 2), everything else becomes float32.
        name: What the data are called.
        source: What `load` takes to find them again; the name unless told otherwise.
        split: Which part this is: ``"train"``, ``"test"``, ``"validation"`` or ``"all"``.
        labels: Integers, shape ``[n]``, or None.
        label_names: The name of label 0, of label 1 and so on, or None.
        levels: How many equidistant levels the values had before binarisation, or None if they are continuous.
        binarize: One of the names above.
        seed: The seed of the binarisation that is drawn once.
        missing: Whether values may be missing: a gap is NaN, and stays NaN whatever is done to the others.
        schema: What the columns are, if the rows are those of a table of mixed types, and None otherwise.

    Raises:
        DataError: if there is no row, no value in a row, a value that is not finite (and no gap where there may be
            gaps), a label too many or too few, or a value outside [0, 1] that is to be binarised.
        ArgumentError: if `binarize` is no known name.

    Example:
        >>> data = Dataset(torch.tensor([[0, 255], [255, 0], [0, 0]], dtype=torch.uint8), name="pairs")
        >>> data
        Dataset('pairs', split='all', n=3, event_shape=(2,), binarize='none')
        >>> data.rows([0, 1])
        tensor([[0., 1.],
                [1., 0.]])
    """

    def __init__(
        self,
        rows: Tensor | NDArray[Any] | Store,
        *,
        name: str = "data",
        source: str | None = None,
        split: str = "all",
        labels: Tensor | None = None,
        label_names: tuple[str, ...] | None = None,
        levels: int | None = None,
        binarize: str = "none",
        seed: int = 0,
        missing: bool = False,
        schema: Sequence[Column] | None = None,
    ) -> None:
        self.name = name
        self.source = name if source is None else source
        if isinstance(rows, np.ndarray):
            rows = numbers(rows, source=self.source)
        self._store: Store = Resident(rows) if isinstance(rows, Tensor) else rows
        self.split = split
        self.event_shape = self._store.shape[1:]
        self.labels = labels
        self.label_names = label_names
        self.binarize: Binarize = check(binarize)
        self.seed = seed
        self.missing = missing
        self.schema = None if schema is None else tuple(schema)
        self._stream = split  # names the noise of evaluation; a split keeps that of the whole
        self._index: Tensor | None = None  # which rows of the store these are, sorted; None means all
        self._record: dict[str, Any] = {}  # how this part was split off
        self._cache: dict[str, Any] = {}
        self._check_shape()
        self.levels = self._check_values(levels)
        self._check_binarizable()

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._store.shape[0] if self._index is None else len(self._index)

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, split={self.split!r}, n={len(self)}, event_shape={self.event_shape}, "
            f"binarize={self.binarize!r})"
        )

    # --- Rows ---------------------------------------------------------------------------------------------------------

    def batches_per_epoch(self, batch_size: int) -> int:
        """Return how many batches `batches` yields: n // batch_size, at least one."""
        return max(len(self) // positive_int("batch_size", batch_size), 1)

    def batches(self, batch_size: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the training batches of an epoch, shuffled, from batch `start` on.

        Batch i is a function of (seed, epoch, i) alone, so an epoch that is taken up at `start` goes on as if it had
        never stopped. Every batch is full: the rows that are left over wait for another epoch, and with fewer than
        `batch_size` rows the one batch holds them all.

        Args:
            batch_size: Rows in a batch.
            seed: The seed of the order and, for dynamic binarisation, of the noise.
            epoch: The number of the epoch, from 0.
            start: The number of the first batch that is wanted, from 0.

        Yields:
            Fresh float32 tensors, shape ``[batch_size, *event_shape]``.

        Raises:
            ArgumentError: if `batch_size` is not positive, or `epoch` or `start` is negative.

        Example:
            >>> data = Dataset(torch.arange(10.0).reshape(5, 2))
            >>> whole = list(data.batches(2, seed=0, epoch=3))
            >>> rest = list(data.batches(2, seed=0, epoch=3, start=1))
            >>> len(whole), bool(whole[1].equal(rest[0]))
            (2, True)
        """
        total = self.batches_per_epoch(batch_size)
        for argument, value in (("epoch", epoch), ("start", start)):
            if value < 0:
                raise ArgumentError(explain(argument, expected="0 or more", got=value, cure="Count from 0."))
        return self._batches(min(batch_size, len(self)), seed, epoch, range(start, total))

    def evaluation_batches(self, batch_size: int, *, limit: int | None = None) -> Iterator[Tensor]:
        """Yield the rows in order, as they are evaluated: values and bits depend on the row alone.

        Args:
            batch_size: Rows in a batch; the last may hold fewer.
            limit: How many rows to yield at most; None means all.

        Yields:
            Fresh float32 tensors, shape ``[<= batch_size, *event_shape]``.

        Raises:
            ArgumentError: if `batch_size` or `limit` is not positive.
        """
        positive_int("batch_size", batch_size)
        stop = len(self) if limit is None else min(positive_int("limit", limit), len(self))
        return (self._span(start, min(start + batch_size, stop)) for start in range(0, stop, batch_size))

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return some rows as they are evaluated, shape ``[len(indices), *event_shape]``.

        Raises:
            ArgumentError: if an index is not between 0 and n - 1.
        """
        index = torch.as_tensor(indices, dtype=torch.int64).flatten().to(self._store.device)
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            got = f"{int(index.min())} to {int(index.max())}"
            cure = f"The {self.split} split of {self.name} has {len(self)} rows."
            raise ArgumentError(explain("indices", expected=f"0 to {len(self) - 1}", got=got, cure=cure))
        rows = index if self._index is None else self._index[index]
        return self._evaluated(self._store.take(rows), rows)

    # --- Other forms of the same data ---------------------------------------------------------------------------------

    def split_off(self, fraction: float, *, seed: int = 0, name: str = "validation") -> tuple[Dataset, Dataset]:
        """Split some rows off at random.

        Args:
            fraction: The share of rows to split off, above 0 and below 1; at least one row goes and one stays.
            seed: The seed of the choice.
            name: What the part split off is called.

        Returns:
            The rest and the part, disjoint, each in the order of the whole. What was split off from ``"all"`` leaves
            ``"train"``; any other split keeps its name.

        Raises:
            ArgumentError: if the fraction is not between 0 and 1.
            DataError: if there is only one row.

        Example:
            >>> train, validation = Dataset(torch.rand(10, 3), split="train").split_off(0.2)
            >>> len(train), len(validation), validation.split
            (8, 2, 'validation')
        """
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
            cure = "Pass the share of rows to split off, such as 0.1."
            raise ArgumentError(explain(f"{name} fraction", expected="above 0 and below 1", got=fraction, cure=cure))
        if len(self) < 2:
            cure = "Give more rows."
            raise DataError(explain(self.source, expected="two rows or more to split", got=len(self), cure=cure))
        size = min(max(round(len(self) * fraction), 1), len(self) - 1)
        order = _shuffled(len(self), generator(seed, "split", name))
        seed_name = "split_seed" if name == "test" else f"{name}_split_seed"
        record = {**self._record, f"{name}_fraction": fraction, seed_name: seed}
        rest = "train" if self.split == "all" else self.split
        return self._part(order[size:], split=rest, record=record), self._part(order[:size], split=name, record=record)

    def with_binarize(self, kind: str) -> Dataset:
        """Return the same rows under another binarisation.

        Raises:
            ArgumentError: if there is none of that name.
            DataError: if values outside [0, 1] are to be binarised.
        """
        other = self._changed(binarize=check(kind))
        other._check_binarizable()
        return other

    def with_levels(self, levels: int) -> Dataset:
        """Return the same rows, whose number of levels was guessed, with that of other data: k is k / (levels - 1).

        Truth values keep their two. Rows beyond those levels that reach into the upper half of 8 bits are pixels, and
        keep their 256.

        Raises:
            DataError: if the values are no 8-bit whole numbers, or go beyond the last level and are no such pixels.

        Example:
            >>> data = Dataset(torch.tensor([[0, 4, 12]], dtype=torch.uint8))
            >>> data.with_levels(17).rows([0])
            tensor([[0.0000, 0.2500, 0.7500]])
        """
        if self.levels is None or self._store.span(0, 1).dtype != torch.uint8:
            cure = "Save them as uint8."
            raise DataError(explain(self.source, expected="8-bit whole numbers", got="others", cure=cure))
        if self._store.boolean:
            return self
        spans = range(0, self._store.shape[0], self._block)
        largest = max(int(self._store.span(start, start + self._block).max()) for start in spans)
        if largest < levels:
            return self._changed(levels=levels)
        if largest > _HALF:
            return self._changed(levels=256)
        cure = "Bring them to these levels, or save 8-bit pixels as floats from 0 to 1."
        expected, got = f"whole numbers from 0 to {levels - 1}, or 8-bit pixels", f"numbers up to {largest}"
        raise DataError(explain(self.source, expected=expected, got=got, cure=cure))

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data with their rows on a device; labels stay where they are.

        A set that lies in a `.npy` file stays there: move its batches.
        """
        store = self._store.to(device)
        index = None if self._index is None else self._index.to(store.device)
        return self._changed(_store=store, _index=index, _cache=self._cache)

    # --- What they are ------------------------------------------------------------------------------------------------

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value, as evaluated; gaps are left out."""
        return self._extent[:2]

    @property
    def columns(self) -> list[list[Any]] | None:
        """Kind and number of levels of each column of a mixed table, as the likelihood ``mixed`` takes them."""
        if self.schema is None:
            return None
        return [[column.kind, len(column.levels)] for column in self.schema if column.kind != "skip"]

    @property
    def binary(self) -> bool:
        """Whether every value, as evaluated, is 0 or 1, or a gap."""
        return self._extent[2]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation of each value over the rows as evaluated, float32 ``event_shape``.

        Gaps are left out: each value has its own rows.

        Raises:
            DataError: if a value is missing in every row.

        Example:
            >>> Dataset(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).moments()
            (tensor([2., 5.]), tensor([1., 0.]))
        """
        if "moments" not in self._cache:
            pivot = self.rows([0])[0].double()  # sums of squares around a row lose no digits to a large mean
            total, squares, gaps = (torch.zeros_like(pivot) for _ in range(3))
            for block in self._scan():
                pivot = torch.where(pivot.isnan(), block.double().nanmean(0), pivot)  # as long as there were but gaps
                distance = block.double() - pivot
                total, squares = total + distance.nansum(0), squares + distance.square().nansum(0)
                gaps += distance.isnan().sum(0)
            count = len(self) - gaps
            if not bool((count > 0).all()):
                where = f"value {int((count == 0).flatten().nonzero()[0])} of {self.source}"
                cure = "Leave the column out: nothing can be learned of it."
                raise DataError(explain(where, expected="a row that holds it", got="gaps in all rows", cure=cure))
            mean = total / count
            variance = (squares / count - mean.square()).clamp(min=0)
            self._cache["moments"] = (mean + pivot).float().cpu(), variance.sqrt().float().cpu()
        moments: tuple[Tensor, Tensor] = self._cache["moments"]
        return moments

    def with_record(self, **facts: Any) -> Dataset:
        """Return the same rows with more facts in `describe`, plain values: what is needed to find them again."""
        return self._changed(_record={**self._record, **facts})

    def describe(self) -> dict[str, Any]:
        """Return what identifies the data, as plain values that fit into JSON.

        ``sha256`` is the hash of the float32 rows (little-endian, in order) exactly as they are evaluated. It is
        computed at the first call and then kept.

        Example:
            >>> from lowerbound.data import four_points
            >>> four_points()[1].describe()["sha256"][:16]
            '836de0bece5bd927'
        """
        return {
            "name": self.name,
            "source": self.source,
            "split": self.split,
            "n": len(self),
            "event_shape": list(self.event_shape),
            "binarize": self.binarize,
            "binarize_seed": self.seed,
            "levels": self.levels,
            "range": list(self.range),
            "sha256": self._sha256,
            **({"missing": True} if self.missing else {}),
            **({"schema": [column.describe() for column in self.schema]} if self.schema else {}),
            **self._record,
        }

    @property
    def _extent(self) -> tuple[float, float, bool]:
        if self.binarize != "none":
            return 0.0, 1.0, True
        if "extent" not in self._cache:
            low, high, binary = float("inf"), float("-inf"), True
            for block in self._scan():
                seen = block[~block.isnan()] if self.missing else block
                if seen.numel():
                    low, high = min(low, float(seen.min())), max(high, float(seen.max()))
                    binary = binary and bool(((seen == 0) | (seen == 1)).all())
            self._cache["extent"] = low, high, binary
        extent: tuple[float, float, bool] = self._cache["extent"]
        return extent

    @property
    def _sha256(self) -> str:
        if "sha256" not in self._cache:
            digest = hashlib.sha256()
            for block in self._scan():
                digest.update(block.cpu().numpy().astype("<f4", copy=False).data)
            self._cache["sha256"] = digest.hexdigest()
        return str(self._cache["sha256"])

    # --- Machinery ----------------------------------------------------------------------------------------------------

    @property
    def _block(self) -> int:
        """How many rows a scan holds at once."""
        width = math.prod(self.event_shape)
        return max(_BLOCK // width, 1)

    def _scan(self) -> Iterator[Tensor]:
        """Yield all rows as evaluated, in blocks."""
        return self.evaluation_batches(self._block)

    def _batches(self, size: int, seed: int, epoch: int, batches: Iterable[int]) -> Iterator[Tensor]:
        """Yield the batches of the given numbers of an epoch."""
        order = _shuffled(len(self), generator(seed, "shuffle", epoch)).to(self._store.device)
        if self._index is not None:
            order = self._index.index_select(0, order)
        key = stream_seed(seed, "binarize", epoch) if self.binarize == "dynamic" else self._key
        for number in batches:
            rows, coming = (order[part * size : (part + 1) * size] for part in (number, number + 1))
            self._store.expect(coming)
            yield self._finished(self._store.take(rows), rows, key)

    def _span(self, start: int, stop: int) -> Tensor:
        """Return the rows from `start` up to `stop` as evaluated."""
        if self._index is not None:
            rows = self._index[start:stop]
            return self._evaluated(self._store.take(rows), rows)
        rows = torch.arange(start, stop, device=self._store.device)
        return self._evaluated(self._store.span(start, stop), rows)

    def _evaluated(self, stored: Tensor, rows: Tensor) -> Tensor:
        return self._finished(stored, rows, self._key)

    @property
    def _key(self) -> int:
        """The key of the noise that is drawn once."""
        return stream_seed(self.seed, "evaluation", self._stream)

    def _finished(self, stored: Tensor, rows: Tensor, key: int) -> Tensor:
        """Turn stored rows, which are changed, into rows as they are handed out."""
        x = self._scaled(stored)
        if self.binarize == "none":
            return x
        gaps = x.isnan() if self.missing else None
        x = threshold_(x) if self.binarize == "threshold" else bernoulli_(x, key=key, rows=rows.long())
        return x if gaps is None else x.masked_fill_(gaps, math.nan)

    def _scaled(self, stored: Tensor) -> Tensor:
        """Turn levels k into k / (levels - 1)."""
        if stored.dtype == torch.float32 or self.levels is None:
            return stored.float()
        # A tensor of one element divides exactly on every device; CUDA multiplies by the reciprocal of a number.
        return stored.float().div_(torch.full((1,), self.levels - 1.0, device=stored.device))

    def _part(self, chosen: Tensor, *, split: str, record: dict[str, Any]) -> Dataset:
        """Return the chosen rows as a view of the same store."""
        chosen = torch.from_numpy(np.sort(chosen.numpy()))
        here = chosen.to(self._store.device)
        index = here if self._index is None else self._index.index_select(0, here)
        labels = None if self.labels is None else self.labels.index_select(0, chosen.to(self.labels.device))
        return self._changed(_index=index, labels=labels, split=split, _record=record)

    def _changed(self, **changes: Any) -> Dataset:
        """Return a copy with other attributes."""
        other = copy.copy(self)
        other.__dict__.update({"_cache": {}, **changes})
        return other

    # --- Checks -------------------------------------------------------------------------------------------------------

    def _check_shape(self) -> None:
        shape = self._store.shape
        if len(shape) < 2 or 0 in shape:
            cure = "Give at least one row with at least one value; make numbers rows of one with .reshape(-1, 1)."
            raise DataError(explain(self.source, expected="shape [n, ...] with n >= 1", got=list(shape), cure=cure))
        if self.labels is not None:
            if tuple(self.labels.shape) != shape[:1]:
                got, cure = f"shape {list(self.labels.shape)}", "Give one label for each row."
                raise DataError(explain(f"labels of {self.source}", expected=f"shape [{shape[0]}]", got=got, cure=cure))
            self.labels = self.labels.to(torch.int64)

    def _check_values(self, levels: int | None) -> int | None:
        """Refuse values that are not finite, and find out how many levels there are."""
        first = self._store.span(0, 1)
        if first.dtype == torch.uint8:
            if levels is not None and levels < 256:
                cure = "Name as many levels as there are, or leave them out for 256."
                self._first_row_where(lambda x: x > levels - 1, f"whole numbers from 0 to {levels - 1}", cure)
            return levels or (2 if self._store.boolean or self._at_most_one() else 256)
        if self.missing:
            self._first_row_where(torch.isinf, "finite values or NaN", "Repair the values; NaN stands for a gap.")
        else:
            self._first_row_where(
                lambda x: ~x.isfinite(),
                "finite values",
                "Repair the values, leave out the rows that hold them, or let NaN stand for a gap by missing=True "
                "(--missing).",
            )
        return levels

    def _at_most_one(self) -> bool:
        """Whether no stored value exceeds 1; the scan of real pictures ends in its first block."""
        spans = range(0, len(self), self._block)
        return all(int(self._store.span(start, start + self._block).max()) <= 1 for start in spans)

    def _check_binarizable(self) -> None:
        if self.binarize != "none" and self._store.span(0, 1).dtype != torch.uint8:
            self._first_row_where(
                lambda x: (x < 0) | (x > 1),
                f"values in [0, 1] to binarise by {self.binarize!r}",
                "Scale them to [0, 1] (8-bit pixels: save them as uint8), or use binarize='none'.",
            )

    def _first_row_where(self, bad: Callable[[Tensor], Tensor], expected: str, cure: str) -> None:
        """Raise an error that names the first row of the store in which a value is bad."""
        n = self._store.shape[0]
        for start in range(0, n, self._block):
            block = self._store.span(start, min(start + self._block, n)).flatten(1)
            mask = bad(block)
            if mask.any():
                row = int(mask.any(1).nonzero()[0])
                value = block[row][mask[row]][0].item()
                raise DataError(
                    explain(self.source, expected=expected, got=f"{value:g} in row {start + row}", cure=cure)
                )


def _shuffled(n: int, source: torch.Generator) -> Tensor:
    """Return 0 to n - 1 in random order, shape ``[n]``; in four bytes each where these suffice, for n may be large."""
    return torch.randperm(n, generator=source, dtype=torch.int32 if n < 2**31 else torch.int64)
