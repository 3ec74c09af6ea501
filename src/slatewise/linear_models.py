"""Bayesian linear models of an item's reward: one shared by all items, one an item, or both (Li et al. 2010).

All have the same verbs: `extract` what is to be learned from a slate, `add` it (or take it out again), and from what
was learned the `bounds` of every candidate, `draws` of its expected reward from the posterior, and what each feature
contributed. Noise has variance 1, the prior is N(0, I / λ): whoever wants another noise scales the deviations.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from slatewise.interactions import Observation, Spec
from slatewise.linear import (
    CHUNK_VALUES,
    joint_features,
    joint_names,
    joint_scores,
    joint_size,
    joint_variances,
    with_one,
)
from slatewise.ridges import Ridges
from slatewise.tables import ItemRows, grown

Rows = dict[str, Tensor]  # what is learned from: one row a shown item


class LinearModel(ABC):
    """A linear model of the reward of an item.  spec: sizes and names.  penalty: λ."""

    names: tuple[str, ...]  # of the features that contribute
    ridges: Ridges

    @abstractmethod
    def extract(self, observation: Observation, slate: Tensor, used: Tensor, reward: Tensor) -> Rows:
        """Return what is learned from the slots `used`, bool [B, K], of slates: n rows."""

    @abstractmethod
    def add(self, rows: Rows, sign: float = 1.0) -> None:
        """Take rows in; or, with sign −1, rows that were taken in before out again."""

    @abstractmethod
    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of every candidate's expected reward, float64 [B, C] each."""

    @abstractmethod
    def draws(self, observation: Observation, count: int, generator: torch.Generator, scale: float) -> Tensor:
        """Return posterior draws of every candidate's expected reward, float64 [B, S, C].

        count: S.  The same draws serve all rows.  scale: of the standard deviation.
        """

    @abstractmethod
    def contributions(self, observation: Observation) -> Tensor:
        """Return what each feature adds to a candidate's mean, float64 [B, C, features]; they sum to the mean."""

    @abstractmethod
    def merge(self, other: "LinearModel") -> None:
        """Add what another model of the same kind has seen: the sums of both, exactly."""

    def scale(self, factor: float) -> None:
        """Let all that was seen count by a factor."""
        self.ridges.scale(factor)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything learned, by name."""
        return self.ridges.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.ridges.load(dict(tensors))


class SharedModel(LinearModel):
    """One regression over (1, user) ⊗ (1, item): unseen items are scored at once."""

    def __init__(self, spec: Spec, penalty: float, device: torch.device) -> None:
        self.names, self.user_features = joint_names(spec), len(spec.user)
        self.ridges = Ridges(joint_size(spec), penalty, device)

    def extract(self, observation: Observation, slate: Tensor, used: Tensor, reward: Tensor) -> Rows:
        """Return joint features `x` and rewards `y`."""
        return {"x": joint_features(observation, slate)[used], "y": reward[used]}

    def add(self, rows: Rows, sign: float = 1.0) -> None:
        """Take rows in, or out."""
        self.ridges.add(torch.zeros_like(rows["y"], dtype=torch.int64), rows["x"], rows["y"], sign)

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, [B, C] each."""
        observation.check_users(self.user_features)
        variance = joint_variances(observation, self.ridges.covariance[0])
        return joint_scores(observation, self.ridges.weights[0]), variance.clamp_(min=0).sqrt_()

    def draws(self, observation: Observation, count: int, generator: torch.Generator, scale: float) -> Tensor:
        """Return draws of the weights, times the features."""
        observation.check_users(self.user_features)
        mean, factor = self.ridges.weights[0], self.ridges.factors()[0]
        weights = mean + scale * _normals(count, len(mean), generator) @ factor.T
        return joint_scores(observation, weights)

    def contributions(self, observation: Observation) -> Tensor:
        """Return weight × feature, [B, C, M]."""
        return joint_features(observation, _everything(observation)) * self.ridges.weights[0]

    def merge(self, other: LinearModel) -> None:
        """Add what another has seen."""
        only = torch.zeros(1, dtype=torch.int64, device=self.ridges.moment.device)
        self.ridges.add_sums(only, other.ridges.outer, other.ridges.moment)


