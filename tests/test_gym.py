"""Gymnasium's interface: its own checker, the world underneath to the bit, and Gymnasium's own vector environment."""

import itertools
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

import slatewise as sw
from slatewise.environments import WORLDS
from slatewise.gym import SlateEnv, SlateVectorEnv, gym_id, without_repeats

EVOLUTION = "slatewise/InterestEvolution-v1"
SHORT: dict[str, Any] = {"horizon": 5, "resample": "session", "history": 2}


def equal(first: Any, second: Any) -> bool:
    return data_equivalence(first, second, exact=True)


def vector(num_envs: int, **settings: Any) -> SlateVectorEnv:
    env = gymnasium.make_vec(EVOLUTION, num_envs, vectorization_mode="vector_entry_point", **settings)
    assert isinstance(env, SlateVectorEnv)
    return env


def actions(env: Any, steps: int, seed: int = 0) -> list[Any]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(steps)]


@pytest.mark.parametrize(
    "settings", [{}, {"actions": "discrete", "slate_size": 1}, {"resample": "session", "history": 3}], ids=str
)
@pytest.mark.parametrize("name", WORLDS)
def test_every_world_passes_gymnasiums_checker(name: str, settings: dict[str, Any]) -> None:
    assert gym_id(name) in gymnasium.registry
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(gymnasium.make(gym_id(name), **settings).unwrapped)
    unwelcome = [w for w in caught if "infinity" not in str(w.message)]  # features have no bounds
    assert not unwelcome, [str(w.message) for w in unwelcome]


def test_an_id_names_the_module_that_registers_it() -> None:
    assert gymnasium.make("slatewise.gym:slatewise/LongTermSatisfaction-v1").unwrapped.world.settings.horizon == 60


def test_one_user_is_the_world_underneath_to_the_bit() -> None:
    env, world = gymnasium.make(EVOLUTION, **SHORT), sw.make("interest-evolution", 1, **SHORT)
    observed, _ = env.reset(seed=7)
    expected = world.reset(7)
    ended = 0
    for action in actions(env, 40):
        assert equal(observed["user"], expected.user[0].numpy())
        assert equal(observed["items"], expected.dense().items[0].numpy())
        observed, reward, terminated, truncated, info = env.step(action)
        result = world.step(torch.from_numpy(info["slate"])[None])
        assert equal(observed["user"], result.next_observation.user[0].numpy())
        assert equal(observed["history"], result.next_observation.history[0].numpy())
        assert (reward, terminated, truncated) == (
            float(result.response.total_reward), bool(result.terminated), bool(result.truncated),
        )  # fmt: skip
        assert equal(info["signals"]["watch"], result.response.signals[0, :, 0].numpy())
        assert equal(info["clicked"], result.response.clicked[0].numpy())
        assert (int(info["session"]), int(info["step"])) == (int(result.episode), int(result.step))
        expected = world.observation
        if terminated or truncated:
            observed, _ = env.reset()  # the session that the world began, not the one after it
            ended += 1
    assert ended == 8


def test_reset_in_the_middle_goes_to_the_next_session() -> None:
    env, world = SlateEnv("interest-evolution"), sw.make("interest-evolution", 1)
    env.reset(seed=3)
    env.step(np.array([0, 1]))
    world.reset(3)
    world.step(torch.tensor([[0, 1]]))
    assert equal(env.reset()[0]["user"], world.reset().user[0].numpy())


def test_without_a_seed_every_environment_is_another() -> None:
    first, second = (SlateEnv("interest-evolution").reset()[0]["user"] for _ in range(2))
    assert not equal(first, second)


@pytest.mark.parametrize("kind", ["slate", "discrete"])
def test_vector_agrees_with_gymnasiums_own(kind: str) -> None:
    ours = vector(1, actions=kind, **SHORT)
    options = {"autoreset_mode": AutoresetMode.SAME_STEP}
    theirs = gymnasium.make_vec(EVOLUTION, 1, "sync", vector_kwargs=options, actions=kind, **SHORT)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert equal(ours.reset(seed=5)[0], theirs.reset(seed=5)[0])
    ended = 0
    for action in actions(ours, 23):
        mine, other = ours.step(action), theirs.step(action)
        assert equal(mine[:4], other[:4])
        if "final_obs" in other[4]:
            ended += 1
            assert equal(mine[4]["final_obs"], other[4]["final_obs"])
            assert equal(mine[4]["_final_obs"], other[4]["_final_obs"])
            assert equal(mine[4]["final_info"], other[4]["final_info"])
        else:
            assert equal(mine[4], other[4])
    assert ended == 4


def test_same_step_is_declared_and_keeps_the_last_observation() -> None:
    env, world = vector(30, **SHORT), sw.make("interest-evolution", 30, **SHORT)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observed, _ = env.reset(seed=2)
    world.reset(2)
    for step, action in enumerate(actions(env, 10), 1):
        observed, reward, _, truncated, info = env.step(action)
        assert observed in env.observation_space
        result = world.step(torch.from_numpy(info["slate"]))
        assert equal(reward, result.response.total_reward.numpy())
        assert equal(observed["user"], world.observation.user.numpy())
        assert truncated.all() == (step % 5 == 0)
        if truncated.any():
            last = np.stack([final["user"] for final in info["final_obs"]])
            assert equal(last, result.next_observation.user.numpy())
            assert not equal(last, observed["user"])


