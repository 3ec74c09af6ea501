"""Propensities of a log that has none: those of a multinomial logit model fitted to what was shown.

An estimate stands in for what was not written down. It is right only if what the logging policy looked at is among
the features, and if it chose with chance; so it is marked as estimated, and its calibration is saved beside it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor

from slatewise.drawing import uniform_propensity
from slatewise.errors import InputError
from slatewise.interactions import Observation
from slatewise.noise import mix
from slatewise.sums import GroupSums

FOLDS: Final = 5
PENALTY: Final = 1.0
SCORES: Final = 4_000_000  # candidates that models are fitted to at most, drawn by whole decisions,
DECISIONS: Final = 5_000  # but at least so many decisions
PARAMETERS: Final = 20_000  # of a block of weights; a larger one drops the user's features, or is left out
CHUNK: Final = 1_000_000  # scores computed at a time
LEAST: Final = 1e-9  # smallest propensity that is written: a weight must stay a number
EDGES: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)  # of predicted probabilities

# Decisions by their numbers: their observations and slates.
Observe = Callable[[np.ndarray[Any, Any]], tuple[Observation, Tensor]]


def estimate(observe: Observe, cluster: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Estimate the propensity of every slot given the slots before it, float64 [D, K], and say how well.

    A softmax over the candidates that are left, of (1, u)ᵀ A_n + (1, u)ᵀ W f, with user features u, an item's features
    f and its identity n (McFadden 1974; over slots Plackett and Luce), with a ridge penalty of 1. Cross-fitted:
    decisions of a cluster (user or session) are predicted by one of five models that never saw it. Then calibrated by
    one temperature (Guo et al. 2017, arXiv 1706.04599), the one under which those predictions are likeliest. Of large
    logs, models see a draw of decisions with 4 million candidates, but of at least 5,000 decisions.

    cluster: int64 [D].  Returns also a JSON-able report: log-loss of a decision beside that of a uniform policy, the
    mean weight of a uniform policy (1 if the propensities are right), and predicted beside observed frequencies.
    Raises InputError where there are too few clusters to cross-fit.
    """
    fold = (mix(cluster) & (2**62 - 1)) % FOLDS
    seen = _sample(observe, len(cluster))
    if len(fold[torch.from_numpy(seen)].unique()) < 2:
        raise InputError(
            f"{len(cluster.unique())} users or sessions are too few to estimate propensities: give more, log them, or "
            "say propensities = 'uniform' or 'unknown'"
        )
    data = list(_chunks(observe, seen, fold))
    size = _Size.of(data[0].observation)
    start = _fit(data, size, None, torch.zeros(size.total, dtype=torch.float64))
    thetas = [_fit(data, size, k, start) for k in range(FOLDS)]
    temperature = _temperature(data, size, thetas)
    check = _Check()
    everything = _chunks(observe, np.arange(len(cluster)), fold)
    propensity = torch.cat([check.add(chunk, _crossed(size, thetas, chunk) / temperature) for chunk in everything])
    return propensity, {
        "kind": "estimated",
        "model": "multinomial logit over candidates, cross-fitted, temperature-scaled",
        "parameters": size.total,
        "folds": FOLDS,
        "decisions_fitted": len(seen),
        "temperature": temperature,
        "smallest": float(propensity.min()),
        **check.report(cluster),
    }


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Decisions in memory. user: float64 [B, 1 + U], a 1 and the user's features; others as their names say."""

    observation: Observation
    slate: Tensor
    fold: Tensor
    user: Tensor
    items: Tensor

    def __getitem__(self, rows: Tensor) -> "_Chunk":
        return _Chunk(self.observation[rows], self.slate[rows], self.fold[rows], self.user[rows], self.items[rows])


