"""A session that is told is the session that was played."""

import pytest
import torch

import slatewise as sw
from slatewise.sessions import Session, first_place, play
from tiny_worlds import Clock


def evolution(users: int = 3, **settings: object) -> sw.Environment:
    return sw.make("interest-evolution", users, seed=5, **settings)


def test_it_is_what_stepping_by_hand_gives() -> None:
    told = play(evolution().rule("quality"), evolution(), user=2)
    env, total = evolution(), 0.0
    policy = env.rule("quality")
    for step in told.steps:
        assert step.hidden == {"budget": float(env.hidden()["budget"][2])}
        topics = env.observation.item_ids[2].tolist()
        assert step.candidates == [f"topic_{topic}" for topic in topics]
        decision = policy.act(env.observation)
        assert step.chances == env.choice_probabilities(decision.slate)[2].tolist()
        result = env.step(decision)[2]
        assert step.slate == result.decision.slate[0].tolist()
        assert step.clicked == result.response.clicked[0].tolist()
        assert step.signals["quality"] == result.response.signals[0, :, 1].tolist()
        total += float(result.response.total_reward)
    assert bool(result.terminated)
    assert told.ended == "terminated"
    assert sum(told.reward) == total


def test_two_policies_meet_the_same_user() -> None:
    env = evolution(1)
    first, second = (play(env.rule(name), env, longest=20) for name in ("myopic", "quality"))
    assert first.steps[0].hidden == second.steps[0].hidden
    assert [step.candidates for step in first.steps] == [step.candidates for step in second.steps]
    assert first.reward != second.reward
    assert play(env.rule("myopic"), env, longest=20) == first


def test_the_telling_can_stop_first() -> None:
    env = evolution(1)
    short = play(env.rule("quality"), env, longest=4)
    assert (len(short), short.ended) == (4, None)
    assert short.steps == play(env.rule("quality"), env).steps[:4]
    cut = evolution(1, horizon=6)
    assert play(cut.rule("quality"), cut).ended == "truncated"


def test_what_was_taken() -> None:
    env = sw.make("long-term-satisfaction", 1)
    session: Session = play(env.rule("kalest"), env, longest=5)
    assert [step.taken for step in session.steps] == [0] * 5
    assert session.items["x"] == [min(step.items["x"]) for step in session.steps]
    assert session.signals["engagement"] == session.reward
    evolved = play(evolution(1).rule("random"), evolution(1))
    nothing = [not any(step.clicked) for step in evolved.steps]
    assert any(nothing)
    assert [quality is None for quality in evolved.signals["quality"]] == nothing


@pytest.mark.parametrize("name", ["supervised", "linucb", "slateq"])
def test_agents_say_why(name: str) -> None:
    env = evolution(1)
    agent = sw.make_agent(name, env.spec, env.choice, epsilon_start=0.5) if name != "linucb" else sw.LinUCB(env.spec)
    sw.train(agent, evolution(20), 2000, progress=False)
    for step in play(agent, env, longest=10).steps:
        assert all(len(values) == 10 for values in step.scores.values())
        if name != "slateq":  # a slate's value is more than the sum of its items'
            best = max(step.scores["expected"])
            assert step.scores["expected"][step.slate[0]] == best
        assert sum(step.first) == 1
        assert step.first[step.slate[0]] == 1
        assert sum(step.chances) == pytest.approx(1)


def test_the_chance_of_the_first_place() -> None:
    env = evolution(1)
    floor = env.rule("quality", explore_floor=0.3)
    greedy = int(floor.act(env.observation, explore=False).slate[0, 0])
    expected = torch.full((10,), 0.03, dtype=torch.float64)
    expected[greedy] += 0.7
    torch.testing.assert_close(first_place(floor, env.observation, 2, explore=True), expected)
    random = first_place(env.rule("random"), env.observation, 2, explore=True)
    torch.testing.assert_close(random, torch.full_like(random, 0.1))


def test_a_world_that_does_not_say_how_users_choose() -> None:
    env = Clock(1, candidates=2, slate_size=1)
    session = play(env.rule("random"), env)
    assert session.ended == "truncated"
    assert session.hidden == {}
    assert session.steps[0].chances is None
    assert session.steps[0].candidates == ["item 0", "item 1"]


def test_a_user_that_is_not_there() -> None:
    env = evolution(3)
    with pytest.raises(sw.InputError, match="user=3: this world has 3 users, 0 to 2"):
        play(env.rule("random"), env, user=3)