def first_observations(mode: str, steps: int) -> dict[tuple[int, int], dict[str, Any]]:
    """Return the first observation of every (user, session), and check what the mode promises on the way."""
    env = vector(4, autoreset_mode=mode, horizon=3, resample="session")
    observed, _ = env.reset(seed=9)
    firsts = {(user, 0): {key: value[user] for key, value in observed.items()} for user in range(4)}
    session, ended = [0] * 4, np.zeros(4, dtype=bool)
    for action in actions(env, steps):
        before = ended
        observed, reward, terminated, truncated, info = env.step(action)
        ended = terminated | truncated
        if mode == "NextStep":
            assert not any(part[before].any() for part in (reward, ended, info["_clicked"]))
            assert (info["step"][~before] < 3).all()
        for user in (before if mode == "NextStep" else ended).nonzero()[0]:
            session[user] += 1
            firsts[int(user), session[user]] = {key: value[user] for key, value in observed.items()}
    return firsts


def test_next_step_begins_the_same_sessions_one_step_later() -> None:
    same, later = first_observations("SameStep", 12), first_observations("NextStep", 16)
    assert same.keys() == later.keys()
    assert len(same) == 20
    assert all(equal(same[key], later[key]) for key in same)


def test_next_step_leaves_the_waiting_user_alone() -> None:
    env = vector(2, autoreset_mode=AutoresetMode.NEXT_STEP, horizon=2)
    env.reset(seed=1)
    for _ in range(2):
        env.step(np.array([[0, 1], [0, 1]]))
    budget = env.world.hidden()["budget"].clone()
    observed = env.step(np.array([[0, 1], [0, 1]]))[0]
    assert torch.equal(env.world.hidden()["budget"], budget)
    assert env.world.elapsed.tolist() == [0, 0]
    assert (observed["user"][:, 20:] == 0).all()  # running totals of a session that has not begun


def test_what_is_returned_belongs_to_the_caller() -> None:
    rewards: list[list[float]] = []
    for spoil in (False, True):
        env = vector(5, **SHORT)
        observed, _ = env.reset(seed=4)
        rewards.append([])
        for action in actions(env, 12):
            if spoil:
                for value in observed.values():
                    value[:] = 1
            observed, reward, _, _, info = env.step(action)
            if spoil:
                info["slate"][:] = 0
                info["signals"]["quality"][:] = 0
            rewards[-1] += reward.tolist()
    assert rewards[0] == rewards[1]


def test_gymnasiums_wrappers_read_it() -> None:
    counting, listing = RecordEpisodeStatistics(vector(20, horizon=6)), DictInfoToList(vector(20, horizon=6))
    counting.reset(seed=0)
    listing.reset(seed=0)
    total = np.zeros(20)
    for action in actions(counting, 6):
        total += counting.step(action)[1]
        infos = listing.step(action)[4]
    assert infos[3]["final_obs"]["user"].shape == (23,)
    assert infos[3]["signals"]["watch"].shape == (2,)
    assert equal(infos[3]["final_info"]["clicked"], infos[3]["clicked"])
    assert np.allclose(sorted(counting.return_queue), sorted(total))


def test_numbers_of_slates_are_all_slates_in_order() -> None:
    env = SlateEnv("interest-evolution", actions="discrete", candidates=5, slate_size=3)
    assert env.action_space.n == 60
    env.reset(seed=0)
    shown = [tuple(env.step(np.int64(number))[4]["slate"].tolist()) for number in range(60)]
    assert shown == list(itertools.permutations(range(5), 3))


def test_repeats_are_replaced_by_the_next_that_is_left() -> None:
    slates = torch.tensor(list(itertools.product(range(5), repeat=3)))
    mask = torch.rand(len(slates), 5, generator=torch.Generator().manual_seed(0)) < 0.8
    mask[:, :3] = True
    for row, fixed in zip(range(len(slates)), without_repeats(slates, mask).tolist(), strict=True):
        expected: list[int] = []
        for wanted in slates[row].tolist():
            around = ((wanted + ahead) % 5 for ahead in range(5))
            expected.append(next(item for item in around if mask[row, item] and item not in expected))
        assert fixed == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"actions": "ranks"}, "say 'slate'"),
        ({"actions": "discrete", "candidates": 100, "slate_size": 5}, "9,034,502,400 ordered slates"),
        ({"autoreset_mode": "Disabled"}, "say SameStep or NextStep"),
        ({"candidate": 3}, "did you mean 'candidates'"),
    ],
    ids=str,
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(sw.InputError, match=words):
        SlateVectorEnv("interest-evolution", 2, **settings)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.array([[0, 1], [3, 10]]), r"actions\[1, 1\] is 10: allowed are 0 to 9"),
        (np.array([[0, -1], [3, 4]]), r"actions\[0, 1\] is -1"),
        (np.array([[0.0, 1.0], [3.0, 4.0]]), "takes whole numbers"),
        (np.array([0, 1]), r"takes whole numbers \[2, 2\]"),
    ],
    ids=str,
)
def test_bad_actions_are_named_and_change_nothing(action: Any, words: str) -> None:
    env = SlateVectorEnv("interest-evolution", 2)
    env.reset(seed=0)
    before = env.world.snapshot()
    with pytest.raises(sw.InputError, match=words):
        env.step(action)
    assert all(torch.equal(value, before[key]) for key, value in env.world.snapshot().items())


def test_a_session_that_ended_needs_a_reset() -> None:
    env = SlateEnv("interest-evolution", horizon=1)
    with pytest.raises(ResetNeeded):
        env.step(np.array([0, 1]))
    env.reset(seed=0)
    assert env.step(np.array([0, 1]))[3]
    with pytest.raises(ResetNeeded):
        env.step(np.array([0, 1]))
