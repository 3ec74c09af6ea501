"""Long-term satisfaction against its formulas, a slow one-user reference, and measured returns."""

import math
from dataclasses import replace
from random import Random as PlainRandom

import pytest
import torch
from reference_users import LTS, kalest, long_term_session, sweetest, uniform_policy

from slatewise.environments import make
from slatewise.environments.base import Environment
from slatewise.environments.long_term_satisfaction import REFERENCES
from slatewise.interactions import Interactions, Policy
from slatewise.returns import Mean, SessionReturns

NAME = "long-term-satisfaction"
each_variant = pytest.mark.parametrize("variant", list(LTS))


def still(variant: str, users: int = 1, **settings: object) -> Environment:
    """Return a world whose engagement and innovation have no noise."""
    env = make(NAME, users=users, seed=0, variant=variant, **settings)
    constants = env.variant
    env.variant = replace(
        constants,
        chocolate=(constants.chocolate[0], 0.0),
        kale=(constants.kale[0], 0.0),
        innovation_stddev=0.0,
    )
    return env


def put_x(env: Environment, x: torch.Tensor) -> None:
    """Make the first candidates of every user have these clickbait scores [B, K]."""
    env.candidates["x"][:, : x.shape[1]] = x


@each_variant
def test_one_step_by_the_formulas(variant: str) -> None:
    """Engagement uses satisfaction before the step; exposure falls by 2 (x − 0.5)."""
    memory, sensitivity, _, chocolate, kale, budget, *_ = LTS[variant]
    env = still(variant, users=5, observe=("budget", "satisfaction"), slate_size=2)
    exposure = torch.tensor([-3.0, -0.5, 0.0, 1.0, 2.0])
    x = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    env.state["exposure"] = exposure.clone()
    put_x(env, torch.stack([x, 1 - x], 1))
    interactions = env.step(torch.tensor([[0, 1]]).expand(5, 2))
    response, last = interactions.response, interactions.next_observation
    for row in range(5):
        satisfaction = 1 / (1 + math.exp(-sensitivity * float(exposure[row])))
        at = float(x[row])
        engagement = math.exp((at * chocolate[0] + (1 - at) * kale[0]) * satisfaction)
        after = memory * float(exposure[row]) - 2 * (at - 0.5)
        later = 1 / (1 + math.exp(-sensitivity * after))
        assert response.clicked[row].tolist() == [True, False]
        assert response.signals[row, 0].tolist() == pytest.approx([engagement, float(later > satisfaction)], rel=1e-5)
        assert response.signals[row, 1].tolist() == [0, 0]
        assert response.reward[row].tolist() == pytest.approx([engagement, 0.0], rel=1e-5)
        assert float(env.state["exposure"][row]) == pytest.approx(after, abs=1e-6)
        assert last.user[row, :2].tolist() == pytest.approx([at, min(engagement, 100) / 100], rel=1e-5)
        assert last.user[row, -2:].tolist() == pytest.approx([1 - 1 / budget, later], rel=1e-5)


def test_only_the_copy_in_the_observation_is_clipped() -> None:
    env = still("recsim")
    env.state["exposure"][:] = 500.0
    put_x(env, torch.tensor([[1.0]]))
    interactions = env.step(torch.tensor([[0, 1]]))
    assert float(interactions.response.signals[0, 0, 0]) == pytest.approx(math.exp(5 / (1 + math.exp(-5))), rel=1e-5)
    assert interactions.next_observation.user[0].tolist() == [1.0, 1.0]


def test_the_rest_of_the_slate_is_ignored() -> None:
    def play(second: int) -> Interactions:
        return make(NAME, users=50, seed=1).step(torch.tensor([[3, second]]).expand(50, 2))

    one, other = play(0), play(7)
    assert torch.equal(one.response.signals, other.response.signals)
    assert torch.equal(one.next_observation.user, other.next_observation.user)


