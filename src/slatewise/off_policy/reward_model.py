"""The reward model of the doubly robust estimator: ridge regression on joint features, cross-fitted."""

import torch
from torch import Tensor

from slatewise.errors import unknown_name
from slatewise.interactions import Interactions, Observation, Policy, Spec
from slatewise.linear import Ridge, joint_features, joint_scores, joint_size
from slatewise.noise import scramble

FOLDS = 5
PENALTY = 1.0
LARGEST = 2000  # joint features; beyond this the model sees items only
CHUNK_VALUES = 4_000_000  # elements of the largest temporary array


class CrossFitted:
    """Predicts rewards of rows by a model that never saw their user or session.

    Sums of every fold are collected in one pass; the model of a fold has the sums of all others.
    spec: of the log, K = 1.  seed: which clusters share a fold.
    """

    def __init__(self, spec: Spec, seed: int, folds: int = FOLDS) -> None:
        self.items_only = joint_size(spec) > LARGEST
        self.size = 1 + spec.item_features if self.items_only else joint_size(spec)
        self.folds = folds
        self.seed = seed
        self.sums = [Ridge(self.size, penalty=0.0) for _ in range(folds)]
        self._weights: Tensor | None = None

    def fold(self, cluster: Tensor) -> Tensor:
        """Return the fold of each cluster, int64: a hash (as in SplitMix64), so it needs no table."""
        mixed = scramble(cluster + (2 * self.seed + 1) * 0x1E3779B97F4A7C15 % 2**63)
        return ((mixed >> 31) & (2**33 - 1)) % self.folds

    def add(self, rows: Interactions, reward: Tensor, cluster: Tensor) -> None:
        """Take the rewards [B] of the logged actions into the sums."""
        observation = self._seen(rows.observation)
        fold = self.fold(cluster)
        for start in range(0, len(rows), step := self._step()):
            part = slice(start, start + step)
            features = joint_features(observation[part], rows.decision.slate[part])[:, 0]
            for k, ridge in enumerate(self.sums):
                mine = fold[part] == k
                ridge.add(features[mine], reward[part][mine])
        self._weights = None

    def scores(self, observation: Observation, cluster: Tensor) -> Tensor:
        """Return the predicted reward of every candidate, float64 [B, C]."""
        observation, fold = self._seen(observation), self.fold(cluster)
        result = torch.zeros(observation.item_ids.shape, dtype=torch.float64)
        for k, weights in enumerate(self.weights()):
            mine = (fold == k).nonzero().squeeze(1)
            if len(mine):
                result[mine] = joint_scores(observation[mine], weights)
        return result

    def weights(self) -> Tensor:
        """Return each fold's model, [folds, M]."""
        if self._weights is None:
            precision = torch.stack([r.precision for r in self.sums]).sum(0)
            moment = torch.stack([r.moment for r in self.sums]).sum(0)
            self._weights = torch.stack([self._without(r, precision, moment) for r in self.sums])
        return self._weights

    def _without(self, fold: Ridge, precision: Tensor, moment: Tensor) -> Tensor:
        ridge = Ridge(self.size, PENALTY)
        ridge.precision += precision - fold.precision
        ridge.moment += moment - fold.moment
        return ridge.weights()

    def _seen(self, observation: Observation) -> Observation:
        if not self.items_only:
            return observation
        return Observation(observation.user[:, :0], observation.item_ids, observation.items, observation.catalogue)

    def _step(self) -> int:
        return max(1, CHUNK_VALUES // self.size)


def make_reward_model(name: str | CrossFitted, spec: Spec, seed: int) -> CrossFitted:
    """Return the reward model that a name means; an object is returned as it is.

    Raises InputError for an unknown name.
    """
    if not isinstance(name, str):
        return name
    if name not in MODELS:
        raise unknown_name("reward model", name, list(MODELS))
    return MODELS[name](spec, seed)


MODELS = {"ridge": CrossFitted}


def target_probabilities(policy: Policy, observation: Observation, explore: bool) -> Tensor:
    """Return a policy's probability of every candidate as the only item shown, float64 [B, C].

    Asks for `propensity` once a candidate; masked candidates get 0.
    """
    columns: list[Tensor] = []
    mask = observation.mask
    for c in range(mask.shape[1]):
        rows = mask[:, c].nonzero().squeeze(1)
        everyone = len(rows) == len(mask)
        asked = observation if everyone else observation[rows]
        slate = torch.full((len(rows), 1), c, dtype=torch.int64)
        answer = policy.propensity(asked, slate, explore).double()[:, 0] if len(rows) else slate[:, 0].double()
        columns.append(answer if everyone else torch.zeros(len(mask), dtype=torch.float64).index_copy(0, rows, answer))
    return torch.stack(columns, 1)
