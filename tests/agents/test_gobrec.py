"""LinUCB chooses as gobrec's does, at equal α, λ and order: as stored, and side by side where gobrec is installed.

`benchmarks/peer_bandits.py store` made `tests/data/gobrec.npz` with gobrec 1.0.8; its docstring tells how to install
that.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slatewise.agents import make_agent
from slatewise.errors import InputError
from slatewise.interactions import Decision, Interactions, Observation, Response, Spec

STORED = Path(__file__).parents[1] / "data" / "gobrec.npz"
SETTINGS = [(0.5, 1.0), (1.0, 4.0)]


def choices(x: Any, rewards: Any, batch: int, alpha: float, penalty: float) -> Any:
    """LinUCB's arms, [n]: no intercept, every arm in turn in the first batch, learned from batch by batch."""
    arms = rewards.shape[1]
    spec = Spec(tuple(f"x{i}" for i in range(x.shape[1])), (), (), (), arms, 1)
    agent = make_agent("linucb", spec, alpha=alpha, penalty=penalty, intercept=False)
    chosen = []
    for start in range(0, len(x), batch):
        users = torch.from_numpy(x[start : start + batch])
        seen = Observation(users, torch.arange(arms).expand(batch, -1), torch.zeros(batch, arms, 0))
        slate = torch.arange(batch).unsqueeze(1) % arms if start == 0 else agent.act(seen).slate
        reward = torch.from_numpy(rewards[start : start + batch].astype(float)).gather(1, slate)
        no, zeros = torch.zeros(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.int64)
        decision = Decision(slate, torch.ones(batch, 1, dtype=torch.float64))
        response = Response(reward > 0, torch.zeros(batch, 1, 0), reward, torch.zeros(batch).double(), ~no)
        agent.observe(Interactions(seen, decision, response, None, ~no, no, zeros, zeros))
        chosen.append(slate[:, 0])
    return torch.cat(chosen).numpy()


@pytest.mark.parametrize(("alpha", "penalty"), SETTINGS)
def test_the_stored_choices_are_ours(alpha: float, penalty: float) -> None:
    with np.load(STORED) as stored:
        theirs = stored[f"alpha {alpha:g} penalty {penalty:g}"]
        ours = choices(stored["x"], stored["rewards"], 20, alpha, penalty)
    assert len(np.unique(theirs)) == 10
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("batch", [20, 100])
def test_choices_beside_gobrec(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gobrec", reason="needs gobrec, to compare with")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from peer_bandits import gobrec_choices, problem

    x, _, rewards = problem(arms=10, rounds=10_000, features=20, seed=1)
    x = x.astype(np.float32)
    np.testing.assert_array_equal(choices(x, rewards, batch, 0.5, 1.0), gobrec_choices(x, rewards, batch, 0.5, 1.0))


def test_only_a_model_an_item_goes_without_an_intercept() -> None:
    spec = Spec(("x",), (), ("price",), (), 3, 1)
    for model in ("auto", "shared", "hybrid"):
        with pytest.raises(InputError, match="intercept=false is for model=disjoint"):
            make_agent("lints", spec, model=model, intercept=False)
    agent: Any = make_agent("lints", spec, model="disjoint", intercept=False)
    assert agent.model.names == ("x", "price")
