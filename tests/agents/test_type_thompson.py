"""Thompson sampling over types: the fit on planted types, propensities by enumeration, and what exploring wins."""

from dataclasses import replace
from functools import cache
from itertools import permutations

import pytest
import torch

import slatewise as sw
from slatewise.agents.type_thompson import fit_types, log_likelihood, mixture_propensity


def split(users: int, seed: int, **settings: object) -> sw.Environment:
    return sw.make("interest-exploration", users=users, seed=seed, variant="split", **settings)


@cache
def trained(steps: int, seed: int, **settings: object) -> sw.TypeThompson:
    env = split(256, seed)
    agent = sw.TypeThompson(env.spec, seed=seed, **settings)
    sw.train(agent, env, steps, progress=False)
    return agent


@pytest.mark.parametrize("seed", [0, 1])
def test_it_explores_its_way_to_57_clicks(seed: int) -> None:
    """Myopic has 42.3, the oracle 61.6; less than 4 standard errors below 57 is not good enough either."""
    agent = trained(100_000, seed)
    for explore in (True, False):
        result = sw.evaluate(agent, split(1000, 1000 + seed), 1000, explore=explore)
        assert result.mean - 4 * result.standard_error > 57


def test_it_finds_the_types() -> None:
    """Shares 0.5 and 0.5, each type with a favourite topic."""
    agent = trained(100_000, seed=2, types=2)
    tensors = agent.tensors()
    assert tensors["shares"].tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    favourites = tensors["rates"].argmax(1)
    assert sorted(favourites.tolist()) == [0, 1]
    assert float((tensors["rates"].amax(1) / tensors["rates"].amin(1)).min()) > 3


def planted(sessions: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return totals [n, 2, T] of types with rates [2, 3], a quarter of the first type, and what each is."""
    rates = torch.tensor([[0.7, 0.2, 0.5], [0.1, 0.6, 0.5]]).double()
    kind = (torch.rand(sessions, generator=generator) >= 0.25).long()
    shown = torch.randint(0, 30, (sessions, 3), generator=generator)
    draws = torch.rand(sessions, 3, 30, generator=generator) < rates[kind].unsqueeze(2)
    clicked = (draws & (torch.arange(30) < shown.unsqueeze(2))).sum(2)
    return torch.stack([shown, clicked], 1).double(), rates, kind


def test_the_fit_recovers_planted_types() -> None:
    """Rates within 4.5 standard errors of their binomial counts; the share of a quarter too."""
    generator = torch.Generator().manual_seed(3)
    totals, rates, kind = planted(4000, generator)
    start = torch.rand(5, 2, 3, generator=generator).double() * 0.8 + 0.1
    fitted, shares, fit = fit_types(totals, start, torch.full((5, 2), 0.5).double())
    best = int(fit.argmax())
    order = fitted[best, :, 0].argsort(descending=True)
    error = (rates * (1 - rates) / torch.stack([totals[kind == k, 0].sum(0) for k in (0, 1)])).sqrt()
    assert bool(((fitted[best, order] - rates).abs() < 4.5 * error).all())
    assert float(shares[best, order[0]]) == pytest.approx(0.25, abs=4.5 * (0.25 * 0.75 / 4000) ** 0.5)


def test_the_likelihood_is_that_of_single_clicks() -> None:
    rates = torch.tensor([[0.3, 0.8]]).double()
    counts = torch.tensor([[[3.0, 2.0], [1.0, 2.0]]]).double()
    expected = torch.tensor(0.3 * 0.7**2 * 0.8**2).double().log()
    assert float(log_likelihood(counts, rates)) == pytest.approx(float(expected))


def test_a_mixture_of_slates_by_enumeration() -> None:
    """Conditionals over all slates are those of the mixture's own prefix probabilities."""
    generator = torch.Generator().manual_seed(4)
    every = list(permutations(range(4), 3))
    slates = torch.tensor([every[int(i)] for i in torch.randint(24, (5,), generator=generator)]).unsqueeze(0)
    weights = torch.rand(1, 5, generator=generator).double().softmax(1)
    total = 0.0
    for slate in every:
        found = mixture_propensity(weights, slates, torch.tensor([slate]))[0]
        prefix = 1.0
        for slot in range(3):
            alike = [
                float(weights[0, m]) for m in range(5) if tuple(slates[0, m, : slot + 1].tolist()) == slate[: slot + 1]
            ]
            assert float(found[slot]) == pytest.approx(sum(alike) / prefix if prefix else 0.0)
            prefix = sum(alike)
        total += float(found.prod())
    assert total == pytest.approx(1)


def test_the_posterior_follows_the_session() -> None:
    agent = trained(100_000, seed=2, types=2)
    env = split(3, 0)
    user = torch.tensor([[0, 0, 0, 0], [8, 0, 4, 0], [8, 0, 0, 0]]) / 100
    posterior = agent.posterior(replace(env.observation, user=user))
    likes_0 = int(agent.tensors()["rates"][:, 0].argmax())
    assert posterior[0].tolist() == pytest.approx(agent.tensors()["shares"].tolist())
    assert float(posterior[1, likes_0]) > 0.95
    assert float(posterior[2, likes_0]) < 0.2


def test_it_is_random_until_it_knows_types_and_counts_are_not_told() -> None:
    env = split(40, 1, horizon=10)
    agent = sw.TypeThompson(env.spec, first_sessions=80, seed=1)
    sessions = 0
    while agent.update() is None:
        assert agent.epsilon() == 1
        assert float(agent.act(env.observation).propensity.prod(1).max()) == pytest.approx(1 / 90)
        interactions = env.step(agent.act(env.observation))
        agent.observe(interactions)
        sessions += int(interactions.done.sum())
    assert sessions == 80
    assert agent.epsilon() == 0
    shown = agent.counts(interactions.next_observation)[:, 0].sum(1)
    assert shown.tolist() == pytest.approx([20.0] * 40)  # ten slates of two


def test_other_worlds_are_refused() -> None:
    with pytest.raises(sw.InputError, match="no user feature 'shown_topic_0'"):
        sw.TypeThompson(sw.make("interest-evolution", users=1).spec)
    env = split(2, 0)
    agent = sw.TypeThompson(env.spec)
    interactions = env.step(torch.tensor([[0, 1], [1, 2]]))
    with pytest.raises(sw.InputError, match="no next_observation"):
        agent.observe(replace(interactions, next_observation=None))
