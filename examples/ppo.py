"""Stable-Baselines3's PPO on flattened slates, beside SlateQ, random, the best rule and the ceiling.

pip install 'slatewise[examples]'
python examples/ppo.py --steps 2000000
"""
# ruff: noqa: D102, ARG002 - the methods of `Users` are those that Stable-Baselines3 asks for

import argparse
import sys
import time
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

import slatewise as sw
from slatewise.gym import SlateVectorEnv, action_space, arrays
from slatewise.output import print_table

try:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize
except ModuleNotFoundError:
    sys.exit("examples/ppo.py needs Stable-Baselines3, which is not installed: pip install 'slatewise[examples]'")

WORLD, USERS = "interest-evolution", 256
DISCOUNT = 0.99


class Users(VecEnv):
    """A slatewise vector environment as Stable-Baselines3 wants it: flat observations, numbered slates."""

    def __init__(self, env: SlateVectorEnv) -> None:
        self.env = env
        features = flat(env.reset()[0]).shape[1]
        super().__init__(env.num_envs, Box(-np.inf, np.inf, (features,)), env.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        return flat(self.env.reset(seed=self._seeds[0])[0])

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], list[dict[str, Any]]]:
        observed, reward, terminated, truncated, info = self.env.step(self.actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for user in (terminated | truncated).nonzero()[0]:
            last = flat({key: value[None] for key, value in info["final_obs"][user].items()})[0]
            infos[user] = {"terminal_observation": last, "TimeLimit.truncated": bool(truncated[user])}
        return flat(observed), reward, terminated | truncated, infos

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self.env, method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def flat(observed: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the user and the features of all candidates in one row, [B, U + C (E + D)]."""
    return np.concatenate([observed["user"], observed["items"].reshape(len(observed["items"]), -1)], 1)


def train_ppo(steps: int, seed: int) -> sw.Policy:
    users = SlateVectorEnv(WORLD, USERS, actions="discrete")
    env = VecNormalize(Users(users), norm_obs=False, gamma=DISCOUNT)
    model = PPO(
        "MlpPolicy", env, learning_rate=lambda left: 1e-3 * left, n_steps=64, batch_size=2048, n_epochs=4,
        gamma=DISCOUNT, seed=seed, device="cpu", policy_kwargs={"net_arch": [128, 128]},
    )  # fmt: skip
    model.learn(steps)
    _, slates = action_space(users.world.spec, "discrete")

    def greedy(observation: sw.Observation, _: int) -> torch.Tensor:
        return slates[model.predict(flat(arrays(observation)), deterministic=True)[0]]

    return sw.Rule("ppo", greedy, users.world.spec.slate_size)


def train_slateq(steps: int, seed: int) -> sw.Policy:
    env = sw.make(WORLD, USERS, seed)
    agent = sw.SlateQ(env.spec, env.choice, seed)
    sw.train(agent, env, steps, progress=False)
    return agent


def main(steps: int, episodes: int, seed: int) -> list[dict[str, Any]]:
    world = sw.make(WORLD, min(1000, episodes), seed=1000)
    best = world.references.best_rule()
    makers = {"random": lambda: world.rule("random"), f"{best} (best rule)": lambda: world.rule(best),
              "ppo": lambda: train_ppo(steps, seed), "slateq": lambda: train_slateq(steps, seed)}  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name, make in makers.items():
        started = time.process_time()
        policy, seconds = make(), time.process_time() - started
        result = sw.evaluate(policy, world, episodes)
        learned = {"steps": steps, "training CPU seconds": seconds} if name in ("ppo", "slateq") else {}
        rows.append({"policy": name, "mean": result.mean, "standard_error": result.standard_error,
                     "share": result.share, **learned})  # fmt: skip
    ceiling = world.references.ceiling
    rows.append({"policy": f"ceiling ({ceiling.kind})", "mean": ceiling.mean, "standard_error": ceiling.standard_error})
    print_table(f"mean return in {world.full_name}, {episodes:,} sessions", rows)
    return rows


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=2_000_000, help="user-steps of training, each")
    options.add_argument("--episodes", type=int, default=2000, help="sessions of evaluation")
    options.add_argument("--seed", type=int, default=0, help="of training")
    torch.set_num_threads(1)
    main(**vars(options.parse_args()))
