"""Interest exploration against its formulas, a slow reference of one user, and the published figures."""

import math
from random import Random as PlainRandom

import pytest
import torch

import slatewise as sw
from slatewise.environments.interest_exploration import REFERENCES, InterestExploration
from slatewise.returns import Mean

# Share of topic 0 and of type 0, means of log quality by topic, of log affinity by type and topic.
CONSTANTS = {
    "recsim": (0.2, 0.3, (0.8, 0.2), ((0.1, 0.7), (0.7, 0.1))),
    "split": (0.5, 0.5, (0.4, 0.2), ((0.1, 1.2), (1.2, 0.1))),
}
each_variant = pytest.mark.parametrize("variant", CONSTANTS)


def world(users: int, seed: int = 0, **settings: object) -> InterestExploration:
    env = sw.make("interest-exploration", users=users, seed=seed, **settings)
    assert isinstance(env, InterestExploration)
    return env


def plain_session(variant: str, rule: str, random: PlainRandom, steps: int) -> dict[str, float]:
    """One user of the model, written again from its description."""
    topic_share, type_share, quality, affinity = CONSTANTS[variant]
    kind = 0 if random.random() < type_share else 1
    mine = [math.exp(random.gauss(mean, 0.1)) for mean in affinity[kind]]
    clicks = [0, 0]
    for _ in range(steps):
        topics = [0 if random.random() < topic_share else 1 for _ in range(10)]
        offered = [(t, math.exp(random.gauss(quality[t], 0.1))) for t in topics]
        keys = {
            "random": lambda item: random.random(),
            "myopic": lambda item: -item[1],
            "oracle": lambda item: -(item[1] + mine[item[0]]),
        }
        slate = sorted(offered, key=keys[rule])[:2]
        weights = [math.exp(mine[t] + q) for t, q in slate]
        point = random.random() * (sum(weights) + math.exp(5))
        for (t, _), weight in zip(slate, weights, strict=True):
            if 0 <= point < weight:
                clicks[t] += 1
            point -= weight
    return {"clicks": sum(clicks), "topic 0": clicks[0]}


@each_variant
@pytest.mark.parametrize("rule", ["random", "myopic", "oracle"])
def test_sessions_have_the_figures_of_the_one_user_reference(variant: str, rule: str) -> None:
    """Clicks, and those on topic 0, of 4,000 users against 400 slow sessions of 20 steps: within 4.5 errors."""
    env = world(4000, seed=6, variant=variant, horizon=20)
    policy = env.rule(rule, seed=7)
    for _ in range(20):
        last = env.step(policy.act(env.observation))
    assert bool(last.truncated.all())
    clicked = (last.next_observation.user[:, 2:] * 20).double()
    random = PlainRandom(8)
    slow = [plain_session(variant, rule, random, 20) for _ in range(400)]
    for key, found in (("clicks", clicked.sum(1)), ("topic 0", clicked[:, 0])):
        expected = Mean.of(torch.tensor([session[key] for session in slow]).double())
        mean = Mean.of(found)
        error = math.hypot(mean.standard_error, expected.standard_error)
        assert abs(mean.mean - expected.mean) <= 4.5 * error + 1e-4, (key, mean, expected)


def assert_reference(variant: str, rule: str, users: int) -> None:
    env = world(users, seed=9, variant=variant)
    known = env.references.ceiling if rule == "oracle" else env.references.rules[rule]
    found = sw.evaluate(env.rule(rule, seed=10), env, users)
    error = math.hypot(found.standard_error, known.standard_error)
    assert abs(found.mean - known.mean) < 4 * error, (found, known)


TABLE = [(variant, rule) for variant in CONSTANTS for rule in ("random", "myopic", "oracle")]


@pytest.mark.parametrize(("variant", "rule"), TABLE)
def test_returns_are_those_measured(variant: str, rule: str) -> None:
    """Within 4 standard errors, 2,000 sessions."""
    assert_reference(variant, rule, 2000)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "rule"), TABLE)
def test_returns_are_those_measured_with_as_many_sessions(variant: str, rule: str) -> None:
    """Within 4 standard errors, 20,000 sessions."""
    assert_reference(variant, rule, 20_000)


@pytest.mark.parametrize(
    ("rule", "of_type_0", "of_type_1"),
    [
        ("random", (26.52, 0.07), (21.28, 0.04)),
        ("myopic", (29.28, 0.06), (42.77, 0.05)),
        ("oracle", (31.18, 0.07), (42.77, 0.05)),
    ],
)
def test_types_earn_what_was_measured(
    rule: str, of_type_0: tuple[float, float], of_type_1: tuple[float, float]
) -> None:
    """Within 4 standard errors. Types are told apart by their affinities: log-means 0.6 apart, deviations 0.1."""
    env = world(3000, seed=3)
    affinity = env.state["affinity"].clone()
    returns = torch.tensor(sw.evaluate(env.rule(rule, seed=4), env, 3000).returns).double()
    kind = (affinity[:, 0] > affinity[:, 1]).long()
    for k, (mean, error) in enumerate((of_type_0, of_type_1)):
        found = Mean.of(returns[kind == k])
        assert abs(found.mean - mean) < 4 * math.hypot(found.standard_error, error)


