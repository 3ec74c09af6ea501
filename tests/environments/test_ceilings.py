"""Ceilings: dynamic programming against closed forms, play in the simulator, and what the worlds declare."""

import json
import math
from contextlib import suppress

import pytest
import torch

from slatewise import cache, ceilings, evaluate, make
from slatewise.cache import folder
from slatewise.ceilings import optimum, plan
from slatewise.cli import main
from slatewise.environments.interest_evolution import PLANNER_WORTH, REFERENCES, InterestEvolution, iterated_worth
from slatewise.environments.long_term_satisfaction import REFERENCES as SATISFACTION
from slatewise.environments.long_term_satisfaction import LongTermSatisfaction
from slatewise.errors import InputError


def satisfaction(users: int, **settings) -> LongTermSatisfaction:
    env = make("long-term-satisfaction", users=users, seed=3, **settings)
    assert isinstance(env, LongTermSatisfaction)
    return env


def evolution(users: int, **settings) -> InterestEvolution:
    env = make("interest-evolution", users=users, seed=3, **settings)
    assert isinstance(env, InterestEvolution)
    return env


@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_best_of_uniform_draws_has_its_known_mean(count: int) -> None:
    """C / (C + 1) for C uniforms; of sweet and kale ones the sweet alone decide when x is the worth."""
    x = (torch.arange(400).double() + 0.5) / 400
    found = ceilings._mean_of_best(x.unsqueeze(0), torch.zeros(400, dtype=torch.int64), [count])
    assert float(found) == pytest.approx(count / (count + 1), abs=2e-5)
    both = torch.cat([0.8 + 0.2 * x, 0.2 * x]).unsqueeze(0)
    kinds = torch.arange(2).repeat_interleave(400)
    found = ceilings._mean_of_best(both, kinds, [count, count])
    assert float(found) == pytest.approx(0.8 + 0.2 * count / (count + 1), abs=1e-5)


def test_one_step_ahead_is_the_best_of_the_moment() -> None:
    """With one step left the optimum of `recsim` is E[exp(location + scale² / 2)] of the largest x of 10."""
    env = satisfaction(2, horizon=1)
    at = plan(env)
    x = torch.rand(200_000, 10, generator=torch.Generator().manual_seed(0)).amax(1).double()
    expected = ((4 + x) * 0.5 + 0.5).exp()  # exposure 0: satisfaction 1/2; both standard deviations are 1
    middle = at.values[1, (at.grid.abs() < 1e-9).nonzero()]
    error = float(expected.std()) / math.sqrt(len(expected))
    assert abs(float(middle) - float(expected.mean())) < 4.5 * error


@pytest.mark.parametrize(("variant", "candidates"), list(SATISFACTION))
def test_the_declared_ceiling_is_the_value_of_the_optimum_and_what_it_earns(variant: str, candidates: int) -> None:
    """Both within 4 standard errors of the figure measured independently, 4,000 sessions played."""
    env = satisfaction(4000, variant=variant, candidates=candidates)
    planned = plan(env, exposures=801, points=200)
    ceiling = env.references.ceiling
    assert ceiling is not None
    assert ceiling.kind == "exact"
    # The plan's own error, from its grids, is below a third of a standard error.
    assert abs(planned.at_start() - ceiling.mean) < 4 * ceiling.standard_error
    played = evaluate(optimum(env, planned), env, 4000)
    assert abs(played.mean - ceiling.mean) < 4 * math.hypot(played.standard_error, ceiling.standard_error)
    assert abs(played.mean - planned.at_start()) < 4 * played.standard_error


def test_with_recsims_constants_the_optimum_is_the_sweetest_item() -> None:
    env = satisfaction(500)
    planned = optimum(env)
    sweetest = env.rule("sweetest")
    for _ in range(60):
        slate = planned.act(env.observation).slate
        assert torch.equal(slate[:, 0], sweetest.act(env.observation).slate[:, 0])
        env.step(slate)


def test_other_rewards_and_horizons_have_optima_too() -> None:
    env = satisfaction(3000, variant="slides", reward="satisfaction_rose", horizon=12, candidates=6)
    planned = plan(env, exposures=801, points=200)
    played = evaluate(optimum(env, planned), env, 3000)
    assert abs(played.mean - planned.at_start()) < 4 * played.standard_error
    assert played.mean > evaluate(env.rule("kalest"), env, 3000).mean


def test_a_discount_weighs_what_comes_later() -> None:
    three, one = (satisfaction(2, variant="slides", horizon=horizon, candidates=4) for horizon in (3, 1))
    assert plan(three, 201, 100, discount=0.0).at_start() == pytest.approx(plan(one, 201, 100).at_start())
    whole, half = (plan(three, 201, 100, discount=discount) for discount in (1.0, 0.5))
    exposure, x = torch.zeros(1), torch.tensor([[0.2, 0.9]])
    now = half.worth(exposure, x, torch.tensor([1]))
    ahead = whole.worth(exposure, x, torch.tensor([2])) - now
    assert torch.allclose(half.worth(exposure, x, torch.tensor([2])), now + 0.5 * ahead)


def test_kept_candidates_are_refused() -> None:
    with pytest.raises(InputError, match="resample=session: the optimum is planned for candidates that are new"):
        plan(satisfaction(2, resample="session"))


@pytest.fixture
def own_cache(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "slatewise")
    return tmp_path / "slatewise" / "planner.json"