def _chunks(observe: Observe, chosen: np.ndarray[Any, Any], fold: Tensor) -> Iterator[_Chunk]:
    """Yield decisions in chunks of bounded size."""
    step = max(1, CHUNK // max(1, observe(chosen[:1])[0].item_ids.shape[1]))
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        observation, slate = observe(part)
        user = observation.user.double()
        user = torch.cat([user.new_ones(len(user), 1), user], 1)
        yield _Chunk(observation, slate, fold[torch.from_numpy(part)], user, observation.items.double())


@dataclass(frozen=True)
class _Size:
    """Shapes of the weights: A [N, identity], W [joint, E + D]; 0 where they are left out."""

    items: int
    identity: int
    joint: int
    shared: int
    own: int

    @staticmethod
    def of(observation: Observation) -> "_Size":
        catalogue = observation.catalogue
        items, shared = catalogue.features.shape if catalogue is not None else (0, 0)
        users, own = 1 + observation.user.shape[1], observation.items.shape[2]
        identity = users if items * users <= PARAMETERS else int(items <= PARAMETERS)
        joint = users if users * (shared + own) <= PARAMETERS else 1
        return _Size(items, identity, joint, shared, own)

    @property
    def total(self) -> int:
        return self.items * self.identity + self.joint * (self.shared + self.own)

    def scores(self, theta: Tensor, chunk: _Chunk) -> Tensor:
        """Return the scores of all candidates, float64 [B, C]."""
        a, w = theta.split([self.items * self.identity, self.joint * (self.shared + self.own)])
        wanted = chunk.user[:, : self.joint] @ w.view(self.joint, self.shared + self.own)
        result = torch.einsum("bd,bcd->bc", wanted[:, self.shared :], chunk.items)
        catalogue = chunk.observation.catalogue
        if catalogue is not None and self.shared:
            result = result + chunk.observation.products(wanted[:, : self.shared], catalogue.features.double())
        if self.identity:
            own = a.view(self.items, self.identity)
            result = result + chunk.observation.products(chunk.user[:, : self.identity], own)
        return result


def _sample(observe: Observe, count: int) -> np.ndarray[Any, Any]:
    """Return the decisions to fit to, in order."""
    observation, _ = observe(np.arange(1))
    most = max(DECISIONS, SCORES // observation.item_ids.shape[1])
    return np.arange(count) if count <= most else np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def log_probabilities(scores: Tensor, mask: Tensor, slate: Tensor) -> Tensor:
    """Return the log-probability of each slot's item among those left, [B, K]; 0 for a hole."""
    columns: list[Tensor] = []
    left = mask
    for slot in slate.T:
        at = slot.clamp(min=0).unsqueeze(1)
        among = scores.masked_fill(~left, -torch.inf)
        chosen = scores.gather(1, at).squeeze(1) - among.logsumexp(1)
        columns.append(torch.where(slot >= 0, chosen, 0.0))
        left = left.scatter(1, at, left.gather(1, at) & (slot < 0).unsqueeze(1))
    return torch.stack(columns, 1)


def _fit(data: list[_Chunk], size: _Size, without: int | None, start: Tensor) -> Tensor:
    """Return the weights under which slates are likeliest, less the penalty; those of one fold are left out."""
    theta = start.clone().requires_grad_(True)
    kept = [None if without is None else chunk.fold != without for chunk in data]
    count = sum(len(c.slate) if rows is None else int(rows.sum()) for c, rows in zip(data, kept, strict=True))

    def loss() -> float:
        value = PENALTY / 2 / count * theta.square().sum()
        total = float(value.detach())
        value.backward()
        for chunk, rows in zip(data, kept, strict=True):
            likely = log_probabilities(size.scores(theta, chunk), chunk.observation.mask, chunk.slate).sum(1)
            value = -(likely if rows is None else likely[rows]).sum() / count
            total += float(value.detach())
            value.backward()
        return total

    return _minimised(theta, loss)


def _temperature(data: list[_Chunk], size: _Size, thetas: list[Tensor]) -> float:
    """Return what out-of-fold scores are to be divided by for slates to be likeliest."""
    scores = [_crossed(size, thetas, chunk) for chunk in data]
    count = sum(map(len, scores))
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def loss() -> float:
        total = 0.0
        for score, chunk in zip(scores, data, strict=True):
            value = -log_probabilities(score * scale.exp(), chunk.observation.mask, chunk.slate).sum() / count
            value.backward()
            total += float(value.detach())
        return total

    return float((-_minimised(scale, loss)).exp())


def _minimised(theta: Tensor, loss: Callable[[], float]) -> Tensor:
    """Return θ where a convex loss, which leaves its gradient in θ, is smallest (L-BFGS)."""
    optimiser = torch.optim.LBFGS(
        [theta], max_iter=200, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimiser.zero_grad()
        return loss()

    optimiser.step(cast(Any, closure))
    return theta.detach()


def _crossed(size: _Size, thetas: list[Tensor], chunk: _Chunk) -> Tensor:
    """Return scores [B, C] by the models that did not see their rows."""
    result = torch.zeros(chunk.observation.item_ids.shape, dtype=torch.float64)
    for k, theta in enumerate(thetas):
        mine = (chunk.fold == k).nonzero().squeeze(1)
        if len(mine):
            result[mine] = size.scores(theta, chunk[mine])
    return result


class _Check:
    """How predictions agree with what was shown."""

    def __init__(self) -> None:
        self.loss: list[Tensor] = []
        self.uniform: list[Tensor] = []
        self.bins = torch.zeros(3, len(EDGES) - 1, dtype=torch.float64)  # predicted, shown, candidates

    def add(self, chunk: _Chunk, scores: Tensor) -> Tensor:
        """Take a chunk into account, and return its propensities [B, K]."""
        mask, slate = chunk.observation.mask, chunk.slate
        logs = log_probabilities(scores, mask, slate)
        self.loss.append(-logs.sum(1))
        self.uniform.append(-uniform_propensity(mask, slate).clamp(min=1e-300).log().sum(1))
        every = scores.masked_fill(~mask, -torch.inf).softmax(1)
        shown = torch.zeros_like(every).scatter_(1, slate[:, :1].clamp(min=0), 1.0)
        place = torch.bucketize(every, torch.tensor(EDGES[1:-1], dtype=torch.float64))[mask]
        for row, values in enumerate((every[mask], shown[mask], torch.ones_like(every[mask]))):
            self.bins[row].index_add_(0, place, values)
        return logs.exp().clamp(min=LEAST, max=1.0)

    def report(self, cluster: Tensor) -> dict[str, Any]:
        """Return log-losses, the mean weight of a uniform policy, and the calibration of the first slot."""
        loss, uniform = torch.cat(self.loss), torch.cat(self.uniform)
        full = uniform < -np.log(1e-300)  # slates that a uniform policy can show
        weight = torch.where(full, (loss - uniform).exp(), 0.0)
        sums = GroupSums()
        sums.add(torch.stack([torch.ones_like(weight), weight], 1), cluster)
        mean, error = sums.ratio(1, 0)
        predicted, shown, count = self.bins
        rows = [
            {"predicted": float(p / n), "observed": float(s / n), "candidates": int(n)}
            for p, s, n in zip(predicted, shown, count, strict=True)
            if n > 0
        ]
        return {
            "log_loss": float(loss.mean()),
            "log_loss_uniform": float(uniform[full].mean()) if bool(full.any()) else None,
            "uniform_weight": {"mean": mean, "standard_error": None if error != error else error},
            "calibration_error": float((predicted - shown).abs().sum() / len(loss)),
            "calibration": rows,
        }
