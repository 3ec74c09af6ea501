"""Who explores? Clicks a session in interest exploration, agents over seeds beside the rules and the oracle."""

import argparse
import time
from typing import Any

import torch
from results import save, table

import slatewise as sw
from slatewise.aggregates import aggregate
from slatewise.fitting import fit

CLAIM = (
    "Interest exploration: mean clicks in a session of 100 steps, over {seeds} seeds of training and evaluation, each "
    "{episodes:,} sessions; `mean` is their interquartile mean. Agents act greedily unless it says exploring. SlateQ "
    "has no choice model of users who hide what they like, so it gets a logit fitted to {fitted:,} random user-steps; "
    "its discount is 0.9."
)
WORLD = "interest-exploration"
FITTED = 100_000  # random user-steps that SlateQ's choice model is fitted to
STEPS = {"supervised": 300_000, "linucb": 200_000, "slateq": 500_000, "type-thompson": 500_000}
# Sessions are cut off and never end by themselves, so without a discount values would grow for ever.
SETTINGS: dict[str, dict[str, Any]] = {"slateq": {"discount": 0.9}}


def make(agent: str, env: sw.Environment, seed: int) -> sw.Agent:
    choice = None
    if agent == "slateq":
        random, rounds = env.rule("random", seed), -(-FITTED // env.users)
        choice = fit(
            "logit", sw.Interactions.cat([env.step(random.act(env.observation)) for _ in range(rounds)])
        ).choice
        env.reset(env.seed)
    return sw.make_agent(agent, env.spec, choice, seed, **SETTINGS.get(agent, {}))


def measure(variant: str, policy: str, seeds: int, episodes: int) -> list[dict[str, Any]]:
    """Return rows of one policy: greedy, and for the agent that samples its exploration too."""
    returns: dict[str, list[float]] = {}
    seconds = []
    for seed in range(seeds):
        fresh = sw.make(WORLD, users=min(2000, episodes), seed=1000 + seed, variant=variant)
        if policy not in STEPS:
            returns.setdefault(policy, []).append(sw.evaluate(fresh.rule(policy, seed), fresh, episodes).mean)
            continue
        env = sw.make(WORLD, users=256, seed=seed, variant=variant)
        started = time.process_time()
        agent = make(policy, env, seed)
        sw.train(agent, env, STEPS[policy], progress=False)
        seconds.append(time.process_time() - started)
        returns.setdefault(policy, []).append(sw.evaluate(agent, fresh, episodes).mean)
        if policy == "type-thompson":
            mean = sw.evaluate(agent, fresh, episodes, explore=True).mean
            returns.setdefault(f"{policy}, exploring", []).append(mean)
    references = fresh.references
    rows = []
    for name, values in returns.items():
        spread = aggregate(values)
        row = {
            "variant": variant,
            "policy": name,
            "mean": spread.interquartile_mean,
            "seeds": [round(v, 2) for v in values],
        }
        if references is not None:
            row["share"] = round(references.share(spread.interquartile_mean) or 0.0, 3)
        if seconds:
            row |= {"user-steps": STEPS[policy], "cpu_seconds": round(sum(seconds) / len(seconds), 1)}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for variant in ("split", "recsim"):
        for policy in ("random", "myopic", *STEPS, "oracle"):
            rows += measure(variant, policy, arguments.seeds, arguments.episodes)
            print("\n".join(table(rows[-1:])[-1:]), flush=True)
    save("exploration", CLAIM.format(seeds=arguments.seeds, episodes=arguments.episodes, fitted=FITTED), rows)


if __name__ == "__main__":
    main()
