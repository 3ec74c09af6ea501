"""Choice models learned rollout by rollout: as good as a fit to all clicks at once, and the same to the bit."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import slatewise as sw
from slatewise import online_fitting
from slatewise.choice import Bilinear, Choice, ExponentialCascade, InnerProduct, Logit, Proportional
from slatewise.fitting import fit, log_likelihood
from slatewise.online_fitting import RATE, OnlineFit, _Clicks

CPU = torch.device("cpu")
CASES: dict[str, dict[str, Any]] = {
    "logit": {"choice": "logit", "candidates": 5},
    "exponential-cascade": {"choice": "exponential-cascade", "candidates": 5, "slate_size": 3},
}
each_case = pytest.mark.parametrize("name", CASES)


def world(name: str, users: int = 256, seed: int = 0) -> sw.Environment:
    return sw.make("interest-evolution", users=users, seed=seed, summary=False, **CASES[name])


def rollouts(env: sw.Environment, count: int, steps: int = 8) -> list[sw.Interactions]:
    random = env.rule("random", seed=1)
    return [sw.Interactions.cat([env.step(random.act(env.observation)) for _ in range(steps)]) for _ in range(count)]


def likelihood(choice: Choice, clicks: sw.Interactions) -> float:
    slate = clicks.decision.slate
    scores = choice.scores(clicks.observation).gather(1, slate)
    return float(log_likelihood(choice, scores, clicks.response.clicked, slate >= 0).mean())


@each_case
def test_users_are_found_out(name: str) -> None:
    """Users like an item by their interest in its topic, so W is the identity and w is 0, but for what is the same.

    The mean squared error of an efficient estimator is the mean diagonal of the inverse information, by rows. Iterates
    that weigh more the later they are have 16/7 of it in the long run; after 60 rollouts half as much again is allowed.
    """
    env = world(name)
    learner = OnlineFit(name, env.spec, CPU)
    for rollout in rollouts(env, 60):
        learner.learn(rollout)
    affinity = learner.choice.affinity  # type: ignore[union-attr]
    weights, items = torch.tensor(affinity.weights), torch.tensor(affinity.items)
    inverse = [torch.linalg.inv(part).diagonal() for part in (learner.users, learner.items)]
    efficient = float(inverse[0][:-1].mean() * inverse[1].mean()) / learner.rows
    assert float((weights - torch.eye(20)).square().mean()) < 1.5 * 16 / 7 * efficient
    assert float(weights.diagonal().mean()) == pytest.approx(1, abs=4.5 * (16 / 7 * efficient / 20) ** 0.5)
    assert float(items.var()) < 1.5 * 16 / 7 * float(inverse[0][-1] * inverse[1].mean()) / learner.rows


@each_case
def test_it_is_as_good_as_a_fit_to_all_clicks_at_once(name: str) -> None:
    """On clicks that neither has seen; what the parameters cost a fit, P / 2n nats, is what a step may be worse."""
    env = world(name)
    seen, learner = rollouts(env, 16), OnlineFit(name, env.spec, CPU)
    before = [learner.learn(rollout) for rollout in seen]
    whole = sw.Interactions.cat(seen)
    batch = fit(name, whole).choice
    fresh = sw.Interactions.cat(rollouts(world(name, 2000, seed=9), 1))
    cost = 421 / 2 / len(whole)
    assert likelihood(learner.choice, fresh) > likelihood(batch, fresh) - cost
    assert before[-1] > before[0] + 0.005  # what it says of clicks before it learns from them


def test_the_units_of_features_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_fitting, "PENALTY", 1e-6)  # it is of W in given units
    env = world("logit")
    seen = rollouts(env, 12)
    scale = torch.logspace(-2, 2, 20)
    scaled = [replace(r, observation=replace(r.observation, user=r.observation.user * scale)) for r in seen]
    learners = [OnlineFit("logit", env.spec, CPU) for _ in range(2)]
    said = [[learner.learn(r) for r in part] for learner, part in zip(learners, (seen, scaled), strict=True)]
    assert said[1] == pytest.approx(said[0], abs=1e-4)


def test_a_slope_is_the_derivative_of_the_likelihood() -> None:
    """By finite differences, of weights and constant, of both models."""
    for name in CASES:
        env = world(name, users=32)
        clicks = _Clicks.of(name, rollouts(env, 1)[0])
        generator = torch.Generator().manual_seed(0)
        weights = 0.1 * torch.randn(21, 20, generator=generator, dtype=torch.float64)
        constant = torch.tensor(-2.0, dtype=torch.float64)
        _, said, constant_said = clicks.slopes(weights, constant)
        gradient = clicks.user.T @ said / len(said)

        def value(weights: torch.Tensor, constant: torch.Tensor, clicks: _Clicks = clicks) -> float:
            return float(clicks.log_likelihood(clicks.scores(weights), constant))

        step = torch.zeros_like(weights)
        step[3, 7] = 1e-5
        found = (value(weights + step, constant) - value(weights - step, constant)) / 2e-5
        assert found == pytest.approx(float(gradient[3, 7]), abs=1e-8)
        found = (value(weights, constant + 1e-5) - value(weights, constant - 1e-5)) / 2e-5
        assert found == pytest.approx(float(constant_said.mean()), abs=1e-8)


def test_the_first_step_is_half_a_newton_step_where_the_information_is_a_product() -> None:
    """One user feature that never varies but for its sign, one item feature: worked out by hand.

    Slates of one, taken by the users with u = 1: score 0, P = ½, slope ½ for a click and −½ without. Features (u, 1) =
    (±1, 1), item feature 2: what a slate says is ±1, its second moment 1.
    """
    features = torch.tensor([[2.0]])
    user = torch.tensor([[1.0], [-1.0]]).repeat(50, 1)
    spec = sw.Spec(user=("u",), catalogue=("d",), items=(), signals=(), candidates=1, slate_size=1)
    catalogue = sw.Catalogue.of(features)
    observation = sw.Observation(user, torch.zeros(100, 1).long(), torch.zeros(100, 1, 0), catalogue)
    zeros = torch.zeros(100)
    decision = sw.Decision(torch.zeros(100, 1).long(), torch.ones(100, 1).double())
    response = sw.Response(
        user > 0, torch.zeros(100, 1, 0), torch.zeros(100, 1).double(), zeros.double(), torch.ones(100).bool()
    )
    rows = sw.Interactions(
        observation, decision, response, None, zeros.bool(), zeros.bool(), zeros.long(), zeros.long()
    )
    learner = OnlineFit("logit", spec, CPU)
    learner.learn(rows)
    # The gradient by W is the mean of u · (±1) = 1, both second moments are 1, and the penalty's share is 1 / 100.
    weights = learner.choice.affinity.weights  # type: ignore[union-attr]
    assert weights[0][0] == pytest.approx(RATE * 1 / (1 + 0.01))
    assert learner.choice.affinity.items[0] == pytest.approx(0, abs=1e-12)  # type: ignore[union-attr]
    assert learner.choice.no_click == pytest.approx(0, abs=1e-12)  # type: ignore[union-attr]


def test_what_was_learned_is_saved_and_goes_on_to_the_bit() -> None:
    env = world("logit")
    seen = rollouts(env, 6)
    one, other = OnlineFit("logit", env.spec, CPU), OnlineFit("logit", env.spec, CPU)
    for rollout in seen[:3]:
        one.learn(rollout)
    other.load_tensors({key: value.clone() for key, value in one.tensors().items()})
    assert other.choice == one.choice
    for rollout in seen[3:]:
        assert one.learn(rollout) == other.learn(rollout)
    assert other.choice == one.choice


@each_case
def test_a_fitted_model_is_something_to_start_from(name: str) -> None:
    env = world(name)
    seen = rollouts(env, 9)
    start = fit(name, sw.Interactions.cat(seen[:8])).choice
    moved: Any = replace(start, affinity=replace(start.affinity, bias=0.5))  # type: ignore[union-attr, call-arg]
    key = "no_click" if name == "logit" else "scaling"
    value = getattr(start, key)
    same = replace(moved, **{key: value + 0.5 if name == "logit" else value / math.e**0.5})
    if name == "exponential-cascade":
        same = replace(same, attention=0.325, scaling=same.scaling * 2)
    for given in (start, same):
        learner = OnlineFit(name, env.spec, CPU, given)
        assert likelihood(learner.choice, seen[8]) == pytest.approx(likelihood(start, seen[8]), abs=1e-6)
    cold = OnlineFit(name, env.spec, CPU)
    assert learner.learn(seen[8]) > cold.learn(seen[8])
    fresh = rollouts(world(name, seed=4), 1)[0]
    assert likelihood(learner.choice, fresh) > likelihood(start, fresh) - 0.002  # one rollout does not spoil it
    assert likelihood(learner.choice, fresh) > likelihood(cold.choice, fresh)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Logit(InnerProduct(20)), r"fit_choice=logit learns.*'logit' of inner-product affinity.*drop choice= to learn"),
        (Proportional(InnerProduct(20)), r"gives 'proportional' of inner-product affinity"),
        (ExponentialCascade(Bilinear(((0.0,),), (0.0,))), r"gives 'exponential-cascade' of bilinear affinity"),
        (Logit(Bilinear(((0.0,),), (0.0,))), r"reads 1 user and 1 item features, and here are 20 and 20: drop choice="),
    ],
)  # fmt: skip
def test_a_model_that_contradicts_is_refused(given: Choice, words: str) -> None:
    with pytest.raises(sw.InputError, match=words):
        sw.SlateQ(world("logit", users=2).spec, given, fit_choice="logit")


def test_items_without_features_leave_the_constant_alone() -> None:
    env = sw.make("long-term-satisfaction", users=16)
    spec = replace(env.spec, items=())
    rollout = rollouts(env, 1)[0]
    shown = replace(rollout.observation, items=rollout.observation.items[:, :, :0])
    learner = OnlineFit("logit", spec, CPU)
    first = learner.learn(replace(rollout, observation=shown))
    assert learner.learn(replace(rollout, observation=shown)) > first
