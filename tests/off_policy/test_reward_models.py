"""Reward models against dense systems, their own optimality conditions, known truths, and the promise of folds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from torch import Tensor

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Response, Spec
from slatewise.off_policy.item_regression import LARGEST, PENALTY, Design, Sums, solve
from slatewise.off_policy.linear_models import fit_logistic
from slatewise.off_policy.reward_model import CrossFitted, RewardModel, make_reward_model
from slatewise.off_policy.sampled import Kept, Reservoir
from slatewise.off_policy.scikit_learn import recalibration

ITEMS, USERS = 4, 2
NAMED = ("ridge", "logistic", "trees")


@dataclass
class Problem:
    """Clicks whose log-odds depend on user and item in a way that no sum of the two explains."""

    rows: Interactions
    spec: Spec
    truth: Tensor

    @property
    def reward(self) -> Tensor:
        return self.rows.response.total_reward

    def blocks(self, size: int) -> Iterator[Interactions]:
        for start in range(0, len(self.rows), size):
            yield self.rows[start : start + size]


def problem(n: int, seed: int, now: int = 0, shared: int = 1, clusters: int | None = None) -> Problem:
    """now: item features of the moment.  shared: catalogue features."""
    generator = torch.Generator().manual_seed(seed)
    user = torch.randn(n, USERS, generator=generator)
    catalogue = Catalogue.of(torch.linspace(-1, 1, ITEMS * shared).view(ITEMS, shared))
    ids = torch.rand(n, ITEMS, generator=generator).argsort(1)
    items = torch.randn(n, ITEMS, now, generator=generator)
    taste = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.5, 0.5], [-1.0, -1.0]])
    truth = ((user @ taste.T).gather(1, ids) + items.sum(2)).double().sigmoid()
    action = torch.randint(0, ITEMS, (n, 1), generator=generator)
    reward = (torch.rand(n, 1, generator=generator, dtype=torch.float64) < truth.gather(1, action)).double()
    zeros, ones = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.bool)
    rows = Interactions(
        Observation(user, ids, items, catalogue),
        Decision(action, torch.full((n, 1), 1 / ITEMS, dtype=torch.float64)),
        Response(reward > 0, torch.zeros(n, 1, 0), reward, zeros, ones),
        None,
        ones,
        ~ones,
        torch.arange(n) % (clusters or n),
        torch.zeros(n, dtype=torch.int64),
    )
    names = tuple(tuple(f"{kind}{i}" for i in range(size)) for kind, size in (("u", USERS), ("c", shared), ("d", now)))
    return Problem(rows, Spec(*names, (), ITEMS, 1), truth)


def fitted(model: Any, of: Problem, seed: int = 0, size: int = 10**9) -> RewardModel:
    made = make_reward_model(model, of.spec, seed)
    for rows in of.blocks(size):
        made.add(rows, rows.response.total_reward, rows.episode)
    return made


def kept(of: Problem) -> Kept:
    """Return the decisions with what was shown as the only candidate."""
    seen, slate, number = of.rows.observation, of.rows.decision.slate, torch.arange(len(of.rows))
    items = seen.items.gather(1, slate.unsqueeze(2).expand(-1, 1, seen.items.shape[2]))
    chosen = Observation(seen.user, seen.item_ids.gather(1, slate), items, seen.catalogue)
    return Kept(chosen, of.reward, torch.zeros_like(number), number)


def dense(of: Problem) -> np.ndarray:
    """Features of every candidate [B, C, ·]: (1, user) ⊗ (1, d), times (1, c) and the item one-hot."""
    observation = of.rows.observation
    assert observation.catalogue is not None
    ids = observation.item_ids.numpy()
    user = np.concatenate([np.ones((len(ids), 1)), observation.user.double().numpy()], 1)
    now = np.concatenate([np.ones((*ids.shape, 1)), observation.items.double().numpy()], 2)
    z = np.einsum("bv,bcw->bcvw", user, now).reshape(*ids.shape, -1)
    of_item = np.concatenate([np.ones((ITEMS, 1)), observation.catalogue.features.double().numpy(), np.eye(ITEMS)], 1)
    return np.einsum("bcz,bcp->bcpz", z, of_item[ids]).reshape(*ids.shape, -1)


@pytest.mark.parametrize(("now", "shared"), [(0, 1), (2, 3), (1, 0)])
def test_ridge_is_the_dense_solution_on_items_one_hot(now: int, shared: int) -> None:
    of = problem(300, 0, now, shared, clusters=50)
    model = fitted("ridge", of, seed=3)
    assert isinstance(model, CrossFitted)
    x, fold = dense(of), model.fold(of.rows.episode).numpy()
    shown = x[np.arange(300), of.rows.decision.slate[:, 0].numpy()]
    scores = model.scores(of.rows.observation, of.rows.episode).numpy()
    for k in range(5):
        others = fold != k
        gram = PENALTY * np.eye(x.shape[2]) + shown[others].T @ shown[others]
        theta = np.linalg.solve(gram, shown[others].T @ of.reward.numpy()[others])
        np.testing.assert_allclose(scores[~others], x[~others] @ theta, atol=1e-10)


def test_squares_of_many_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    for groups, size, n in ((1, 3, 1000), (700, 5, 900), (40, 60, 3000)):
        rows = torch.randn(n, size, generator=generator, dtype=torch.float64)
        group = torch.randint(0, groups, (n,), generator=generator)
        target, weight = rows[:, 0] + 1, rows[:, 1].square()
        sums = Sums(groups, size)
        sums.add(group, rows, target, weight)
        for g in (0, groups // 2, groups - 1):
            mine = rows[group == g]
            expected = torch.einsum("n,ni,nj->ij", weight[group == g], mine, mine)
            torch.testing.assert_close(sums.precision[g], expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(sums.moment[g], target[group == g] @ mine, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("now", [0, 1])
def test_logistic_leaves_no_slope(now: int) -> None:
    """At the optimum, λ times the coefficients is the gradient of the log-likelihood, shared and own parts alike."""
    of = problem(500, 1, now)
    chosen = kept(of)
    design = Design(of.spec, of.rows.observation.catalogue)
    predicted = fit_logistic(design, chosen, 0)(chosen.observation)[:, 0]
    rate = (of.reward.sum() + 0.5) / 501
    linear = predicted.logit() - rate.logit()
    z, item = design.features(chosen.observation), design.item(chosen.observation)[:, 0]
    slope = torch.zeros(ITEMS, design.size, dtype=torch.float64)
    slope.index_add_(0, item, z * (chosen.reward - predicted).unsqueeze(1))
    kernel = design.table @ design.table.T + torch.eye(ITEMS, dtype=torch.float64)
    torch.testing.assert_close(linear, ((kernel @ slope / PENALTY)[item] * z).sum(1), rtol=0, atol=1e-7)


def test_rare_clicks_keep_their_rate() -> None:
    of = problem(4000, 2)
    rare = of.reward * (torch.arange(4000) % 100 == 0)
    model = make_reward_model("logistic", of.spec, 0)
    model.add(of.rows, rare, of.rows.episode)
    shown = model.scores(of.rows.observation, of.rows.episode).gather(1, of.rows.decision.slate)
    assert float(shown.mean()) == pytest.approx(float(rare.mean()), rel=0.1)
    assert 0 < float(shown.min()) < float(shown.max()) < 1


@pytest.mark.parametrize("model", [*NAMED, RandomForestClassifier(30, min_samples_leaf=20)], ids=str)
def test_models_find_products_of_user_and_item(model: Any) -> None:
    of = problem(8000, 3)
    scores = fitted(model, of).scores(of.rows.observation, of.rows.episode)
    error = float((scores - of.truth).square().mean().sqrt())
    alone = float((of.truth - of.truth.mean()).square().mean().sqrt())
    assert alone > 0.23  # what a constant leaves over
    assert error < {"ridge": 0.06, "logistic": 0.03, "trees": 0.08}.get(str(model), 0.1)


@pytest.mark.parametrize("model", [*NAMED, LinearRegression()], ids=str)
def test_a_row_is_predicted_by_what_never_saw_its_cluster(model: Any) -> None:
    of = problem(600, 4, clusters=30)
    mine = of.rows.episode == 7
    before = fitted(model, of).scores(of.rows.observation, of.rows.episode)
    flipped = torch.where(mine.unsqueeze(1), 1 - of.rows.response.reward, of.rows.response.reward)
    of.rows = replace(of.rows, response=replace(of.rows.response, reward=flipped))
    after = fitted(model, of).scores(of.rows.observation, of.rows.episode)
    model = make_reward_model("ridge", of.spec, 0)
    assert isinstance(model, CrossFitted)
    fold = model.fold(of.rows.episode)
    same = fold == fold[mine][0]
    assert bool(mine[same].any())
    torch.testing.assert_close(after[same], before[same], rtol=0, atol=1e-9)
    assert float((after[~same] - before[~same]).abs().max()) > 1e-4


@pytest.mark.parametrize("model", NAMED)
def test_blocks_and_seeds(model: str) -> None:
    of = problem(500, 5)
    whole, pieces = fitted(model, of), fitted(model, of, size=37)
    scores = whole.scores(of.rows.observation, of.rows.episode)
    torch.testing.assert_close(pieces.scores(of.rows.observation, of.rows.episode), scores, rtol=0, atol=1e-9)
    some = torch.arange(100, 200)
    torch.testing.assert_close(whole.scores(of.rows.observation[some], of.rows.episode[some]), scores[some])
    other = fitted(model, of, seed=1).scores(of.rows.observation, of.rows.episode)
    assert not torch.allclose(other, scores)


def test_trees_are_calibrated() -> None:
    """By tenths of the predictions, the mean reward is the mean prediction, and it rises."""
    of = problem(6000, 6)
    scores = fitted("trees", of).scores(of.rows.observation, of.rows.episode)
    predicted = scores.gather(1, of.rows.decision.slate)[:, 0]
    tenths = of.reward[predicted.argsort()].tensor_split(10)
    for observed, expected in zip(tenths, predicted.sort().values.tensor_split(10), strict=True):
        assert abs(float(observed.mean() - expected.mean())) < 4 * float(observed.std()) / len(observed) ** 0.5
    assert float(tenths[-1].mean() - tenths[0].mean()) > 0.6


def test_recalibration_is_least_squares_with_many_rewards_and_careful_with_few() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(50_000, generator=generator, dtype=torch.float64)
    r = 0.1 + 0.6 * p + torch.randn(50_000, generator=generator, dtype=torch.float64)
    level, slope = recalibration(p, r)
    line = np.polyfit(p.numpy(), r.numpy(), 1)
    assert slope == pytest.approx(line[0], abs=0.01)
    assert level + slope * float(p.mean()) == pytest.approx(float(r.mean()))
    few = recalibration(p[:10] / 100, r[:10])
    assert few[1] == pytest.approx(1, abs=0.01)
    assert recalibration(torch.ones(5).double(), r[:5])[1] == pytest.approx(1)
    assert recalibration(torch.ones(5).double(), torch.ones(5).double()) == (0.0, 1.0)


def test_a_model_that_exaggerates_is_corrected() -> None:
    class Exaggerating(RegressorMixin, BaseEstimator):
        def fit(self, x: np.ndarray, y: np.ndarray) -> "Exaggerating":
            self.mean_ = float(y.mean())
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            truth = 1 / (1 + np.exp(-x[:, :USERS] @ [1.0, -1.0]))
            return 3 * truth + self.mean_

    of = problem(5000, 7)
    of.rows.decision.slate.copy_((of.rows.observation.item_ids == 0).int().argmax(1, keepdim=True))
    truth = of.truth.gather(1, of.rows.decision.slate)[:, 0]
    reward = (torch.rand(5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) < truth).double()
    model = make_reward_model(Exaggerating(), of.spec, 0)
    model.add(of.rows, reward, of.rows.episode)
    shown = model.scores(of.rows.observation, of.rows.episode).gather(1, of.rows.decision.slate)[:, 0]
    assert float((shown - truth).square().mean().sqrt()) < 0.04


def test_reservoir_is_bounded_uniform_and_the_same_for_any_blocks() -> None:
    rows, counts = (
        replace(kept(problem(400, 8)), reward=torch.arange(400).double()),
        torch.zeros(400, dtype=torch.int64),
    )
    for seed in range(300):
        one = Reservoir(seed, 3, 40)
        for start in range(0, 400, 50):
            part = rows[start : start + 50]
            one.add(part.observation, part.reward, part.fold)
        sample = one.rows().reward.long()
        assert len(sample) == 40
        assert bool((sample.diff() > 0).all())  # no row twice, in order
        counts[sample] += 1
        if seed < 5:
            all_at_once = Reservoir(seed, 3, 40)
            all_at_once.add(rows.observation, rows.reward, rows.fold)
            assert torch.equal(all_at_once.rows().reward.long(), sample)
    expected, deviation = 30, (300 * 0.1 * 0.9) ** 0.5
    assert float((counts - expected).abs().max()) < 4.5 * deviation
    assert float((counts - expected).double().square().mean()) == pytest.approx(deviation**2, rel=0.3)


def test_large_problems_leave_coefficients_out() -> None:
    catalogue = Catalogue.of(torch.zeros(3000, 3))
    many, wide = (
        Spec(tuple("abcdefghij" * 5), ("x", "y", "z"), (), (), 10, 1),
        Spec(tuple(f"u{i}" for i in range(LARGEST)), ("x",), (), (), 10, 1),
    )
    design = Design(many, catalogue)  # 3,000 items of 51 × 51 sums: features in place of items
    assert (design.own, design.users, design.size, len(design.table)) == (False, True, 51 * 4, 1)
    design = Design(wide, Catalogue.of(torch.zeros(5, 1)))
    assert (design.own, design.users, design.size) == (False, False, 2)
    bare = Design(Spec(("u",), (), (), (), 10, 1), None)
    assert (bare.own, bare.size, bare.table.shape[1]) == (True, 2, 1)
    assert not Design(Spec(("u",), (), ("d",), (), 10, 1), None).own


def test_items_known_by_number_alone_and_items_never_shown() -> None:
    of = problem(3000, 9, shared=0)
    bare = replace(of.rows, observation=replace(of.rows.observation, catalogue=None))
    for model in NAMED:
        made = make_reward_model(model, of.spec, 0)
        made.add(bare, of.reward, bare.episode)
        scores = made.scores(bare.observation, bare.episode)
        assert float((scores - of.truth).square().mean().sqrt()) < 0.14, model
        unseen = replace(bare.observation, item_ids=torch.full_like(bare.observation.item_ids, 10**6 + 77))
        assert bool(made.scores(unseen, bare.episode).isfinite().all())


def test_holes_earn_nothing_and_teach_nothing() -> None:
    of = problem(400, 10)
    slate = of.rows.decision.slate.clone()
    slate[:100] = -1
    holed = replace(of.rows, decision=replace(of.rows.decision, slate=slate))
    some, rest = make_reward_model("ridge", of.spec, 0), make_reward_model("ridge", of.spec, 0)
    some.add(holed, of.reward, of.rows.episode)
    rest.add(of.rows[100:], of.reward[100:], of.rows.episode[100:])
    where = of.rows.observation, of.rows.episode
    torch.testing.assert_close(some.scores(*where), rest.scores(*where))
    empty = make_reward_model("ridge", of.spec, 0)
    assert float(empty.scores(*where).abs().max()) == 0


@pytest.mark.parametrize("clicks", [0, 1, 3])
def test_next_to_no_clicks(clicks: int) -> None:
    of = problem(300, 11)
    reward = (torch.arange(300) < clicks).double()
    for model in (*NAMED, RandomForestClassifier(5)):
        made = make_reward_model(model, of.spec, 0)
        made.add(of.rows, reward, of.rows.episode)
        scores = made.scores(of.rows.observation, of.rows.episode)
        assert float(scores.mean()) == pytest.approx(clicks / 300, abs=0.02), model


def test_rewards_that_are_no_clicks() -> None:
    of = problem(2000, 12)
    reward = of.reward * 3.5
    for model in ("ridge", "trees", LinearRegression()):
        made = make_reward_model(model, of.spec, 0)
        made.add(of.rows, reward, of.rows.episode)
        scores = made.scores(of.rows.observation, of.rows.episode)
        assert float(scores.mean()) == pytest.approx(3.5 * float(of.truth.mean()), rel=0.1)
    for model in ("logistic", RandomForestClassifier()):
        with pytest.raises(InputError, match=r"a reward is 3.5, and \d+ of 2000 decisions are neither 0 nor 1"):
            make_reward_model(model, of.spec, 0).add(of.rows, reward, of.rows.episode)


def test_a_model_of_ones_own() -> None:
    class Truth:
        def add(self, rows: Interactions, reward: Tensor, cluster: Tensor) -> None:
            raise NotImplementedError

        def scores(self, observation: Observation, cluster: Tensor) -> Tensor:
            raise NotImplementedError

    model = Truth()
    assert make_reward_model(model, problem(1, 0).spec, 0) is model


def test_bad_models() -> None:
    spec = problem(1, 0).spec
    with pytest.raises(InputError, match="unknown reward model 'tree': did you mean 'trees'"):
        make_reward_model("tree", spec, 0)
    with pytest.raises(InputError, match="reward_model is the class LinearRegression: give a name, or a scikit-learn"):
        make_reward_model(LinearRegression, spec, 0)
    with pytest.raises(InputError, match="reward_model is 3: give a name"):
        make_reward_model(3, spec, 0)
    with pytest.raises(InputError, match="need slates of one item, this log shows 2"):
        make_reward_model("ridge", replace(spec, slate_size=2), 0)


def test_solve_without_rows_predicts_nothing() -> None:
    design = Design(problem(1, 0).spec, Catalogue.of(torch.ones(ITEMS, 1)))
    sums = Sums(ITEMS, design.size)
    assert float(solve(sums.precision, sums.moment, design).abs().max()) == 0
