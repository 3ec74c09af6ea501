import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slatewise.interactions import Decision, Interactions, Observation, Response
from slatewise.returns import MOST_STEPS, STEP_MEMORY, Mean, SessionReturns, StepValues, lambda_returns


def one_user(reward, next_value, terminated, truncated, discount: float, trace: list[float]) -> list[float]:
    """Return λ-returns by their definition: the λ-weighted sum over n of n-step returns, each summed forwards."""
    length = len(reward)
    results = []
    for start in range(length):
        total, weight, discounted, scale = 0.0, 1.0, 0.0, 1.0
        for t in range(start, length):
            discounted += scale * reward[t]
            scale *= discount
            if terminated[t]:
                total += weight * discounted
                break
            bootstrapped = discounted + scale * next_value[t]
            if truncated[t] or t == length - 1:
                total += weight * bootstrapped
                break
            total += weight * (1 - trace[t]) * bootstrapped
            weight *= trace[t]
        results.append(total)
    return results


def sessions(seed: int, length: int = 12, users: int = 5):
    generator = torch.Generator().manual_seed(seed)
    reward, value = (torch.randn(length, users, generator=generator).double() for _ in range(2))
    draw = torch.rand(length, users, generator=generator)
    return reward, value, draw < 0.15, (draw >= 0.15) & (draw < 0.3)


@given(seed=st.integers(0, 10_000), discount=st.sampled_from([0.0, 0.9, 1.0]), trace=st.sampled_from([0.0, 0.4, 1.0]))
def test_lambda_returns_are_weighted_n_step_returns(seed: int, discount: float, trace: float) -> None:
    reward, value, terminated, truncated = sessions(seed)
    found = lambda_returns(reward, value, terminated, truncated, discount, trace)
    for user in range(reward.shape[1]):
        columns = [x[:, user].tolist() for x in (reward, value, terminated, truncated)]
        expected = one_user(*columns, discount, [trace] * len(reward))
        assert found[:, user].tolist() == pytest.approx(expected, abs=1e-9)


def test_every_step_may_have_a_trace_of_its_own() -> None:
    reward, value, terminated, truncated = sessions(3)
    trace = torch.rand(reward.shape, generator=torch.Generator().manual_seed(4)).double()
    found = lambda_returns(reward, value, terminated, truncated, 0.95, trace)
    for user in range(reward.shape[1]):
        columns = [x[:, user].tolist() for x in (reward, value, terminated, truncated)]
        assert found[:, user].tolist() == pytest.approx(one_user(*columns, 0.95, trace[:, user].tolist()), abs=1e-9)


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        # Rewards 1, 2, 4, values after them 10, 20, 30, γ = 0.5; step 1 ends as the column says.
        (0.0, {"goes on": [6, 12, 19], "terminated": [6, 2, 19], "truncated": [6, 12, 19]}),
        (1.0, {"goes on": [6.75, 11.5, 19], "terminated": [2, 2, 19], "truncated": [7, 12, 19]}),
    ],
    ids=["λ=0", "λ=1"],
)
def test_lambda_returns_worked_out_by_hand(trace: float, expected: dict[str, list[float]]) -> None:
    reward = torch.tensor([[1.0], [2.0], [4.0]]).expand(3, 3)
    value = torch.tensor([[10.0], [20.0], [30.0]]).expand(3, 3)
    ends = torch.zeros(2, 3, 3, dtype=torch.bool)
    ends[0, 1, 1] = ends[1, 1, 2] = True
    found = lambda_returns(reward, value, ends[0], ends[1], 0.5, trace)
    assert dict(zip(expected, found.T.tolist(), strict=True)) == expected


def test_a_mean_has_the_standard_error_of_independent_values() -> None:
    mean = Mean.of(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert (mean.mean, mean.count) == (3.0, 4)
    assert mean.standard_error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    assert math.isnan(Mean.of(torch.tensor([1.0])).standard_error)
    assert math.isnan(Mean.of(torch.tensor([])).mean)


def vector_step(reward: list[float], done: list[bool]) -> Interactions:
    users = len(reward)
    ids = torch.zeros(users, 1, dtype=torch.int64)
    slots = torch.zeros(users, 1, dtype=torch.bool)
    known = torch.ones(users, dtype=torch.bool)
    earned = torch.tensor(reward).double()
    # Half of the reward belongs to the slot, half to the decision.
    response = Response(slots, torch.zeros(users, 1, 0), earned.unsqueeze(1) / 2, earned / 2, known)
    seen = Observation(torch.zeros(users, 1), ids, torch.zeros(users, 1, 0))
    decision = Decision(ids, torch.ones(users, 1).double())
    end = torch.tensor(done)
    even = torch.arange(users) % 2 == 0
    return Interactions(seen, decision, response, None, end & even, end & ~even, ids[:, 0], ids[:, 0])


def test_averages_take_as_many_sessions_of_every_user() -> None:
    """User 0 has sessions of length 1, user 1 of length 4; every step earns 1.

    Averaging whatever has ended after 8 steps gives (8 · 1 + 2 · 4) / 10 = 1.6; the mean session is 2.5.
    """
    returns = SessionReturns(2)
    ended = [returns.add(vector_step([1.0, 1.0], [True, t % 4 == 3])).tolist() for t in range(8)]
    assert ended[2:5] == [[1.0], [1.0, 4.0], [1.0]]
    assert returns.finished.tolist() == [8, 2]
    assert returns.complete() == 2
    values, lengths = returns.first(2)
    assert sorted(values.tolist()) == [1, 1, 4, 4]
    assert sorted(lengths.tolist()) == [1, 1, 4, 4]
    assert Mean.of(values).mean == 2.5


def test_an_unfinished_session_does_not_count() -> None:
    returns = SessionReturns(2)
    returns.add(vector_step([5.0, 7.0], [True, False]))
    assert returns.complete() == 0
    assert returns.first(0)[0].tolist() == []
    returns.add(vector_step([5.0, 1.0], [False, True]))
    assert returns.complete() == 1
    assert returns.first(1)[0].tolist() == [5.0, 8.0]
    assert returns.first(1)[1].tolist() == [1, 2]


def test_step_values_are_means_by_step() -> None:
    values = StepValues()
    values.learn(torch.tensor([0, 2, 2, 0, 0]), torch.tensor([6.0, 1.0, 3.0, 9.0, 6.0], dtype=torch.float64))
    assert values.at(torch.tensor([0, 2, 7])).tolist() == pytest.approx([7, 2, 2])
    values.learn(torch.tensor([3, 0]), torch.tensor([5.0, 3.0], dtype=torch.float64))
    assert values.at(torch.tensor([0, 2, 3, 7])).tolist() == pytest.approx([6, 2, 5, 5])


def test_step_values_forget_all_but_the_newest_returns() -> None:
    values = StepValues()
    step = torch.zeros(64, dtype=torch.int64)
    values.learn(step, torch.full((64,), 100.0, dtype=torch.float64))
    values.learn(step, torch.full((64,), 4.0, dtype=torch.float64))
    known = (STEP_MEMORY * 100 + 64 * 4) / (STEP_MEMORY + 64)
    assert float(values.at(torch.tensor([0]))) == pytest.approx(known)


def test_step_values_stay_small_whatever_the_step() -> None:
    values = StepValues()
    values.learn(torch.tensor([0, 10**12, MOST_STEPS - 1]), torch.tensor([1.0, 2.0, 4.0]).double())
    assert values.table.shape == (2, MOST_STEPS)
    assert values.at(torch.tensor([0, 10**15, MOST_STEPS])).tolist() == [1, 3, 3]
