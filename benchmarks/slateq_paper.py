"""The SlateQ paper's table: its rows as published, where no click is worth nothing, and as they should be."""

import argparse
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from results import save, table

import slatewise as sw
from slatewise.allocation import keep_freed_memory

CLAIM = (
    "Rows of Ie et al. 2019 (arXiv 1905.12767, interest evolution, multinomial logit, slates of 3 from 10 candidates, "
    "budget hidden), each trained anew: `as published` with one-step targets and no value of no click "
    "(null_value=false, trace=0), `as it should be` with our defaults. Mean greedy return over seeds and its standard "
    "error over seeds, 2,000 sessions of new users each; the paper's own figure beside them. Names as in the paper: "
    "first how the next slate is made in training (T top-k, G greedy, O exact), then in serving. Random 159.4, best "
    "topics 267.3, planner 274.6 (a lower bound on the optimum). The last rows are the paper's robustness experiment: "
    "users choose by an exponential cascade, and the agent assumes logit; or knows."
)
USERS = 256


@dataclass(frozen=True)
class Row:
    """A row of the paper: how slates are made in training and serving, and its figure."""

    name: str
    settings: dict[str, Any]
    paper: float | None
    choice: str = "logit"  # the users'
    assumed: str = "logit"


ROWS = (
    Row("MYOP-GS", {"discount": 0.0, "target": "greedy", "serve": "greedy"}, 166.3),
    Row("SARSA-TS", {"target": "sarsa", "serve": "top-k"}, 168.4),
    Row("SARSA-GS", {"target": "sarsa", "serve": "greedy"}, 172.1),
    Row("QL-TT-TS", {"target": "top-k", "serve": "top-k"}, 168.4),
    Row("QL-GT-GS", {"target": "greedy", "serve": "greedy"}, 172.9),
    Row("QL-OT-GS", {"target": "exact", "serve": "greedy"}, 173.8),
    Row("QL-OT-OS", {"target": "exact", "serve": "exact"}, 174.6),
    Row("cascade, logit assumed", {}, 167.6, "exponential-cascade"),
    Row("cascade, known", {}, None, "exponential-cascade", "exponential-cascade"),
)
PUBLISHED = {"null_value": False, "trace": 0.0}


def world(choice: str, users: int, seed: int) -> sw.Environment:
    return sw.make("interest-evolution", users, seed, slate_size=3, choice=choice)


def trained(row: Row, recipe: dict[str, Any], steps: int, seed: int, episodes: int) -> float:
    env = world(row.choice, USERS, seed)
    agent = sw.SlateQ(env.spec, choice=world(row.assumed, 1, 0).choice, seed=seed, **(row.settings | recipe))
    sw.train(agent, env, steps, progress=False)
    return sw.evaluate(agent, world(row.choice, episodes, 1000 + seed), episodes).mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--episodes", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for row in ROWS:
        shown: dict[str, Any] = {"row": row.name, "paper": row.paper}
        for name, recipe in (("as published", PUBLISHED), ("as it should be", {})):
            seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
            means = [trained(row, recipe, arguments.steps, seed, arguments.episodes) for seed in seeds]
            error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else float("nan")
            shown |= {name: f"{statistics.mean(means):.1f} ± {error:.1f}"}
            shown |= {f"{name}, seeds": [round(mean, 1) for mean in means]}
        rows.append(shown | {"steps": arguments.steps})
        print("\n".join(table(rows[-1:])[-1:]), flush=True)
    save("slateq_paper", CLAIM, rows)


if __name__ == "__main__":
    main()
