"""What `Environment` promises for every world."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from slatewise import environments, plain
from slatewise.environments import make
from slatewise.environments.base import Environment, Reference, References
from slatewise.errors import InputError
from slatewise.history import interaction_features, push
from slatewise.interactions import Decision, Interactions, Observation
from slatewise.policies import Random

WORLDS = {
    "lts": ("long-term-satisfaction", {"horizon": 7}),
    "lts, kept candidates, history": ("long-term-satisfaction", {"horizon": 7, "resample": "session", "history": 3}),
    "sweetness": ("long-term-satisfaction", {"variant": "sweetness"}),
    "evolution": ("interest-evolution", {"horizon": 9, "observe": "budget"}),
    "evolution, all options": (
        "interest-evolution",
        {"choice": "logit", "resample": "session", "history": 2, "observe": "budget,quality", "slate_size": 3},
    ),
    "evolution, bare": ("interest-evolution", {"summary": False}),
}
each_world = pytest.mark.parametrize("world", WORLDS)
USERS = 60


def build(world: str, users: int = USERS, seed: int = 0) -> Environment:
    name, settings = WORLDS[world]
    return make(name, users=users, seed=seed, **settings)


def walk(env: Environment, steps: int, seed: int = 5) -> Iterator[Interactions]:
    """Yield interactions as they happen, so that `env.observation` is the one right after each."""
    policy = Random(env.spec.slate_size, seed)
    for _ in range(steps):
        yield env.step(policy.act(env.observation))


def play(env: Environment, steps: int, seed: int = 5) -> list[Interactions]:
    return list(walk(env, steps, seed))


def tensors(record: object) -> dict[str, torch.Tensor]:
    """Return every tensor of a record by its path."""
    found: dict[str, torch.Tensor] = {}
    for name, value in vars(record).items():
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, Observation | Decision) or name == "response":
            found |= {f"{name}.{key}": inner for key, inner in tensors(value).items()}
    return found


def assert_same(one: object, other: object) -> None:
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        assert torch.equal(value, theirs[key]), key


def assert_same_future(one: Environment, other: Environment, steps: int = 12) -> None:
    assert_same(one.observation, other.observation)
    for mine, theirs in zip(play(one, steps), play(other, steps), strict=True):
        assert_same(mine, theirs)


@each_world
def test_a_seed_fixes_the_trajectory_whatever_else_draws(world: str) -> None:
    one, other = build(world), build(world)
    policy, twin = Random(one.spec.slate_size, 5), Random(one.spec.slate_size, 5)
    for step in range(12):
        torch.manual_seed(step)
        torch.rand(step)
        mine = one.step(policy.act(one.observation))
        assert_same(mine, other.step(twin.act(other.observation)))
    one.reset(0)
    assert_same_future(one, build(world))


@each_world
def test_the_global_generator_is_left_alone(world: str) -> None:
    before = torch.get_rng_state()
    play(build(world), 3)
    assert torch.equal(torch.get_rng_state(), before)


@each_world
def test_another_seed_is_another_world(world: str) -> None:
    one, other = build(world, seed=0), build(world, seed=1)
    shown = [torch.cat([e.observation.item_ids.unsqueeze(2), e.observation.items], 2) for e in (one, other)]
    assert not torch.equal(*shown)


def bad_slates(env: Environment) -> dict[str, tuple[torch.Tensor | Decision, str]]:
    good = Random(env.spec.slate_size).act(env.observation).slate
    k, count = env.spec.slate_size, env.spec.candidates
    out, below, hole = good.clone(), good.clone(), good.clone()
    out[7, 0], below[7, 0], hole[7, k - 1] = count, -2, -1
    bad = {
        "out of range": (out, rf"slate\[7, 0\] shows candidate {count}, .*\(0 to {count - 1}\)"),
        "below": (below, r"slate\[7, 0\] shows candidate -2"),
        "hole": (hole, rf"slate\[7, {k - 1}\] is a hole"),
        "too wide": (
            torch.arange(k + 1).expand(USERS, -1),
            f"slate shows {k + 1} items, .* slate_size is {k}",
        ),
        "too few rows": (good[:-1], rf"slate is int64 \[{USERS - 1}, {k}\]: expected int64 \[{USERS}, K\]"),
        "float": (good.float(), "slate is float32"),
        "flat": (good[:, 0], rf"slate is int64 \[{USERS}\]"),
        "propensity": (Decision(good, torch.ones(USERS).double()), r"propensity is \[60\], the slate is"),
    }
    if k > 1:
        repeated = good.clone()
        repeated[3, 1] = repeated[3, 0]
        bad["repeated"] = (repeated, r"slate\[3\] is .* repeated, show each at most once")
    return bad


@each_world
def test_a_bad_slate_raises_and_changes_nothing(world: str) -> None:
    env, untouched = build(world), build(world)
    for each in (env, untouched):
        play(each, 4)
    before = env.snapshot()
    for slate, message in bad_slates(env).values():
        with pytest.raises(InputError, match=message):
            env.step(slate)
    after = env.snapshot()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert_same_future(env, untouched)


@each_world
def test_bare_slates_are_taken_as_certain(world: str) -> None:
    env, other = build(world), build(world)
    slate = Random(env.spec.slate_size).act(env.observation).slate
    interactions = env.step(slate)
    assert_same(interactions, other.step(Decision(slate, torch.ones(slate.shape, dtype=torch.float64))))


@pytest.mark.parametrize("world", ["evolution", "evolution, all options"])
def test_finished_users_restart_alone_and_keep_their_last_observation(world: str) -> None:
    env = build(world)
    # Users at the brink of their budget end now, one in three.
    env.state["budget"][::3] = 1e-3
    policy = Random(env.spec.slate_size, 1)
    interactions = env.step(policy.act(env.observation))
    done, now, last = interactions.terminated, env.observation, interactions.next_observation
    assert 0 < int(done.sum()) <= USERS / 3
    assert not bool(done.view(-1, 3)[:, 1:].any())
    assert bool((last.user[done, -1] <= 0).all())
    assert bool((now.user[done, -1] == 1).all())
    assert bool((now.user[done, 20:23] == 0).all())
    assert bool((last.user[done, 20:23] != 0).any(1).all())
    assert not bool((now.user[done, :20] == last.user[done, :20]).any())
    assert env.elapsed.tolist() == (~done).long().tolist()
    assert_same(now[~done], last[~done])
    if now.history is not None:
        assert bool((now.history[done] == 0).all())
        assert bool((last.history[done, -1, -1] == 1).all())
    # The others go on as if nobody had restarted: their noise and candidates come in the same order.
    calm = build(world)
    policy = Random(env.spec.slate_size, 1)
    calm.step(policy.act(calm.observation))
    both = ~done
    both[::3] = False
    for mine, theirs in zip(play(env, 4), play(calm, 4), strict=True):
        assert_same(mine.observation[both], theirs.observation[both])
        assert_same(mine.response[both], theirs.response[both])
        both &= ~mine.done


def test_truncation_is_not_termination() -> None:
    env = make("interest-evolution", users=200, horizon=3, observe="budget")
    policy = Random(2)
    for _ in range(2):
        assert not bool(env.step(policy.act(env.observation)).done.any())
    env.state["budget"][:100] = 1e-3
    last = env.step(policy.act(env.observation))
    over = last.next_observation.user[:, -1] <= 0
    assert 0 < int(over.sum()) <= 100
    assert torch.equal(last.terminated, over)
    assert torch.equal(last.truncated, ~over)
    assert env.elapsed.tolist() == [0] * 200
    assert bool((env.observation.user[:, -1] == 1).all())


def test_the_budget_of_long_term_satisfaction_terminates() -> None:
    env = make("long-term-satisfaction", users=5, horizon=4)
    ends = [(bool(i.terminated.all()), bool(i.truncated.any())) for i in play(env, 8)]
    assert ends == [(False, False), (False, False), (False, False), (True, False)] * 2


@each_world
def test_a_snapshot_continues_to_the_bit(world: str) -> None:
    env = build(world)
    play(env, 5)
    snapshot = env.snapshot()
    copies = {key: value.clone() for key, value in snapshot.items()}
    elsewhere = build(world, seed=99)
    play(elsewhere, 3)
    elsewhere.restore(snapshot)
    assert_same_future(env, elsewhere)
    assert all(torch.equal(snapshot[key], copies[key]) for key in copies)
    env.restore(snapshot)
    elsewhere.restore(snapshot)
    assert_same_future(env, elsewhere)


def test_a_snapshot_of_another_world_is_refused() -> None:
    env = make("interest-evolution", users=4)
    with pytest.raises(InputError, match=r"snapshot does not fit .* same settings and users"):
        env.restore(make("interest-evolution", users=5).snapshot())
    with pytest.raises(InputError, match=r"snapshot does not fit this world \(history differs\)"):
        env.restore(make("interest-evolution", users=4, history=2).snapshot())


@each_world
def test_an_observation_stays_what_it_was(world: str) -> None:
    """RecSim hands out the state itself, which the next click changes in place."""
    env = build(world)
    seen = [env.observation]
    kept = [{key: value.clone() for key, value in tensors(env.observation).items()}]
    for interactions in walk(env, 12):
        for observation in (interactions.next_observation, env.observation):
            seen.append(observation)
            kept.append({key: value.clone() for key, value in tensors(observation).items()})
    for observation, copies in zip(seen, kept, strict=True):
        assert all(torch.equal(value, copies[key]) for key, value in tensors(observation).items())


@each_world
def test_writing_on_an_observation_does_not_change_the_users(world: str) -> None:
    env = build(world)
    play(env, 2)
    before = env.snapshot()
    env.observation.user.fill_(0.123)
    after = env.snapshot()
    assert all(torch.equal(before[key], after[key]) for key in before)


@each_world
def test_two_policies_meet_the_same_candidates_and_the_same_new_users(world: str) -> None:
    """Step noise is drawn in the same number and order whatever is shown and whoever ends."""
    one, other = build(world), build(world)
    rule = other.rule(next(iter(other.rules)))
    kept = WORLDS[world][1].get("resample") == "session"
    starts: list[dict[tuple[int, int], list[float]]] = [{}, {}]
    for step in range(40):
        if not kept:
            assert torch.equal(one.observation.item_ids, other.observation.item_ids), step
            assert torch.equal(one.observation.items, other.observation.items), step
        for env, first in zip((one, other), starts, strict=True):
            for row in (env.elapsed == 0).nonzero().squeeze(1).tolist():
                shown = env.observation
                session = int(env.snapshot()["session"][row])
                own = [*shown.user[row].tolist(), *(shown.item_ids[row].tolist() if kept else ())]
                first[row, session] = own
        one.step(Random(one.spec.slate_size, step).act(one.observation))
        other.step(rule.act(other.observation))
    shared = starts[0].keys() & starts[1].keys()
    assert len(shared) >= USERS
    assert all(starts[0][key] == starts[1][key] for key in shared)


@pytest.mark.parametrize("world", ["lts, kept candidates, history", "evolution, all options"])
def test_candidates_may_be_kept_for_a_session(world: str) -> None:
    env = build(world)
    ended = 0
    for interactions in walk(env, 120):
        before, after, now = interactions.observation, interactions.next_observation, env.observation
        assert torch.equal(before.items, after.items)
        assert torch.equal(before.item_ids, after.item_ids)
        done = interactions.done
        assert torch.equal(now.items[~done], before.items[~done])
        assert not bool((now.items[done] == before.items[done]).all(2).all(1).any())
        ended += int(done.sum())
    assert ended > USERS / 2


@pytest.mark.parametrize("world", ["lts", "evolution", "evolution, bare"])
def test_candidates_are_drawn_at_every_step_otherwise(world: str) -> None:
    for interactions in play(build(world), 5):
        before, after = interactions.observation, interactions.next_observation
        same = (before.item_ids == after.item_ids).all(1) & (before.items == after.items).all(2).all(1)
        assert not bool(same.any())


@pytest.mark.parametrize("world", ["lts, kept candidates, history", "evolution, all options"])
def test_the_history_is_the_last_interactions_of_the_session(world: str) -> None:
    env = build(world)
    size, width = env.settings.history, env.spec.history_features
    expected = torch.zeros(USERS, size, width)
    for _ in range(90):
        assert env.observation.history.shape == (USERS, size, width)
        assert torch.equal(env.observation.history, expected)
        interactions = env.step(Random(env.spec.slate_size, 0).act(env.observation))
        newest = interaction_features(interactions.observation, interactions.decision, interactions.response)
        expected = push(expected, newest)
        assert torch.equal(interactions.next_observation.history, expected)
        expected = torch.where(interactions.done.view(-1, 1, 1), 0.0, expected)


@each_world
def test_episodes_are_unique_and_their_steps_count_from_zero(world: str) -> None:
    env = build(world)
    rows = play(env, 25)
    env.reset()
    rows += play(env, 25)
    steps: dict[int, list[int]] = {}
    owner: dict[int, int] = {}
    for interactions in rows:
        pairs = zip(interactions.episode.tolist(), interactions.step.tolist(), strict=True)
        for user, (episode, step) in enumerate(pairs):
            assert owner.setdefault(episode, user) == user
            steps.setdefault(episode, []).append(step)
    assert all(taken == list(range(len(taken))) for taken in steps.values())
    ended = sum(int(interactions.done.sum()) for interactions in rows)
    going = int((~rows[24].done).sum()) + int((~rows[49].done).sum())
    assert len(steps) == ended + going


@each_world
def test_a_user_begins_alike_alone_and_among_many(world: str) -> None:
    many, few = build(world, users=50), build(world, users=2)
    assert torch.equal(few.observation.user, many.observation.user[:2])


FEW_WORLDS = WORLDS | {
    f"evolution, {choice}": (
        "interest-evolution",
        {"choice": choice, "candidates": 30, "slate_size": 10, "reward": "clicks", "observe": "budget"},
    )
    for choice in ("proportional", "exponential-cascade")
}


@pytest.mark.parametrize("world", FEW_WORLDS)
@pytest.mark.parametrize("users", [1, 8])
def test_few_users_are_stepped_as_many_are(world: str, users: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, over several sessions: once in plain numbers, once by tensors."""
    name, settings = FEW_WORLDS[world]
    runs: list[list[Interactions]] = []
    for few in (plain.FEW, 0):
        monkeypatch.setattr(plain, "FEW", few)
        runs.append(play(make(name, users=users, seed=2, **settings), 250))
    for one, other in zip(*runs, strict=True):
        assert_same(one, other)
        assert [value.dtype for value in tensors(one).values()] == [value.dtype for value in tensors(other).values()]
    assert sum(int(interactions.done.sum()) for interactions in runs[0]) >= users