def test_the_noise_is_that_of_the_formulas() -> None:
    """Log engagement N(loc, scale) and innovation N(0, 0.05): means and variances within 4.5 standard errors."""
    users, x = 40_000, 0.25
    env = make(NAME, users=users, seed=2)
    env.state["exposure"][:] = 40.0
    put_x(env, torch.full((users, 1), x))
    response = env.step(torch.tensor([[0, 1]]).expand(users, 2)).response
    log_engagement = response.signals[:, 0, 0].double().log()
    location = (x * 5 + (1 - x) * 4) / (1 + math.exp(-0.4))
    innovation = env.state["exposure"].double() - (0.7 * 40 - 2 * (x - 0.5))
    for values, mean, deviation in ((log_engagement, location, 1.0), (innovation, 0.0, 0.05)):
        assert abs(float(values.mean()) - mean) < 4.5 * deviation / math.sqrt(users)
        variance = float(((values - mean) ** 2).mean())
        assert abs(variance - deviation**2) < 4.5 * deviation**2 * math.sqrt(2 / users)
    together = float(((log_engagement - location) * innovation).mean()) / 0.05
    assert abs(together) < 4.5 / math.sqrt(users)


def test_a_mixed_item_has_mixed_deviation() -> None:
    """Between chocolate (deviation 1) and kale (0 here) the deviation of log engagement is x."""
    users = 40_000
    env = make(NAME, users=users, seed=3)
    env.variant = replace(env.variant, kale=(4.0, 0.0))
    env.state["exposure"][:] = 0.0
    put_x(env, torch.full((users, 1), 0.5))
    engagement = env.step(torch.tensor([[0, 1]]).expand(users, 2)).response.signals[:, 0, 0].double()
    variance = float(((engagement.log() - 2.25) ** 2).mean())
    assert abs(variance - 0.25) < 4.5 * 0.25 * math.sqrt(2 / users)


@each_variant
def test_what_sessions_begin_with(variant: str) -> None:
    memory, sensitivity, *_, budget, candidates, start, parity = LTS[variant]
    env = make(NAME, users=20_000, seed=4, variant=variant, observe="budget,satisfaction")
    exposure = env.state["exposure"].double()
    bound = 0.5 / (1 - memory)
    if start is None:
        assert -bound <= float(exposure.min()) < -0.99 * bound
        assert 0.99 * bound < float(exposure.max()) <= bound
        assert abs(float(exposure.mean())) < 4.5 * bound / math.sqrt(3 * 20_000)
    else:
        assert bool((exposure == start).all())
    observation = env.observation
    torch.testing.assert_close(observation.user[:, -1].double(), torch.sigmoid(sensitivity * exposure))
    assert bool((observation.user[:, -2] == 1).all())
    assert bool((observation.user[:, :2] == 0).all())
    assert observation.item_ids[0].tolist() == list(range(candidates))
    x = observation.items[:, :, 0].double()
    if parity:
        assert 0.8 <= float(x[:, ::2].min()) < 0.801
        assert 0.999 < float(x[:, ::2].max()) <= 1.0
        assert 0.0 <= float(x[:, 1::2].min()) < 0.001
        assert 0.199 < float(x[:, 1::2].max()) <= 0.2
        x = torch.cat([(x[:, ::2] - 0.8) / 0.2, x[:, 1::2] / 0.2], 1)
    assert abs(float(x.mean()) - 0.5) < 4.5 / math.sqrt(12 * x.numel())
    assert abs(float(((x - 0.5) ** 2).mean()) - 1 / 12) < 4.5 / math.sqrt(180 * x.numel())
    assert env.step(torch.arange(env.spec.slate_size).expand(20_000, -1)).terminated.any().item() is (budget == 1)


def test_sweetness_shows_a_clock() -> None:
    env = make(NAME, users=3, variant="sweetness")
    shown = []
    for _ in range(11):
        shown.append(float(env.observation.user[1, 2]))
        interactions = env.step(torch.zeros(3, 1, dtype=torch.int64))
    assert shown == pytest.approx([t / 10 - 0.5 for t in [*range(10), 0]])
    assert env.spec.user == ("last_x", "last_engagement", "step")
    assert interactions.step.tolist() == [0, 0, 0]


def test_slides_shows_satisfaction_by_default() -> None:
    env = make(NAME, users=3, variant="slides")
    assert env.spec.user[-1] == "satisfaction"
    assert torch.equal(env.observation.user[:, -1], torch.sigmoid(0.058 * env.state["exposure"]))
    assert make(NAME, users=1).spec.user == ("last_x", "last_engagement")