def test_the_cache_is_the_users(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "slatewise"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == tmp_path / ".cache" / "slatewise"


def test_numbers_are_computed_once_and_kept(own_cache, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def compute(key: str) -> float:
        asked.append(key)
        return float(len(key))

    assert [cache.remembered("planner", key, lambda key=key: compute(key)) for key in ("a", "bb", "a")] == [1, 2, 1]
    assert asked == ["a", "bb"]
    assert json.loads(own_cache.read_text()) == {"a": 1.0, "bb": 2.0}
    monkeypatch.setattr(cache, "_memory", {})
    assert cache.remembered("planner", "bb", lambda: compute("bb")) == 2
    assert asked == ["a", "bb"]
    assert [path.name for path in own_cache.parent.iterdir()] == ["planner.json"]


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": "one"}'])
def test_a_broken_cache_is_done_without(own_cache, content: str) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text(content)
    assert cache.remembered("planner", "a", lambda: 3.5) == 3.5
    assert json.loads(own_cache.read_text())["a"] == 3.5


def test_a_cache_that_cannot_be_written_is_done_without(own_cache, tmp_path) -> None:
    (tmp_path / "slatewise").write_text("a file where the directory should be")
    assert cache.remembered("planner", "unwritable", lambda: 4.5) == 4.5


def test_the_planner_iterates_its_worth_where_it_is_not_known(own_cache) -> None:
    """Short sessions of a kind without figures: at the fixed point λ is the planner's return / 200."""
    env = evolution(4000, candidates=6, slate_size=2, horizon=15)
    worth = env.planner_worth()
    named = "choice=proportional candidates=6 slate_size=2 resample=step reward=watch horizon=15"
    assert json.loads(own_cache.read_text()) == {f"interest-evolution-v1 {named}": worth}
    played = evaluate(env.rule("planner"), env, 4000)
    # 2,000 sessions gave λ, 4,000 are played.
    assert abs(played.mean - 200 * worth) < 4 * played.standard_error * math.sqrt(3)


@pytest.mark.slow
@pytest.mark.parametrize("key", list(PLANNER_WORTH), ids=str)
def test_the_known_worths_are_fixed_points(key: tuple[str, int, int]) -> None:
    """Iterated from 0.8 by 6 rounds of 2,000 sessions: within 0.02, four standard errors of a mean return, / 200."""
    found = iterated_worth(dict(zip(("choice", "candidates", "slate_size"), key, strict=True)))
    assert found == pytest.approx(PLANNER_WORTH[key], abs=0.02 if key[1] == 10 else 0.1)


# Typed again from the independent measurements: mean and standard error of random, myopic and quality.
WITHOUT_CEILING = {
    ("exponential-cascade", 10, 3): ((92.1, 0.2), (116.0, 0.2), (122.9, 0.3)),
    ("proportional", 100, 10): ((169.7, 0.3), (183.1, 1.3), (524, 5)),
    ("logit", 100, 10): ((169.0, 0.3), (183.6, 1.3), (591, 2)),
}


@pytest.mark.parametrize("key", WITHOUT_CEILING, ids=str)
def test_a_table_without_a_planner_has_no_ceiling_and_no_share(key: tuple[str, int, int]) -> None:
    """Random is measured too, 1,000 sessions, within 4 standard errors."""
    choice, candidates, slate_size = key
    env = evolution(1000, choice=choice, candidates=candidates, slate_size=slate_size)
    references = env.references
    figures = tuple((r.mean, r.standard_error) for r in (references.rules[n] for n in ("random", "myopic", "quality")))
    assert figures == WITHOUT_CEILING[key]
    assert references.ceiling is None
    assert references.share(200.0) is None
    assert references.best_rule() == "quality"
    result, known = evaluate(env.rule("random", 4), env, 1000), references.rules["random"]
    assert result.share is None
    assert abs(result.mean - known.mean) < 4 * math.hypot(result.standard_error, known.standard_error)


def test_twenty_candidates_have_a_planner() -> None:
    references = REFERENCES["proportional", 20, 3]
    means = [references.rules[rule].mean for rule in ("random", "myopic", "quality")]
    assert references.ceiling is not None
    assert [*means, references.ceiling.mean] == [160.5, 172.2, 355.8, 379.7]


def test_the_cascades_figures_are_those_measured() -> None:
    """Myopic and quality too, 2,000 sessions, within 4 standard errors."""
    env = evolution(2000, choice="exponential-cascade", slate_size=3)
    for rule in ("myopic", "quality"):
        result, known = evaluate(env.rule(rule), env, 2000), env.references.rules[rule]
        assert abs(result.mean - known.mean) < 4 * math.hypot(result.standard_error, known.standard_error)


def test_descriptions_say_where_there_is_no_ceiling(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    command = "evaluate random --env interest-evolution --episodes 20 --users 20 --set choice=exponential-cascade"
    monkeypatch.setattr("sys.argv", ["slatewise", *command.split(), "--set", "slate_size=3"])
    with suppress(SystemExit):
        main()
    assert "ceiling not known" in capsys.readouterr().out


SETTINGS = [
    {"choice": "exponential-cascade", "slate_size": 3},
    {"choice": "proportional-cascade", "slate_size": 10, "resample": "session"},
    {"candidates": 1000, "slate_size": 10, "choice": "exponential-cascade"},
    {"candidates": 1000, "slate_size": 10, "choice": "logit", "resample": "session", "observe": "quality,budget"},
    {"candidates": 1000, "slate_size": 2, "reward": "clicks"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_large_slates_and_many_candidates_in_every_choice(settings, own_cache) -> None:
    env = evolution(64, horizon=3, **settings)
    for name in ("random", "myopic", "quality", "planner"):
        slate = env.rule(name).act(env.observation).slate
        assert slate.shape == (64, env.spec.slate_size)
        interactions = env.step(slate)
        interactions.validate()
        assert int(interactions.response.clicked.sum(1).max()) <= 1
