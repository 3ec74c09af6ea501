"""The example with Stable-Baselines3 runs, and its adapter loses nothing. Needs the extra `examples`."""

import importlib
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from slatewise.gym import SlateVectorEnv, arrays

pytest.importorskip("stable_baselines3", reason="needs Stable-Baselines3: pip install 'slatewise[examples]'")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1]), *sys.path])
    return importlib.import_module("examples.ppo")


@pytest.mark.slow
def test_the_example_makes_its_table(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = example.main(steps=1, episodes=20, seed=0)
    assert [row["policy"] for row in rows] == [
        "random", "quality (best rule)", "ppo", "slateq", "ceiling (planner)",
    ]  # fmt: skip
    assert all(row["mean"] > 100 for row in rows)
    assert rows[2]["training CPU seconds"] > 0
    assert "mean return in interest-evolution-v1, 20 sessions" in capsys.readouterr().out


def test_the_adapter_tells_what_the_environment_does(example: Any) -> None:
    settings: dict[str, Any] = {"actions": "discrete", "horizon": 3}
    adapter = example.Users(SlateVectorEnv("interest-evolution", 6, **settings))
    twin = SlateVectorEnv("interest-evolution", 6, **settings)
    adapter.seed(4)
    twin.reset(seed=4)
    assert np.array_equal(adapter.reset(), example.flat(arrays(twin.world.observation)))
    for step, action in enumerate(np.random.default_rng(0).integers(0, 90, (6, 6)), 1):
        observed, reward, done, infos = adapter.step(action)
        expected = twin.step(action)
        assert np.array_equal(observed, example.flat(expected[0]))
        assert np.array_equal(reward, expected[1])
        assert done.all() == (step % 3 == 0)
        if done.all():
            assert all(info["TimeLimit.truncated"] for info in infos)
            last = np.stack([final["user"] for final in expected[4]["final_obs"]])
            assert np.array_equal(np.stack([info["terminal_observation"] for info in infos])[:, : last.shape[1]], last)


def test_stable_baselines_checks_one_user() -> None:
    from stable_baselines3.common.env_checker import check_env

    check_env(gymnasium.make("slatewise/InterestEvolution-v1", actions="discrete").unwrapped, warn=False)