class DisjointModel(LinearModel):
    """One regression an item, over (1, user, what is particular to the candidate now); the 1 is the intercept."""

    def __init__(self, spec: Spec, penalty: float, device: torch.device, intercept: bool = True) -> None:
        self.intercept = intercept
        self.names, self.user_features = (*(("1",) if intercept else ()), *spec.user, *spec.items), len(spec.user)
        self.own = len(spec.items) > 0  # whether two candidates of one item may differ
        self.ridges = Ridges(len(self.names), penalty, device)
        self.items = ItemRows(device)

    def extract(self, observation: Observation, slate: Tensor, used: Tensor, reward: Tensor) -> Rows:
        """Return item ids `item`, features `x` and rewards `y`."""
        at = slate.clamp(min=0)
        items = observation.item_ids.gather(1, at)[used]
        if used.shape == (1, 1) and not self.own:
            return {"item": items, "x": self._users(observation)[used[0]], "y": reward[used]}
        return {"item": items, "x": self.features(observation, at)[used], "y": reward[used]}

    def features(self, observation: Observation, positions: Tensor | None = None) -> Tensor:
        """Return the features of candidates at positions [B, P], or of all, float64 [B, P, d]."""
        at = positions if positions is not None else _everything(observation)
        user = self._users(observation).unsqueeze(1).expand(-1, at.shape[1], -1)
        own = observation.items.gather(1, at.unsqueeze(2).expand(-1, -1, observation.items.shape[2]))
        return torch.cat([user, own.double()], 2)

    def _users(self, observation: Observation) -> Tensor:
        return with_one(observation.user) if self.intercept else observation.user.double()

    def add(self, rows: Rows, sign: float = 1.0) -> None:
        """Take rows in, or out; new items get a regression of their own."""
        if rows["item"].shape[0]:
            at = self.items.add(rows["item"])
            self.ridges.grow(self.items.ids.shape[0])
            self.ridges.add(at, rows["x"], rows["y"], sign)

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, [B, C] each."""
        return self.item_bounds(observation)

    def item_bounds(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation by the items' regressions, [B, C] each."""
        observation.check_users(self.user_features)
        weights, covariance, rows = self.ridges.weights, self.ridges.covariance, self.items.of(observation.item_ids)
        if self.own or weights.shape[0] > 64 + 8 * rows.shape[1]:
            return self._gathered_bounds(observation, rows)
        users = self._users(observation)
        if rows.shape[0] == 1 and rows.device.type == "cpu":
            mean, variance = _one_user(users, weights, covariance)
            return mean[rows], variance[rows].clamp_(min=0).sqrt_()
        squares = (users.unsqueeze(2) * users.unsqueeze(1)).flatten(1)
        variance = (squares @ covariance.flatten(1).T).gather(1, rows).clamp_(min=0)
        return (users @ weights.T).gather(1, rows), variance.sqrt_()

    def _gathered_bounds(self, observation: Observation, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bounds where candidates have features of their own, or items are many, reading only their rows."""
        x, size = self.features(observation), self.ridges.moment.shape[1]
        mean = torch.einsum("bcd,bcd->bc", x, self.ridges.weights[rows])
        variance = torch.empty_like(mean)
        step = max(1, CHUNK_VALUES // (rows.shape[1] * size * size))
        for part in torch.arange(len(rows), device=rows.device).split(step):
            half = torch.einsum("bcd,bcde->bce", x[part], self.ridges.covariance[rows[part]])
            variance[part] = (half * x[part]).sum(2)
        return mean, variance.clamp_(min=0).sqrt_()

    def draws(self, observation: Observation, count: int, generator: torch.Generator, scale: float) -> Tensor:
        """Return mean + deviation × a normal an item and draw.

        Items are independent, so this is a draw of the scores; two candidates of one item are taken to agree.
        """
        mean, deviation = self.item_bounds(observation)
        normals, rows = _normals(count, len(self.items.ids), generator), self.items.of(observation.item_ids)
        if len(rows) and bool((rows == rows[:1]).all()):  # all have the same candidates
            return torch.addcmul(mean.unsqueeze(1), normals[:, rows[0]], scale * deviation.unsqueeze(1))
        drawn = normals.expand(len(rows), -1, -1).gather(2, rows.unsqueeze(1).expand(-1, count, -1))
        return drawn.mul_(scale * deviation.unsqueeze(1)).add_(mean.unsqueeze(1))

    def contributions(self, observation: Observation) -> Tensor:
        """Return weight × feature, [B, C, d]."""
        return self.features(observation) * self.ridges.weights[self.items.of(observation.item_ids)]

    def forget(self, items: Tensor) -> None:
        """Drop the regressions of items [n]."""
        rows = self.items.remove(items)
        self.ridges.set_sums(rows, self.ridges.outer[rows] * 0, self.ridges.moment[rows] * 0)

    def warm_start(self, item: int, like: Tensor, share: float) -> None:
        """Let a new item begin with the average of what items `like` [n] have seen, counted by a share of it."""
        new = self.items.add(torch.tensor([item], device=like.device))
        self.ridges.grow(len(self.items.ids))
        near = self.items.of(like)
        outer, moment = self.ridges.outer[near].mean(0), self.ridges.moment[near].mean(0)
        self.ridges.set_sums(new, share * outer.unsqueeze(0), share * moment.unsqueeze(0))

    def merge(self, other: LinearModel) -> None:
        """Add what another has seen."""
        assert isinstance(other, DisjointModel)
        theirs = (other.items.ids >= 0).nonzero().squeeze(1)
        if len(theirs):
            rows = self.items.add(other.items.ids[theirs])
            self.ridges.grow(len(self.items.ids))
            self.ridges.add_sums(rows, other.ridges.outer[theirs], other.ridges.moment[theirs])

    def tensors(self) -> dict[str, Tensor]:
        """Return everything learned, by name."""
        return {**super().tensors(), "items": self.items.ids}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        super().load(tensors)
        self.items.load(tensors["items"])


def _one_user(user: Tensor, weights: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of one user with every regression, [R] each: in NumPy, which is faster for one."""
    x = user.numpy()[0]
    pull = covariance.numpy().reshape(-1, len(x)) @ x
    return torch.from_numpy(weights.numpy() @ x), torch.from_numpy(pull.reshape(-1, len(x)) @ x)


def _normals(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64, device=generator.device)


def _everything(observation: Observation) -> Tensor:
    ids = observation.item_ids
    return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)