@pytest.mark.parametrize(
    ("variant", "expected"), [("recsim", (10, 2, 60)), ("slides", (20, 2, 120)), ("sweetness", (20, 1, 10))]
)
def test_sizes_follow_the_variant_unless_given(variant: str, expected: tuple[int, int, int]) -> None:
    settings = make(NAME, users=1, variant=variant).settings
    assert (settings.candidates, settings.slate_size, settings.horizon) == expected
    given = make(NAME, users=1, variant=variant, candidates=5, slate_size=3, horizon=2).settings
    assert (given.candidates, given.slate_size, given.horizon) == (5, 3, 2)


def test_the_reward_may_be_that_satisfaction_rose() -> None:
    env = still("sweetness", users=2, reward="satisfaction_rose", candidates=2)
    put_x(env, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    response = env.step(torch.tensor([[0], [1]])).response
    assert response.reward.tolist() == [[1.0], [0.0]]


def test_rules_order_by_clickbait() -> None:
    env = make(NAME, users=30, seed=5, slate_size=3)
    x = env.observation.items[:, :, 0]
    order = x.argsort(1)
    assert torch.equal(env.rule("sweetest").act(env.observation).slate, order.flip(1)[:, :3])
    assert torch.equal(env.rule("kalest").act(env.observation).slate, order[:, :3])


def session_figures(env: Environment, policy: Policy) -> dict[str, torch.Tensor]:
    """Return figures of every user's first session, by name; `satisfaction` is the last user feature."""
    returns, rose, last = SessionReturns(env.users), torch.zeros(env.users).double(), torch.zeros(env.users).double()
    while returns.complete() < 1:
        first = returns.finished == 0
        interactions = env.step(policy.act(env.observation))
        returns.add(interactions)
        rose += interactions.response.signals[:, :, 1].sum(1) * first
        last = torch.where(first, interactions.next_observation.user[:, -1].double(), last)
    values, lengths = returns.first(1)
    return {"return": values, "length": lengths.double(), "rose": rose, "satisfaction": last}


def z_score(one: Mean, other_mean: float, other_error: float) -> float:
    return (one.mean - other_mean) / math.hypot(one.standard_error, other_error)


RULES = {"random": uniform_policy, "sweetest": sweetest, "kalest": kalest}


@each_variant
@pytest.mark.parametrize("rule", ["random", "kalest"])
def test_sessions_have_the_figures_of_the_one_user_reference(variant: str, rule: str) -> None:
    """Means of 4,000 users against 500 slow sessions, each within 4.5 standard errors."""
    env = make(NAME, users=4_000, seed=6, variant=variant, observe="satisfaction")
    found = session_figures(env, env.rule(rule, seed=7))
    random = PlainRandom(8)
    slow = [long_term_session(variant, RULES[rule], env.spec.slate_size, random) for _ in range(500)]
    assert set(found["length"].tolist()) == {session["length"] for session in slow}
    for key in ("return", "rose", "satisfaction"):
        expected = Mean.of(torch.tensor([session[key] for session in slow]))
        if expected.standard_error == 0:
            assert Mean.of(found[key]).mean == expected.mean
        else:
            z = z_score(Mean.of(found[key]), expected.mean, expected.standard_error)
            assert abs(z) < 4.5, (key, z)


def assert_reference(variant: str, candidates: int, rule: str, users: int) -> None:
    env = make(NAME, users=users, seed=9, variant=variant, candidates=candidates)
    reference = env.references.rules[rule]
    mean = Mean.of(session_figures(env, env.rule(rule, seed=10))["return"])
    z = z_score(mean, reference.mean, reference.standard_error)
    assert abs(z) < 4, f"{mean} against {reference}: z = {z:.1f}"


TABLE = [(*key, rule) for key, references in REFERENCES.items() for rule in references.rules]


@pytest.mark.parametrize(("variant", "candidates", "rule"), TABLE)
def test_returns_are_those_measured(variant: str, candidates: int, rule: str) -> None:
    """Within 4 standard errors, 2,000 sessions."""
    assert_reference(variant, candidates, rule, users=2_000)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "candidates", "rule"), TABLE)
def test_returns_are_those_measured_with_as_many_sessions(variant: str, candidates: int, rule: str) -> None:
    """Within 4 standard errors, 20,000 sessions."""
    assert_reference(variant, candidates, rule, users=20_000)


