"""Reward models of doubly robust and direct estimation: what every candidate would earn, cross-fitted."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from slatewise.errors import InputError, check_seed, unknown_name
from slatewise.interactions import Catalogue, Interactions, Observation, Policy, Spec
from slatewise.noise import scramble
from slatewise.off_policy.item_regression import CHUNK_VALUES, Design
from slatewise.off_policy.linear_models import Ridge, fit_logistic
from slatewise.off_policy.sampled import Reservoir, Sampled
from slatewise.off_policy.scikit_learn import Columns, check_model, fit_model, fit_trees, is_classifier

FOLDS = 5
REWARD_MODELS = ("ridge", "logistic", "trees")


@runtime_checkable
class RewardModel(Protocol):
    """What estimators need of a model: it takes all rewards in, and then predicts those of every candidate."""

    def add(self, rows: Interactions, reward: Tensor, cluster: Tensor) -> None:
        """Take the rewards [B] of the logged actions in.  cluster: int64 [B], the user or session of each row."""
        ...

    def scores(self, observation: Observation, cluster: Tensor) -> Tensor:
        """Return the predicted reward of every candidate, float64 [B, C]."""
        ...


class Learner(Protocol):
    """What is fitted on all folds but one, and predicts that one."""

    @property
    def items_only(self) -> bool:
        """Whether user features are left out, because there would be too many products."""
        ...

    def add(self, chosen: Observation, reward: Tensor, fold: Tensor) -> None:
        """Take rewards [B] of decisions in; `chosen` has what was shown as its only candidate."""
        ...

    def predict(self, fold: int, observation: Observation) -> Tensor:
        """Return rewards of all candidates, float64 [B, C], by the model that never saw this fold."""
        ...


class CrossFitted:
    """Predicts the rewards of rows by a model that never saw their user or session.

    `add` takes a whole log in, block by block; then `scores` predicts. Holes of a slate earn nothing and are left out.
    make: the learner, for the log's catalogue.  spec: of the log, K = 1.  seed: which clusters share a fold.
    clicks: whether rewards must be 0 or 1.
    """

    def __init__(
        self, make: Callable[[Catalogue | None], Learner], spec: Spec, seed: int, clicks: bool = False
    ) -> None:
        self.folds = FOLDS
        self.seed = seed
        self._make = make
        self._learner: Learner | None = None
        self._clicks = clicks
        self._width = _width(spec)

    @property
    def items_only(self) -> bool:
        """Whether the model leaves user features out, because there would be too many products."""
        return self._learner is not None and self._learner.items_only

    def fold(self, cluster: Tensor) -> Tensor:
        """Return the fold of each cluster, int64: a hash (as in SplitMix64), so it needs no table."""
        mixed = scramble(cluster + (2 * self.seed + 1) * 0x1E3779B97F4A7C15 % 2**63)
        return ((mixed >> 31) & (2**33 - 1)) % self.folds

    def add(self, rows: Interactions, reward: Tensor, cluster: Tensor) -> None:
        """Take the rewards [B] of the logged actions in.  cluster: int64 [B], the user or session of each row."""
        shown = (rows.decision.slate[:, 0] >= 0).nonzero().squeeze(1)
        if self._clicks:
            _check_clicks(reward[shown])
        if len(shown):
            if self._learner is None:
                self._learner = self._make(rows.observation.catalogue)
            chosen = _chosen(rows.observation[shown], rows.decision.slate[shown])
            self._learner.add(chosen, reward[shown], self.fold(cluster[shown]))

    def scores(self, observation: Observation, cluster: Tensor) -> Tensor:
        """Return the predicted reward of every candidate, float64 [B, C]; any number where it is masked."""
        observation, fold = replace(observation, history=None), self.fold(cluster)
        result = torch.zeros(observation.item_ids.shape, dtype=torch.float64)
        if self._learner is None:
            return result
        step = max(1, CHUNK_VALUES // (self._width * max(1, result.shape[1])))
        for k in range(self.folds):
            for some in (fold == k).nonzero().squeeze(1).split(step):
                if len(some):
                    result[some] = self._learner.predict(k, observation[some])
        return result


def make_reward_model(model: Any, spec: Spec, seed: int) -> RewardModel:
    """Make a reward model: `ridge`, `logistic`, `trees`, or a scikit-learn regressor or classifier.

    A `RewardModel` of your own is returned as it is: not to predict a row by its own reward is then up to it.

    spec: of the log, K = 1.  seed: which users or sessions share a fold, which rows are sampled, and what the model
    draws. Raises InputError for an unknown name, an object that cannot fit and predict, or slates of several items.
    """
    check_seed(seed)
    if spec.slate_size != 1:
        raise InputError(f"reward models need slates of one item, this log shows {spec.slate_size}")
    if isinstance(model, str):
        if model not in REWARD_MODELS:
            raise unknown_name("reward model", model, REWARD_MODELS)
        return CrossFitted(partial(_named, model, spec, seed), spec, seed, model == "logistic")
    if isinstance(model, RewardModel):
        return model
    check_model(model)
    return CrossFitted(partial(_given, model, spec, seed), spec, seed, is_classifier(model))


def _named(name: str, spec: Spec, seed: int, catalogue: Catalogue | None) -> Learner:
    sample = Reservoir(seed, _width(spec))
    if name == "trees":
        return Sampled(partial(fit_trees, Columns(spec, catalogue), seed), sample, FOLDS)
    design = Design(spec, catalogue)
    if name == "ridge":
        return Ridge(design, FOLDS)
    return Sampled(partial(fit_logistic, design), sample, FOLDS, not design.users)


def _given(model: Any, spec: Spec, seed: int, catalogue: Catalogue | None) -> Learner:
    fit = partial(fit_model, Columns(spec, catalogue, one_hot=True), model, seed)
    return Sampled(fit, Reservoir(seed, _width(spec)), FOLDS)


def _width(spec: Spec) -> int:
    return 1 + len(spec.user) + spec.item_features


def _check_clicks(reward: Tensor) -> None:
    wrong = (reward != 0) & (reward != 1)
    if bool(wrong.any()):
        raise InputError(
            f"a reward is {float(reward[wrong][0]):.6g}, and {int(wrong.sum())} of {len(reward)} decisions are neither "
            "0 nor 1: logistic models and classifiers predict clicks; use reward_model='ridge', 'trees' or a regressor"
        )


def _chosen(observation: Observation, slate: Tensor) -> Observation:
    """Return observations whose only candidate is the one at `slate` [B, 1]."""
    items = observation.items.gather(1, slate.unsqueeze(2).expand(-1, 1, observation.items.shape[2]))
    ids = observation.item_ids.gather(1, slate)
    return Observation(observation.user, ids, items, observation.catalogue)


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
        answer = asked_propensity(policy, asked, slate, explore)[:, 0] if len(rows) else slate[:, 0].double()
        columns.append(answer if everyone else torch.zeros(len(mask), dtype=torch.float64).index_copy(0, rows, answer))
    return torch.stack(columns, 1)


def asked_propensity(policy: Policy, observation: Observation, slate: Tensor, explore: bool) -> Tensor:
    """Return what a policy says of slates, float64 [B, K]. Raises InputError unless that is one number a slot."""
    answer = cast(Any, policy.propensity(observation, slate, explore))  # a policy may be anybody's code
    if not isinstance(answer, Tensor) or answer.shape != slate.shape:
        found = tuple(getattr(answer, "shape", ())) or "no shape"
        raise InputError(
            f"{type(policy).__name__}.propensity returned a {type(answer).__name__} of {found}: return a tensor of the "
            f"slate's shape, here {tuple(slate.shape)}, with a probability for every slot"
        )
    return answer.double()
