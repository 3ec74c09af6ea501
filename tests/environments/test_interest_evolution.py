"""Interest evolution against its formulas, a slow one-user reference, and measured returns."""

import math
from random import Random as PlainRandom

import pytest
import torch
from reference_users import MEANS, best_interests, best_topics, evolution_session, uniform_policy

from slatewise.environments import make
from slatewise.environments.base import Environment
from slatewise.environments.interest_evolution import REFERENCES, topic_quality
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Observation, Policy
from slatewise.policies import Rule
from slatewise.returns import Mean, SessionReturns
from slatewise.slates import best_slate

NAME = "interest-evolution"
REFILL = 0.9 / 3.4
each_choice = pytest.mark.parametrize("choice", ["proportional", "logit"])


def put(env: Environment, interests: torch.Tensor, topics: torch.Tensor, budget: float = 200.0) -> None:
    """Give every user these interests [20], these candidates [C] and this budget."""
    env.state["interests"] = interests.expand(env.users, 20).clone()
    env.state["budget"] = torch.full((env.users,), budget)
    env.candidates["topic"] = topics.expand(env.users, len(topics)).clone()


def show_first(env: Environment) -> Interactions:
    return env.step(torch.arange(env.spec.slate_size).expand(env.users, -1))


@each_choice
@pytest.mark.parametrize("k", [2, 3])
def test_users_choose_by_the_formulas(choice: str, k: int) -> None:
    """Frequencies of every slot and of no click within 4.5 standard errors, 40,000 users."""
    users = 40_000
    env = make(NAME, users=users, seed=0, choice=choice, slate_size=k)
    interests, topics = torch.linspace(-1, 1, 20), torch.tensor([18, 2, 10, *range(7)])
    put(env, interests, topics)
    clicked = show_first(env).response.clicked
    u = interests[topics[:k]].tolist()
    weights = [math.exp(x) for x in u] + [math.e] if choice == "logit" else [x + 1 for x in u] + [2.0]
    assert int(clicked.sum(1).max()) == 1
    shares = [*clicked.double().mean(0).tolist(), float((~clicked.any(1)).double().mean())]
    for share, weight in zip(shares, weights, strict=True):
        p = weight / sum(weights)
        assert abs(share - p) < 4.5 * math.sqrt(p * (1 - p) / users)


@pytest.mark.parametrize("interest", [-0.9, -0.3, 0.0, 0.4, 0.95])
def test_a_click_moves_the_interest_in_its_topic(interest: float) -> None:
    """By (0.3 − 0.3·|u|)·(1 − u), up with probability (u + 1) / 2 (within 4.5 standard errors); no other."""
    users = 20_000
    env = make(NAME, users=users, seed=1, slate_size=1, observe="budget")
    interests = torch.linspace(-0.8, 0.8, 20)
    interests[6] = interest
    put(env, interests, torch.full((10,), 6))
    interactions = show_first(env)
    clicked = interactions.response.clicked[:, 0]
    after = interactions.next_observation.user[:, :20]
    assert 0.02 * users < int(clicked.sum()) < 0.9 * users
    others = torch.arange(20) != 6
    assert torch.equal(after[:, others], interests[others].expand(users, 19))
    assert torch.equal(after[~clicked], interests.expand_as(after[~clicked]))
    step = (0.3 - 0.3 * abs(interest)) * (1 - interest)
    up, down = min(1.0, interest + step), max(-1.0, interest - step)
    rose = after[clicked, 6] > interest
    expected = torch.where(rose, up, down).float()
    torch.testing.assert_close(after[clicked, 6], expected, rtol=0, atol=1e-6)
    p = (interest + 1) / 2
    assert abs(float(rose.double().mean()) - p) < 4.5 * math.sqrt(p * (1 - p) / int(clicked.sum()))


