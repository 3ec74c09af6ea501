"""Does it learn? Short trainings beside the references that every world declares; longer ones are marked slow."""

import pytest

import slatewise as sw
from slatewise.agents import make_agent


def learn(agent: str, world: str, steps: int, seed: int, **settings: object) -> tuple[sw.Evaluation, sw.Environment]:
    env = sw.make(world, users=256, seed=seed, **settings)
    learner = make_agent(agent, env.spec, env.choice, seed)
    sw.train(learner, env, steps, progress=False)
    fresh = sw.make(world, users=1000, seed=1000 + seed, **settings)
    return sw.evaluate(learner, fresh, 1000), fresh


def test_slateq_passes_the_myopic_rule_of_interest_evolution_in_seconds() -> None:
    result, env = learn("slateq", "interest-evolution", 400_000, seed=4)
    assert env.references is not None
    assert result.mean - 4 * result.standard_error > env.references.rules["myopic"].mean


def test_slateq_beats_random_where_bandits_lose_to_it() -> None:
    result, env = learn("slateq", "long-term-satisfaction", 300_000, seed=4, variant="sweetness")
    assert env.references is not None
    random = env.references.rules["random"].mean
    assert result.mean - 4 * result.standard_error > random
    for bandit, steps in (("supervised", 300_000), ("linucb", 10_000)):
        greedy, _ = learn(bandit, "long-term-satisfaction", steps, seed=4, variant="sweetness")
        assert greedy.mean + 4 * greedy.standard_error < random


@pytest.mark.parametrize("seed", [0, 1])
def test_bandits_approach_the_myopic_rule(seed: int) -> None:
    result, env = learn("linucb", "interest-evolution", 15_000, seed)
    assert env.references is not None
    myopic, random = env.references.rules["myopic"].mean, env.references.rules["random"].mean
    assert result.mean > random + 0.4 * (myopic - random)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_slateq_reaches_the_best_rule_of_interest_evolution(seed: int) -> None:
    result, _ = learn("slateq", "interest-evolution", 2_500_000, seed)
    assert result.mean > 281


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_slateq_passes_the_tutorials_on_sweetness(seed: int) -> None:
    result, _ = learn("slateq", "long-term-satisfaction", 2_500_000, seed, variant="sweetness")
    assert result.mean > 190