@each_world
def test_few_users_meet_the_same_checks(world: str) -> None:
    """Every bad slate that many users are refused, one user is, in the same words; the other rows are left out."""
    env = build(world, users=1)
    for what, (slate, message) in bad_slates(build(world)).items():
        if not isinstance(slate, torch.Tensor) or what in ("too few rows", "too wide"):
            continue
        row = 3 if what == "repeated" else 7
        with pytest.raises(InputError, match=message.replace(f"[{row}", "[0").replace(f"[{USERS}", "[1")):
            env.step(slate[row : row + 1])


@each_world
def test_reset_begins_new_sessions_of_new_users(world: str) -> None:
    env = build(world)
    play(env, 3)
    env.reset()
    assert env.elapsed.tolist() == [0] * USERS
    if env.name == "interest-evolution":
        assert not torch.equal(env.observation.user, build(world).observation.user)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("interest-evolutoin", {}, "unknown environment 'interest-evolutoin': did you mean 'interest-evolution'"),
        ("interest-evolution-v9", {}, "unknown environment 'interest-evolution-v9': did you mean"),
        ("interest-evolution", {"slate": 2}, "unknown setting of .*'slate': did you mean 'slate_size'"),
        ("interest-evolution", {"observe": "quallity"}, "unknown observe key of .*'quallity': did you mean 'quality'"),
        ("interest-evolution", {"observe": "satisfaction"}, "unknown observe key of .*known are budget, quality"),
        ("long-term-satisfaction", {"observe": "quality"}, "unknown observe key .*known are budget, satisfaction"),
        ("long-term-satisfaction", {"variant": "slide"}, "variant='slide'"),
        ("long-term-satisfaction", {"candidates": 2, "slate_size": 3}, "slate_size=3 is more than candidates=2"),
        ("interest-evolution", {"candidates": 0}, "candidates=0"),
        ("interest-evolution", {"choice": "cascade"}, "choice='cascade'.*'logit', 'exponential-cascade'"),
        ("interest-evolution", {"users": 0}, "users=0: at least one"),
        ("interest-evolution", {"horizon": 0}, "horizon=0"),
    ],
)  # fmt: skip
def test_what_does_not_exist_or_fit_is_refused_with_a_remedy(name: str, settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(name, **settings)


def test_an_unknown_rule_is_answered_with_the_nearest() -> None:
    env = make("long-term-satisfaction", users=1)
    with pytest.raises(InputError, match=r"unknown rule of long-term-satisfaction 'sweet': did you mean 'sweetest'"):
        env.rule("sweet")


@pytest.mark.parametrize("name", ["interest-evolution", "long-term-satisfaction"])
@pytest.mark.parametrize("twice", ["budget,budget", "quality,quality", "satisfaction,satisfaction"])
def test_observing_a_thing_twice_is_refused_or_true_to_the_spec(name: str, twice: str) -> None:
    try:
        env = make(name, users=2, observe=twice)
    except InputError:
        return
    assert env.observation.user.shape[1] == len(env.spec.user)
    assert env.observation.items.shape[2] == len(env.spec.items)


def test_names_resolve_to_the_newest_version(monkeypatch: pytest.MonkeyPatch) -> None:
    known, names = dict(environments.WORLDS), environments.names()
    newest = known["interest-evolution-v1"]
    for version in (2, 10):
        known[f"interest-evolution-v{version}"] = f"nowhere{version}:Nothing"
    monkeypatch.setattr(environments, "WORLDS", known)
    assert environments.names() == names
    assert environments.world("interest-evolution-v1").__name__ == newest.split(":")[1]
    with pytest.raises(ModuleNotFoundError, match="nowhere10"):
        environments.world("interest-evolution")


@each_world
def test_rules_show_valid_slates_and_random_is_everywhere(world: str) -> None:
    env = build(world)
    for name in ["random", *env.rules]:
        decision = env.rule(name, seed=1).act(env.observation)
        decision.validate(env.observation)
        assert bool((decision.slate >= 0).all())


def test_a_share_is_measured_from_random_to_the_ceiling() -> None:
    scale = References({"random": Reference(10.0, 1.0), "good": Reference(20.0, 1.0)}, Reference(30.0, 1.0, "exact"))
    assert [scale.share(mean) for mean in (10.0, 20.0, 30.0, 35.0)] == [0.0, 0.5, 1.0, 1.25]
    assert scale.best_rule() == "good"


@each_world
def test_a_full_name_makes_the_same_world(world: str) -> None:
    env = build(world)
    assert re.fullmatch(r"[a-z-]+-v\d+", env.full_name)
    again = make(env.full_name, users=USERS, seed=0, **WORLDS[world][1])
    assert_same_future(env, again, steps=2)
    assert replace(env.spec) == again.spec