@pytest.mark.parametrize("budget", [200.0, 1.5])
def test_the_budget_pays_for_watching_and_is_refilled_by_quality(budget: float) -> None:
    env = make(NAME, users=5_000, seed=3, observe="budget", slate_size=2)
    put(env, torch.zeros(20), torch.tensor([19, 0, *range(8)]), budget)
    interactions = show_first(env)
    response, after = interactions.response, interactions.next_observation.user[:, -1].double() * 200
    watch, quality = response.signals[:, :, 0].double(), response.signals[:, :, 1].double()
    assert torch.equal(watch, response.clicked * min(budget, 4.0))
    assert torch.equal(response.reward, watch)
    none = ~response.clicked.any(1)
    assert 0 < int(none.sum()) < 5_000
    change = torch.where(none, -0.5, (watch * (REFILL * quality - 1)).sum(1))
    torch.testing.assert_close(after, budget + change, rtol=0, atol=1e-4)
    assert torch.equal(interactions.terminated, after <= 0)
    assert bool(interactions.terminated.any()) is (budget < 4)
    # A good item never empties the budget, it only shrinks it; a poor one does when it takes all that is left.
    assert not bool(interactions.terminated[response.clicked[:, 0]].any())
    if budget < 4:
        assert bool(interactions.terminated[response.clicked[:, 1]].all())


def test_the_reward_may_be_clicks() -> None:
    env = make(NAME, users=500, seed=4, reward="clicks")
    response = show_first(env).response
    assert torch.equal(response.reward, response.clicked.double())


@pytest.mark.parametrize("settings", [{}, {"observe": "quality"}, {"resample": "session"}], ids=str)
def test_quality_is_that_of_the_topic_for_every_item_shown(settings: dict[str, str]) -> None:
    """Means and deviation 0.1 within 4.5 standard errors; clicked or not; what was observed is what is shown."""
    env = make(NAME, users=20_000, seed=5, slate_size=3, **settings)
    before = env.observation
    response = show_first(env).response
    quality = response.signals[:, :, 1].double()
    deviation = quality - torch.tensor(MEANS).double()[before.item_ids[:, :3]]
    n = deviation.numel()
    assert abs(float(deviation.mean())) < 4.5 * 0.1 / math.sqrt(n)
    assert abs(float((deviation**2).mean()) - 0.01) < 4.5 * 0.01 * math.sqrt(2 / n)
    both = float((deviation[:, 0] * deviation[:, 1]).mean()) / 0.01
    assert abs(both) < 4.5 / math.sqrt(20_000)
    if "observe" in settings:
        assert torch.equal(before.items[:, :3, 0], response.signals[:, :, 1])


def test_what_sessions_begin_with() -> None:
    """Interests uniform on [−1, 1], topics uniform over 20, each within 4.5 standard errors."""
    users = 20_000
    env = make(NAME, users=users, seed=6, observe="budget")
    observation = env.observation
    interests = observation.user[:, :20].double()
    assert -1 <= float(interests.min()) < -0.999
    assert 0.999 < float(interests.max()) <= 1
    assert float(interests.mean(0).abs().max()) < 4.5 / math.sqrt(3 * users)
    assert abs(float((interests**2).mean()) - 1 / 3) < 4.5 * math.sqrt(4 / 45 / interests.numel())
    assert bool((observation.user[:, 20:] == torch.tensor([0.0, 0, 0, 1])).all())
    shares = observation.item_ids.flatten().bincount(minlength=20).double() / observation.item_ids.numel()
    assert len(shares) == 20
    assert float((shares - 0.05).abs().max()) < 4.5 * math.sqrt(0.05 * 0.95 / observation.item_ids.numel())
    assert torch.equal(observation.catalogue.features, torch.eye(20))
    assert observation.items.shape == (users, 10, 0)


def test_the_summary_adds_up_the_session() -> None:
    """Σ watch / 200, Σ watch·quality / 200 over clicks, 0.5·no-clicks / 200, starting anew with every session."""
    env = make(NAME, users=40, seed=7)
    assert env.spec.user[20:] == ("watched", "watched_quality", "no_clicks")
    expected, ended = torch.zeros(40, 3), 0
    policy = env.rule("random")
    for _ in range(150):
        torch.testing.assert_close(env.observation.user[:, 20:], expected, rtol=1e-4, atol=1e-5)
        interactions = env.step(policy.act(env.observation))
        for user in range(40):
            clicked = interactions.response.clicked[user]
            if bool(clicked.any()):
                watch, quality = interactions.response.signals[user][clicked][0].tolist()
                expected[user] += torch.tensor([watch / 200, watch * quality / 200, 0.0])
            else:
                expected[user, 2] += 0.5 / 200
        last = interactions.next_observation.user[:, 20:]
        torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
        expected[interactions.done] = 0
        ended += int(interactions.done.sum())
    assert ended > 20
    assert make(NAME, users=1, summary=False).observation.user.shape == (1, 20)