def test_the_table_is_what_was_measured() -> None:
    measured = {
        "recsim": ((22.86, 0.04), (38.71, 0.06), (39.28, 0.06)),
        "split": ((41.00, 0.05), (42.33, 0.16), (61.64, 0.07)),
    }
    for variant, figures in measured.items():
        known = REFERENCES[variant]
        found = [known.rules["random"], known.rules["myopic"], known.ceiling]
        assert tuple((r.mean, r.standard_error) for r in found) == figures
        assert known.ceiling.kind == "exact"


@pytest.mark.parametrize("settings", [{"horizon": 99}, {"candidates": 9}, {"slate_size": 1}, {"resample": "session"}])
def test_other_settings_have_no_references(settings: dict[str, object]) -> None:
    assert world(1, **settings).references is None


@each_variant
def test_users_and_candidates_have_the_constants(variant: str) -> None:
    """Shares, means and deviations of logs, within 4.5 standard errors."""
    users = 20_000
    env = world(users, seed=2, variant=variant)
    topic_share, type_share, quality, affinity = CONSTANTS[variant]
    logs = env.state["affinity"].double().log()
    kind = (logs[:, 0] > logs[:, 1]).long()
    near(1 - kind.double(), type_share, math.sqrt(type_share * (1 - type_share)))
    topic = env.candidates["topic"].flatten()
    near(1 - topic.double(), topic_share, math.sqrt(topic_share * (1 - topic_share)))
    for j in range(2):
        near(env.candidates["quality"].flatten()[topic == j].double().log(), quality[j], 0.1)
        for k in range(2):
            near(logs[kind == k, j], affinity[k][j], 0.1)
            near((logs[kind == k, j] - affinity[k][j]).square(), 0.01, 0.01 * math.sqrt(2))


def near(values: torch.Tensor, mean: float, deviation: float) -> None:
    assert abs(float(values.mean()) - mean) < 4.5 * deviation / math.sqrt(len(values))


def test_chances_by_hand() -> None:
    env = world(1, candidates=3)
    env.state["affinity"] = torch.tensor([[1.0, 2.0]])
    env.candidates = {"topic": torch.tensor([[0, 1, 1]]), "quality": torch.tensor([[2.0, 2.5, 9.0]])}
    weights = [math.exp(3.0), math.exp(4.5), math.exp(5.0)]
    chances = env.choice_probabilities(torch.tensor([[0, 1]]))
    assert chances[0].tolist() == pytest.approx([w / sum(weights) for w in weights])
    assert float(env.expected_reward(torch.tensor([[0, 1]]))) == pytest.approx(1 - weights[2] / sum(weights))


def test_the_session_is_counted() -> None:
    """Shows and clicks by topic, over the horizon, against a count of the records."""
    env = world(50, horizon=8, slate_size=3)
    policy, counts = env.rule("random", seed=1), torch.zeros(50, 4)
    for step in range(8):
        assert torch.equal(env.observation.user, counts / 8)
        i = env.step(policy.act(env.observation))
        topic = i.observation.item_ids.gather(1, i.decision.slate)
        for j in range(2):
            counts[:, j] += (topic == j).sum(1)
            counts[:, 2 + j] += ((topic == j) & i.response.clicked).sum(1)
        assert torch.equal(i.next_observation.user, counts / 8)
        assert bool(i.truncated.all()) == (step == 7)
        assert not bool(i.terminated.any())
    assert float(env.observation.user.abs().sum()) == 0


def test_the_oracle_shows_what_this_user_likes_best_and_knows_nobody_else() -> None:
    env = world(200, seed=5, variant="split", candidates=5)
    every = [env.expected_reward(torch.tensor([[i, j]]).expand(200, 2)) for i in range(5) for j in range(5) if i != j]
    best = torch.stack(every).amax(0)
    torch.testing.assert_close(env.expected_reward(env.rule("oracle").act(env.observation).slate), best)
    other = world(200, seed=6, variant="split", candidates=5)
    with pytest.raises(sw.InputError, match="oracle reads what users hide"):
        env.rule("oracle").act(other.observation)
    some = torch.tensor([7, 7, 0, 199])
    few = env.rule("oracle").act(env.observation[some]).slate
    assert torch.equal(few, env.rule("oracle").act(env.observation).slate[some])
    with pytest.raises(sw.InputError, match="oracle reads what users hide"):
        env.rule("oracle").act(other.observation[some])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(sw.InputError, match="variant='splt'"):
        world(1, variant="splt")
    with pytest.raises(sw.InputError, match=r"env\.choice is None"):
        sw.SlateQ(world(1).spec, choice=world(1).choice)
