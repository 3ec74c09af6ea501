"""SlateQ that learns the choice model from its own clicks: worlds without one, saving, and everything that uses it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import slatewise as sw
from slatewise.choice import Bilinear, ExponentialCascade, InnerProduct, Logit
from slatewise.naming import agent_for, find_policy
from slatewise.retrieval import Retrieved, products_of
from slatewise.testing import check_agent

TINY: dict[str, Any] = {"hidden": 16, "embedding": 8, "rollout_steps": 4, "fit_choice": "logit"}


def trained(env: sw.Environment, steps: int = 4000, **settings: Any) -> sw.SlateQ:
    agent = sw.SlateQ(env.spec, seed=0, **{**TINY, **settings})
    sw.train(agent, env, steps, progress=False)
    return agent


def test_it_needs_no_choice_model_and_keeps_every_promise() -> None:
    def make(spec: sw.Spec, _: Any, seed: int) -> sw.SlateQ:
        return sw.SlateQ(spec, None, seed, **TINY, replay=1, replay_size=2000)

    assert set(check_agent(make).values()) == {"kept"}


def test_users_who_choose_by_what_is_hidden_are_served() -> None:
    """Where `env.choice` is None; 41.0 clicks at random, 42.3 by the best rule, and the oracle, told all, 61.6."""
    env = sw.make("interest-exploration", users=128, variant="split", seed=0)
    agent = agent_for("slateq", env, fit_choice="logit", discount=0.9, rollout_steps=8, hidden=64, learning_rate=3e-3)
    line = sw.train(agent, env, 40_000, progress=False).metrics
    assert line["log_likelihood"] > -1.09  # log ⅓ is what nothing known says
    fresh = sw.make("interest-exploration", users=500, variant="split", seed=1)
    assert sw.evaluate(agent, fresh, 500).mean > 46


def test_the_model_changes_with_every_update_and_is_what_plans() -> None:
    env = sw.make("interest-evolution", users=64)
    agent = trained(env)
    assert isinstance(agent.choice, Logit)
    assert isinstance(agent.choice.affinity, Bilinear)
    before, shown = agent.choice, agent.greedy(env.observation, explore=False)
    sw.train(agent, env, agent.steps + 1, progress=False)
    assert agent.choice != before
    agent.choice = before
    items, no_click = agent.values(env.observation)
    slate, _ = agent._slate(env.observation, "exact")
    known = sw.slates.best_slate(before, before.scores(env.observation), items, no_click, env.observation.mask, 2)[0]
    assert torch.equal(slate, known)
    assert shown.shape == slate.shape


def test_it_is_saved_with_the_model_that_it_learned(tmp_path: Path) -> None:
    env = sw.make("interest-evolution", users=64)
    agent = trained(env)
    agent.save(tmp_path / "agent")
    loaded = sw.load(tmp_path / "agent")
    assert loaded.choice == agent.choice
    assert torch.equal(loaded.greedy(env.observation, False), agent.greedy(env.observation, False))
    for key, value in agent.tensors().items():
        assert torch.equal(loaded.tensors()[key], value), key


def test_the_newest_rollout_alone_is_learned_from_whatever_is_replayed() -> None:
    """Clicks that are remembered were learned from before: with replay the choice model is that without it."""
    models = []
    for replay in (0, 2):
        env = sw.make("interest-evolution", users=64)
        agent = sw.SlateQ(env.spec, seed=0, **TINY, replay=replay, epsilon_end=1.0)
        random = env.rule("random", seed=1)
        for _ in range(12):
            agent.observe(env.step(random.act(env.observation)))
            agent.update()
        models.append(agent.choice)
    assert models[0] == models[1]


def test_names_make_it_without_the_choice_model_of_the_world() -> None:
    env = sw.make("interest-evolution", users=4)
    agent = find_policy("slateq", env, settings={"fit_choice": "exponential-cascade"})
    assert isinstance(agent, sw.SlateQ)
    assert isinstance(agent.choice, ExponentialCascade)
    assert isinstance(agent_for("slateq", env), sw.SlateQ)
    assert agent_for("slateq", env).choice == env.choice


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("proportional", r"fit_choice='proportional': proportional needs scores above −shift.*take logit"),
        ("proportional-cascade", r"take exponential-cascade"),
        ("position-based", r"input should be 'none', 'logit' or 'exponential-cascade'"),
    ],
)
def test_models_that_cannot_be_learned_are_refused(name: str, words: str) -> None:
    with pytest.raises(sw.InputError, match=words):
        sw.SlateQ(sw.make("interest-evolution", users=2).spec, fit_choice=name)


def test_without_a_model_it_says_how_to_learn_one() -> None:
    with pytest.raises(sw.InputError, match=r"env\.choice is None.*set fit_choice=logit"):
        sw.SlateQ(sw.make("interest-exploration", users=2).spec)


@pytest.mark.parametrize("name", ["slateq", "model-planner", "supervised", "deep-q"])
def test_the_name_of_a_choice_model_is_none(name: str) -> None:
    named: Any = "logit"
    with pytest.raises(sw.InputError, match=r"choice='logit' is no choice model: pass .*env\.choice"):
        sw.make_agent(name, sw.make("interest-evolution", users=2).spec, named)


@pytest.mark.parametrize(("name", "settings"), [("slateq", {}), ("model-planner", {"users": "given"})])
def test_a_choice_model_of_other_features_is_refused(name: str, settings: dict[str, Any]) -> None:
    spec = sw.make("interest-evolution", users=2).spec
    assert (len(spec.user), len(spec.catalogue), spec.items) == (23, 20, ())
    for user, items in ((23, 20), (2, 20)):
        sw.make_agent(name, spec, Logit(Bilinear(((0.0,) * items,) * user, (0.0,) * items)), **settings)
    for user, items in ((24, 20), (23, 19), (23, 21)):
        with pytest.raises(sw.InputError, match=f"reads {user} user and {items} item features, the spec has 23 and 20"):
            sw.make_agent(name, spec, Logit(Bilinear(((0.0,) * items,) * user, (0.0,) * items)), **settings)
    with pytest.raises(sw.InputError, match="reads 21 user and 21 catalogue features, the spec has 23 and 20"):
        sw.make_agent(name, spec, Logit(InnerProduct(21)), **settings)


def test_several_clicks_on_a_slate_are_refused() -> None:
    env = sw.make("interest-evolution", users=4)
    agent = sw.SlateQ(env.spec, **TINY)
    seen = env.step(agent.act(env.observation))
    both = replace(seen, response=replace(seen.response, clicked=torch.ones(4, 2, dtype=torch.bool)))
    with pytest.raises(sw.InputError, match="take at most one item of a slate"):
        agent.observe(both)


def test_constraints_and_retrieval_use_the_newest_model() -> None:
    env = sw.make("interest-evolution", users=64)
    agent = sw.SlateQ(env.spec, seed=0, **TINY)
    held = sw.Constrained(agent, sw.Constraints())
    retrieved = Retrieved(agent, candidates=5)
    sw.train(agent, env, 4000, progress=False)
    assert retrieved._products() == products_of(agent)
    assert retrieved._products()[1] is agent.choice.affinity  # type: ignore[union-attr]
    worth = agent._slate(env.observation, "exact")[1]  # of slates that may differ: candidates of a topic are alike
    slate = held.act(env.observation, explore=False).slate
    assert torch.allclose(agent.value_of(env.observation, slate, agent.regression), worth, rtol=1e-5)