def test_rules_order_by_what_they_say() -> None:
    env = make(NAME, users=200, seed=8, slate_size=3)
    seen = env.observation
    interest = seen.user[:, :20].gather(1, seen.item_ids)
    quality = torch.tensor(MEANS)[seen.item_ids]
    for name, values in (("myopic", interest), ("quality", quality)):
        slate = env.rule(name).act(seen).slate
        shown = values.gather(1, slate).sort(1).values
        torch.testing.assert_close(shown, values.sort(1).values[:, -3:], rtol=0, atol=1e-6)


def planner(env: Environment, worth: float) -> Rule:
    """Return the ceiling's policy: best slate for watch + worth · change of budget, drift of interests ignored."""
    quality = torch.tensor(MEANS)

    def slate(seen: Observation, k: int) -> torch.Tensor:
        value = 4.0 + worth * 4.0 * (REFILL * quality[seen.item_ids] - 1)
        nothing = torch.full_like(value[:, 0], -0.5 * worth)
        return best_slate(env.choice, env.choice.scores(seen), value, nothing, seen.mask, k)[0]

    return Rule("planner", slate, env.spec.slate_size)


def test_the_planner_is_that_of_its_definition() -> None:
    env = make(NAME, users=300, seed=9)
    seen = env.observation
    assert torch.equal(env.rule("planner").act(seen).slate, planner(env, 1.48).act(seen).slate)


def session_figures(env: Environment, policy: Policy) -> dict[str, torch.Tensor]:
    """Return figures of every user's first session, by name."""
    users = env.users
    returns = SessionReturns(users)
    clicks, quality = torch.zeros(users).double(), torch.zeros(users).double()
    start, change = env.observation.user[:, :20], torch.zeros(users, 20)
    while returns.complete() < 1:
        first = returns.finished == 0
        interactions = env.step(policy.act(env.observation))
        returns.add(interactions)
        clicks += interactions.response.clicked.sum(1) * first
        quality += interactions.response.signals[:, :, 1].mean(1) * first
        now = interactions.next_observation.user[:, :20]
        change = torch.where(first.unsqueeze(1), now - start, change)
    values, lengths = returns.first(1)
    return {
        "return": values,
        "length": lengths.double(),
        "clicks": clicks,
        "quality": quality / lengths,
        "drift": change.double().sum(1),
        "squared drift": change.double().square().sum(1),
    }


def z_score(one: Mean, other_mean: float, other_error: float) -> float:
    return (one.mean - other_mean) / math.hypot(one.standard_error, other_error)


RULES = {"random": uniform_policy, "quality": best_topics, "myopic": best_interests}


@each_choice
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("rule", list(RULES))
def test_sessions_have_the_figures_of_the_one_user_reference(choice: str, k: int, rule: str) -> None:
    """Means of 2,000 users against 400 slow sessions, each of six figures within 4.5 standard errors."""
    env = make(NAME, users=2_000, seed=10, choice=choice, slate_size=k)
    found = session_figures(env, env.rule(rule, seed=11))
    random = PlainRandom(12)
    slow = [evolution_session(choice, RULES[rule], k, random) for _ in range(400)]
    for key, values in found.items():
        expected = Mean.of(torch.tensor([session[key] for session in slow]))
        z = z_score(Mean.of(values), expected.mean, expected.standard_error)
        assert abs(z) < 4.5, (key, z)


def assert_reference(choice: str, candidates: int, k: int, name: str, users: int) -> None:
    env = make(NAME, users=users, seed=13, choice=choice, candidates=candidates, slate_size=k)
    references = env.references
    reference = references.ceiling if name == "planner" else references.rules[name]
    policy = env.rule(name, seed=14)
    returns = SessionReturns(users)
    while returns.complete() < 1:
        returns.add(env.step(policy.act(env.observation)))
    mean = Mean.of(returns.first(1)[0])
    z = z_score(mean, reference.mean, reference.standard_error)
    assert abs(z) < 4, f"{mean} against {reference}: z = {z:.1f}"