def test_the_table_is_what_was_measured() -> None:
    """Typed again from the independent measurements: means, standard errors and ceilings."""
    measured = {
        "recsim": ((949.3, 1.2), (1114.7, 1.3), (784.5, 0.9), (1114.7, 1.3)),
        "slides": ((1157.84, 0.08), (1163.71, 0.08), (1084.17, 0.07), (1195.84, 0.08)),
        "sweetness": ((99.29, 0.17), (56.53, 0.01), (10.875, 0.002), (225.87, 0.05)),
    }
    for variant, figures in measured.items():
        references = make(NAME, users=1, variant=variant).references
        found = [references.rules[rule] for rule in ("random", "sweetest", "kalest")] + [references.ceiling]
        assert tuple((r.mean, r.standard_error) for r in found) == figures
        assert references.ceiling.kind == "exact"


@pytest.mark.parametrize(
    "settings",
    [{"horizon": 30}, {"candidates": 5}, {"resample": "session"}, {"reward": "satisfaction_rose"}],
    ids=str,
)
def test_other_settings_have_no_references(settings: dict[str, object]) -> None:
    assert make(NAME, users=1, **settings).references is None


def best_plan(variant: str, grid: torch.Tensor, offered: torch.Tensor) -> list[torch.Tensor]:
    """Return the future values on a grid of exposures [G] for every number of steps left, by backward induction.

    offered: sets of candidates, [M, C], over which the best item is averaged. Innovation is integrated by five-point
    Gauss–Hermite quadrature, engagement in closed form, and values are interpolated linearly.
    """
    memory, _, innovation, _, _, budget, *_ = LTS[variant]
    nodes = torch.tensor([-2.85697001, -1.35562618, 0.0, 1.35562618, 2.85697001]).double()
    masses = torch.tensor([0.01125741, 0.22207592, 0.53333333, 0.22207592, 0.01125741]).double()
    values = [torch.zeros_like(grid)]
    for _ in range(budget):
        after = memory * grid.view(-1, 1, 1) - 2 * (offered - 0.5)
        ahead = sum(
            m * interpolate(values[-1], grid, after + innovation * n) for n, m in zip(nodes, masses, strict=True)
        )
        values.append((engagement(variant, grid.view(-1, 1, 1), offered) + ahead).amax(2).mean(1))
    return values


def engagement(variant: str, exposure: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the expected engagement, exp(loc + scale² / 2)."""
    _, sensitivity, _, chocolate, kale, *_ = LTS[variant]
    location = (x * chocolate[0] + (1 - x) * kale[0]) * torch.sigmoid(sensitivity * exposure)
    return (location + (x * chocolate[1] + (1 - x) * kale[1]) ** 2 / 2).exp()


def interpolate(values: torch.Tensor, grid: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    place = ((at - grid[0]) / (grid[1] - grid[0])).clamp(0, len(grid) - 1.000001)
    left, share = place.long(), place.frac()
    return values[left] * (1 - share) + values[left + 1] * share


@pytest.mark.slow
@each_variant
def test_the_ceiling_is_that_of_dynamic_programming(variant: str) -> None:
    """Play the optimum, planned here with the true model and exposure, in the simulator: within 4 standard errors.

    The plan is approximate (a grid of 241 exposures, 200 sets of candidates), which can only cost return; what it
    costs is second order.
    """
    memory = LTS[variant][0]
    env = make(NAME, users=20_000, seed=11, variant=variant)
    generator = torch.Generator().manual_seed(12)
    offered = env.observation.items[torch.randperm(20_000, generator=generator)[:200], :, 0].double()
    grid = torch.linspace(-4, 4, 241).double()
    values = best_plan(variant, grid, offered)
    returns = SessionReturns(env.users)
    for left in range(LTS[variant][5], 0, -1):
        x, exposure = env.observation.items[:, :, 0].double(), env.state["exposure"].double().unsqueeze(1)
        worth = engagement(variant, exposure, x) + interpolate(
            values[left - 1], grid, memory * exposure - 2 * (x - 0.5)
        )
        returns.add(env.step(worth.topk(env.spec.slate_size, 1).indices))
    mean, ceiling = Mean.of(returns.first(1)[0]), env.references.ceiling
    assert abs(z_score(mean, ceiling.mean, ceiling.standard_error)) < 4, f"{mean} against {ceiling}"
