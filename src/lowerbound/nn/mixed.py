"""Rows whose columns are of different types: a head for each column of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal, constraints
from torch.nn.functional import logsigmoid, one_hot, softplus

from lowerbound.core.checks import choice
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.distributions import NegativeBinomial
from lowerbound.nn.likelihood import LOG_BOUND, Likelihood, bounded_exp

__all__ = ["KINDS", "MixedColumns", "MixedLikelihood"]

KINDS = ("continuous", "binary", "categorical", "counts", "ordinal")

_NEVER = -1e9  # the logit of a level that a column does not have


class MixedColumns(Distribution):
    """The distribution of each column of a row: normal, negative binomial, or over codes 0, 1, ... of levels.

    Args:
        places: Which columns are continuous, counts, and coded; together all columns once.
        continuous: The distribution of the continuous columns, batch shape ``[*, n]``.
        counts: That of the counts.
        coded: That of the codes.
    """

    arg_constraints: ClassVar = {}
    support = constraints.real

    def __init__(
        self, places: Sequence[Tensor], continuous: Normal, counts: NegativeBinomial, coded: Categorical
    ) -> None:
        self.places, self.parts = tuple(places), (continuous, counts, coded)
        lead = continuous.batch_shape[:-1]
        super().__init__(torch.Size([*lead, sum(map(len, self.places))]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each column, shape ``[*, columns]``; codes that do not exist have none."""
        continuous, counts, coded = self.parts
        x, k, code = (value[..., place] for place in self.places)
        whole = (k >= 0) & (k == k.round())
        levels = coded.logits.shape[-1]
        known = (code >= 0) & (code < levels) & (code == code.round())
        shape = torch.broadcast_shapes(code.shape, coded.batch_shape)
        code, known, logits = code.expand(shape), known.expand(shape), coded.logits.expand(*shape, levels)
        index = torch.where(known, code, 0).long().unsqueeze(-1)
        return self._joined(
            continuous.log_prob(x),
            counts.log_prob(torch.where(whole, k, 0)).masked_fill(~whole, -math.inf),
            logits.gather(-1, index).squeeze(-1).masked_fill(~known, -math.inf),
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw rows, shape ``[*sample_shape, *, columns]``."""
        size = torch.Size(sample_shape)
        with torch.no_grad():
            return self._joined(*(part.sample(size) for part in self.parts))

    @property
    def mean(self) -> Tensor:
        """The mean of each column; of codes, the mean code, which for two levels is the probability of the second."""
        continuous, counts, coded = self.parts
        codes = torch.arange(coded.logits.shape[-1], device=coded.logits.device)
        return self._joined(continuous.mean, counts.mean, (coded.probs * codes).sum(-1))

    @property
    def mode(self) -> Tensor:
        """The mean of continuous columns, the mean of counts rounded, and the most probable code."""
        continuous, counts, coded = self.parts
        return self._joined(continuous.mean, counts.mean.round(), coded.logits.argmax(-1))

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixedColumns:
        """Return the same distribution with a larger batch shape."""
        lead = torch.Size(batch_shape)[:-1]
        parts: Any = [part.expand(lead + part.batch_shape[-1:]) for part in self.parts]
        return MixedColumns(self.places, *parts)

    def _joined(self, *parts: Tensor) -> Tensor:
        """Put the columns of three parts into their places."""
        order = torch.cat(self.places).argsort()
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.to(parts[0].dtype).expand(*lead, part.shape[-1]) for part in parts], -1)[..., order]


class MixedLikelihood(Likelihood):
    r"""Columns of a table, each with a distribution of its own kind.

    ==============  ========================================================================================
    ``continuous``  :math:`\mathcal{N}(x_d; m_d + s_d o_d, s_d^2 c_d^2)`, with a scale c that is learned; m and s
                    are mean and spread of the data, so the density is one in the column's own unit
    ``binary``      :math:`\mathrm{Bernoulli}(x_d; \sigma(o_d))`
    ``categorical`` :math:`\mathrm{Categorical}(x_d; \mathrm{softmax}(o_d))`, one logit a level
    ``counts``      negative binomial with the mean :math:`m_d e^{o_d}` and a concentration that is learned
    ``ordinal``     :math:`P(x_d \le k) = \sigma(t_{dk} - o_d)` with ordered cut points t that are learned
    ==============  ========================================================================================

    A level is the code 0, 1, ... of its place, so a row is one number a column.

    Args:
        shape: The event shape, ``(columns,)``.
        columns: A pair of kind and number of levels for each column (the number matters for ``categorical`` and
            ``ordinal``); None for continuous columns.

    Raises:
        ArgumentError: if a kind is unknown, or there are not as many columns as in the event.

    Source: McCullagh, Regression models for ordinal data (1980), for the cut points.

    Example:
        >>> p = MixedLikelihood((2,), columns=[("binary", 2), ("categorical", 3)])
        >>> p(torch.zeros(1, 3, 2)).log_prob(torch.tensor([[1.0, 2.0]])).exp()  # 1/2 times 1/3
        tensor([0.1667], grad_fn=...)
    """

    mixed = True
    _continuous: Tensor
    _counts: Tensor
    _coded: Tensor
    center: Tensor
    spread: Tensor

    def __init__(self, shape: tuple[int, ...], *, columns: Sequence[Sequence[Any]] | None = None) -> None:
        super().__init__(shape)
        chosen = [("continuous", 0)] * math.prod(self.event_shape) if columns is None else [tuple(c) for c in columns]
        if self.event_shape != (len(chosen),):
            cure = "Give a pair of kind and number of levels for each column of a table."
            raise ArgumentError(explain("columns", expected=f"{self.event_shape} kinds", got=len(chosen), cure=cure))
        kinds = [choice("kind of a column", kind, KINDS) for kind, _ in chosen]
        sizes = [2 if kind == "binary" else int(size) for kind, size in chosen]
        coded = [i for i, kind in enumerate(kinds) if kind in ("binary", "categorical", "ordinal")]
        if any(sizes[i] < 2 for i in coded):
            cure = "A column with one level says nothing: leave it out."
            raise ArgumentError(explain("levels of a column", expected="2 or more", got=min(sizes), cure=cure))
        self.levels = [sizes[i] for i in coded]
        self.widest = max(self.levels, default=2)
        self.outputs = max((s for k, s in zip(kinds, sizes, strict=True) if k == "categorical"), default=1)
        self.ordinal = [kinds[i] == "ordinal" for i in coded]
        self.binary = [kinds[i] == "binary" for i in coded]
        for name, places in (
            ("_continuous", [i for i, kind in enumerate(kinds) if kind == "continuous"]),
            ("_counts", [i for i, kind in enumerate(kinds) if kind == "counts"]),
            ("_coded", coded),
        ):
            self.register_buffer(name, torch.tensor(places, dtype=torch.int64), persistent=False)
        self.register_buffer("center", torch.zeros(self.event_shape))
        self.register_buffer("spread", torch.ones(self.event_shape))
        self.log_scale = nn.Parameter(torch.zeros(len(self._places[0])))
        self.log_concentration = nn.Parameter(torch.zeros(len(self._places[1])))
        steps = torch.arange(1, self.widest).float()
        sizes_of = torch.tensor(self.levels).float().reshape(-1, 1)
        cuts = torch.logit((steps / sizes_of).clamp(max=0.999))
        first, gaps = cuts[:, :1], cuts.diff(dim=-1).clamp(min=1e-3)
        self.first_cut = nn.Parameter(first.clone())
        self.raw_gaps = nn.Parameter(gaps.expm1().log())  # the inverse of softplus

    @property
    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._continuous, self._counts, self._coded

    @property
    def seen_size(self) -> int:
        """How many numbers the encoder sees: one a column of numbers, one a level of a column of codes."""
        return len(self._places[0]) + len(self._places[1]) + sum(self.levels)

    def values(self, output: Tensor) -> Distribution:
        """Return the distribution of each column for an output ``[*, columns]``, or ``[*, outputs, columns]``."""
        heads = output.unsqueeze(-2) if self.outputs == 1 else output
        heads = heads.movedim(-2, -1)  # [*, columns, outputs]
        continuous, counts, coded = self._places
        spread = self.spread[continuous]
        loc = self.center[continuous] + spread * heads[..., continuous, 0]
        bound = LOG_BOUND["scale"]
        normal = Normal(loc, (spread * self.log_scale.clamp(-bound, bound).exp()).expand_as(loc), validate_args=False)
        mean = bounded_exp(self.center[counts].clamp(min=1e-4).log() + heads[..., counts, 0])
        many = NegativeBinomial(mean, bounded_exp(self.log_concentration).expand_as(mean), validate_args=False)
        logits = self._logits(heads[..., coded, :])
        return MixedColumns(self._places, normal, many, Categorical(logits=logits, validate_args=False))

    def see(self, x: Tensor) -> Tensor:
        """Return what an encoder sees, ``[*, seen_size]``: standardised numbers, log-counts, codes as one-hot rows.

        A gap is zero everywhere.
        """
        continuous, counts, coded = self._places
        numbers = (x[..., continuous] - self.center[continuous]) / self.spread[continuous]
        logs = x[..., counts].clamp(min=0).log1p() - self.center[counts].clamp(min=0).log1p()
        seen = [numbers.nan_to_num(0.0), logs.nan_to_num(0.0)]
        for column, levels in zip(coded.tolist(), self.levels, strict=True):
            code = x[..., column]
            there = (code >= 0) & (code < levels)
            hot = one_hot(torch.where(there, code, 0).long(), levels)
            seen.append(hot * there.unsqueeze(-1).to(x.dtype))
        return torch.cat(seen, -1)

    def standardize(self, center: Tensor, spread: Tensor) -> None:
        """Let outputs and scales count in units of the spread; densities stay those of x."""
        self.center.copy_(center.expand(self.event_shape))
        self.spread.copy_(spread.expand(self.event_shape))

    def _logits(self, heads: Tensor) -> Tensor:
        """Return the log-probability of each level of each coded column, ``[*, coded, widest]``."""
        device = heads.device
        exists = torch.arange(self.widest, device=device) < torch.tensor(
            self.levels, dtype=torch.int64, device=device
        ).reshape(-1, 1)
        pad = (0, self.widest - heads.shape[-1])
        logits = nn.functional.pad(heads, pad) if pad[1] >= 0 else heads[..., : self.widest]
        binary = torch.tensor(self.binary, dtype=torch.bool, device=device).reshape(-1, 1)
        two = nn.functional.pad(heads[..., :1], (1, self.widest - 2))  # the logits 0 and o
        logits = torch.where(binary, two, logits).masked_fill(~exists, _NEVER).log_softmax(-1)
        if not any(self.ordinal):
            return logits
        cuts = torch.cat([self.first_cut, self.first_cut + softplus(self.raw_gaps).cumsum(-1)], -1)
        upper = nn.functional.pad(cuts - heads[..., :1], (0, 1), value=-_NEVER)
        last = torch.tensor(self.levels, dtype=torch.int64, device=device).reshape(-1, 1) - 1
        upper = upper.masked_fill(torch.arange(self.widest, device=device) >= last, -_NEVER)
        lower = nn.functional.pad(upper[..., :-1], (1, 0), value=_NEVER)
        step = torch.where(exists, lower - upper, -1.0)
        ordered = logsigmoid(upper) + logsigmoid(-lower) + (-step.exp()).log1p()
        ordinal = torch.tensor(self.ordinal, dtype=torch.bool, device=device).reshape(-1, 1)
        return torch.where(ordinal, ordered.masked_fill(~exists, _NEVER), logits)