@pytest.mark.parametrize("key", [("proportional", 10, 2), ("logit", 10, 3)], ids=str)
@pytest.mark.parametrize("rule", ["random", "myopic", "quality", "planner"])
def test_returns_are_those_measured(key: tuple[str, int, int], rule: str) -> None:
    """Within 4 standard errors, 2,000 sessions."""
    assert_reference(*key, rule, users=2_000)


TABLE = [
    (key, rule)
    for key, references in REFERENCES.items()
    for rule in (*references.rules, *(["planner"] if references.ceiling else []))
]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "rule"), TABLE, ids=str)
def test_returns_are_those_measured_with_more_sessions(key: tuple[str, int, int], rule: str) -> None:
    """Within 4 standard errors, 20,000 sessions, 4,000 of the long ones among more candidates."""
    assert_reference(*key, rule, users=20_000 if key[1] == 10 else 4_000)


def test_the_table_is_what_was_measured() -> None:
    """Typed again from the independent measurements: random, myopic, quality and planner, with standard errors."""
    measured = {
        ("proportional", 10, 2): ((154.13, 0.08), (166.06, 0.18), (280.5, 0.4), (295.0, 0.4)),
        ("logit", 10, 2): ((152.69, 0.08), (165.07, 0.19), (289.0, 0.3), (295.7, 0.3)),
        ("proportional", 10, 3): ((160.52, 0.08), (167.98, 0.16), (264.1, 0.3), (279.9, 0.3)),
        ("logit", 10, 3): ((159.40, 0.08), (167.07, 0.16), (267.3, 0.2), (274.6, 0.2)),
        ("proportional", 50, 2): ((154.1, 0.2), (189.6, 1.4), (412.9, 4.2), (496.6, 4.4)),
    }
    for (choice, candidates, k), figures in measured.items():
        references = make(NAME, users=1, choice=choice, candidates=candidates, slate_size=k).references
        found = [*(references.rules[rule] for rule in ("random", "myopic", "quality")), references.ceiling]
        assert tuple((r.mean, r.standard_error) for r in found) == figures
        assert references.ceiling.kind == "planner"


@pytest.mark.parametrize(
    "settings",
    [{"reward": "clicks"}, {"resample": "session"}, {"horizon": 50}, {"candidates": 7}, {"slate_size": 4}],
    ids=str,
)
def test_other_settings_have_no_references(settings: dict[str, object]) -> None:
    assert make(NAME, users=1, **settings).references is None


def test_documents_have_a_topic_and_a_quality_that_the_catalogue_shows() -> None:
    env = make("interest-evolution", users=50, seed=1, documents=300, candidates=100, slate_size=5)
    ids, shown = env.observation.item_ids, env.observation.features(torch.arange(100).expand(50, -1))
    assert all(len(set(row)) == 100 for row in ids.tolist())
    assert env.spec.catalogue[-1] == "quality"
    assert torch.equal(shown[:, :, :20].argmax(2), env.candidates["topic"])
    assert torch.equal(shown[:, :, 20], env.candidates["quality"])
    deviation = env.catalogue.features[:, 20] - topic_quality()[env.catalogue.features[:, :20].argmax(1)]
    assert abs(float(deviation.std()) - 0.1) < 4 * 0.1 / 600**0.5
    best = env.rule("quality").act(env.observation).slate
    assert torch.equal(shown[:, :, 20].gather(1, best), shown[:, :, 20].topk(5, 1).values)
    again = make("interest-evolution", users=2, seed=9, documents=300, candidates=300)
    assert again.catalogue.version == env.catalogue.version


def test_all_documents_cost_no_memory_and_respond_as_when_they_are_few() -> None:
    env = make("interest-evolution", users=20, seed=1, documents=300, candidates=300, slate_size=5)
    assert env.observation.item_ids.stride(0) == 0
    slate = torch.arange(295, 300).expand(20, -1)
    interactions = env.step(slate)
    assert torch.equal(interactions.response.signals[:, :, 1], env.catalogue.features[295:, 20].expand(20, -1))
    interactions.validate()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"documents": 50, "candidates": 100}, "only 50 documents"),
        ({"documents": 50, "observe": "quality"}, "leave it out of observe"),
    ],
)
def test_documents_that_do_not_fit_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make("interest-evolution", users=2, **settings)