class HybridModel(DisjointModel):
    """One regression β shared by all items, and for each item θ, which corrects it (Li et al. 2010, Algorithm 2).

    z = (1, user) ⊗ (1, item) are the features of β, x = (1, user, particular) those of θ: unseen items are scored by β
    alone. Deviation from the paper: there z are the products alone, so that an unseen item is worth nothing.
    For each item A = λI + Σ x xᵀ, B = Σ x zᵀ, and S = λI + Σ z zᵀ − Σ Bᵀ A⁻¹ B is what is known of β.
    """

    def __init__(self, spec: Spec, penalty: float, device: torch.device) -> None:
        super().__init__(spec, penalty, device)
        shared, own = joint_names(spec), self.names
        self.names = (*shared, *(f"{name} (this item)" for name in own))
        self.outer = torch.zeros(len(shared), len(shared), dtype=torch.float64, device=device)  # Σ z zᵀ
        self.moment = torch.zeros(len(shared), dtype=torch.float64, device=device)  # Σ y z
        self.cross = torch.zeros(1, len(own), len(shared), dtype=torch.float64, device=device)  # B
        self._solved: tuple[Tensor, Tensor, Tensor] | None = None

    def extract(self, observation: Observation, slate: Tensor, used: Tensor, reward: Tensor) -> Rows:
        """Return item ids `item`, features `x` and `z` and rewards `y`."""
        return {**super().extract(observation, slate, used, reward), "z": joint_features(observation, slate)[used]}

    def add(self, rows: Rows, sign: float = 1.0) -> None:
        """Take rows in, or out."""
        if len(rows["item"]):
            super().add(rows, sign)
            self.cross = grown(self.cross, len(self.items.ids))
            scaled = sign * rows["z"]
            self.cross.index_add_(0, self.items.of(rows["item"]), rows["x"].unsqueeze(2) * scaled.unsqueeze(1))
            self.outer.addmm_(scaled.T, rows["z"])
            self.moment.addmv_(scaled.T, rows["y"])
            self._solved = None

    def _solve(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return β [M], S⁻¹ [M, M] and A⁻¹ B [R, d, M]."""
        if self._solved is None:
            pull = self.ridges.covariance @ self.cross
            identity = torch.eye(len(self.moment), dtype=torch.float64, device=self.moment.device)
            known = self.outer + self.ridges.penalty * identity - self.cross.flatten(0, 1).T @ pull.flatten(0, 1)
            covariance = torch.cholesky_inverse(torch.linalg.cholesky((known + known.T) / 2))
            beta = covariance @ (self.moment - pull.flatten(0, 1).T @ self.ridges.moment.flatten())
            self._solved = beta, covariance, pull
        return self._solved

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return mean xᵀ A⁻¹ b + vᵀ β and deviation √(xᵀ A⁻¹ x + vᵀ S⁻¹ v) with v = z − (A⁻¹ B)ᵀ x, [B, C] each."""
        beta, covariance, _ = self._solve()
        mean, deviation = self.item_bounds(observation)
        variance = deviation.square()
        for part, v in self._left_over(observation):
            mean[part] += v @ beta
            variance[part] += ((v @ covariance) * v).sum(2)
        return mean, variance.clamp_(min=0).sqrt_()

    def _left_over(self, observation: Observation) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield v of every candidate, [b, C, M], by parts of the batch."""
        pull, rows, everything = self._solve()[2], self.items.of(observation.item_ids), _everything(observation)
        step = max(1, CHUNK_VALUES // (rows.shape[1] * pull.shape[1] * pull.shape[2]))
        for part in torch.arange(len(rows), device=rows.device).split(step):
            seen = observation[part]
            x, z = self.features(seen), joint_features(seen, everything[part])
            yield part, z - torch.einsum("bcd,bcdm->bcm", x, pull[rows[part]])

    def draws(self, observation: Observation, count: int, generator: torch.Generator, scale: float) -> Tensor:
        """Return draws of β, and given β of every item's own part."""
        beta, covariance, _ = self._solve()
        factor = torch.linalg.cholesky(covariance)
        betas = beta + scale * _normals(count, len(beta), generator) @ factor.T
        scores = super().draws(observation, count, generator, scale)
        for part, v in self._left_over(observation):
            scores[part] += (v @ betas.T).transpose(1, 2)
        return scores

    def contributions(self, observation: Observation) -> Tensor:
        """Return weight × feature, of the shared part and then the item's own, [B, C, M + d]."""
        beta, _, pull = self._solve()
        rows = self.items.of(observation.item_ids)
        own = self.features(observation) * (self.ridges.weights - pull @ beta)[rows]
        return torch.cat([joint_features(observation, _everything(observation)) * beta, own], 2)

    def scale(self, factor: float) -> None:
        """Let all that was seen count by a factor."""
        super().scale(factor)
        self.outer, self.moment, self.cross = self.outer * factor, self.moment * factor, self.cross * factor
        self._solved = None

    def forget(self, items: Tensor) -> None:
        """Drop what is particular to items [n]; what they taught about β stays as it is."""
        rows, pull = self.items.of(items), self._solve()[2]
        self.outer -= self.cross[rows].flatten(0, 1).T @ pull[rows].flatten(0, 1)
        self.moment -= pull[rows].flatten(0, 1).T @ self.ridges.moment[rows].flatten()
        super().forget(items)
        self.cross[rows] = 0
        self._solved = None

    def merge(self, other: "LinearModel") -> None:
        """Add what another has seen."""
        assert isinstance(other, HybridModel)
        super().merge(other)
        self.cross = grown(self.cross, len(self.items.ids))
        theirs = other.items.ids >= 0
        self.cross.index_add_(0, self.items.of(other.items.ids[theirs]), other.cross[theirs])
        self.outer, self.moment = self.outer + other.outer, self.moment + other.moment
        self._solved = None

    def tensors(self) -> dict[str, Tensor]:
        """Return everything learned, by name."""
        return {**super().tensors(), "shared_outer": self.outer, "shared_moment": self.moment, "cross": self.cross}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        super().load(tensors)
        self.outer, self.moment, self.cross = (tensors[key] for key in ("shared_outer", "shared_moment", "cross"))
        self._solved = None
