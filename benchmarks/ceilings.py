"""The ceiling of long-term satisfaction: plan the optimum by dynamic programming, and play it in the simulator."""

import argparse
import math
import time

import torch
from results import save, table

import slatewise as sw
from slatewise.ceilings import optimum, plan
from slatewise.environments.long_term_satisfaction import REFERENCES

CLAIM = (
    "The optimum of long-term satisfaction by dynamic programming with the true model, exposure and time known: its "
    "own value, its mean return when played, and the ceiling that the world declares; z are differences from the "
    "ceiling in standard errors of the two together. |z| stays below 4."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for (variant, candidates), references in REFERENCES.items():
        users = min(5000, arguments.episodes)
        env = sw.make("long-term-satisfaction", users, arguments.seed, variant=variant, candidates=candidates)
        started = time.process_time()
        planned = plan(env)
        seconds = time.process_time() - started
        played = sw.evaluate(optimum(env, planned), env, arguments.episodes)
        ceiling = references.ceiling
        rows.append(
            {
                "variant": variant,
                "candidates": candidates,
                "value": planned.at_start(),
                "played": played.mean,
                "standard_error": played.standard_error,
                "ceiling": ceiling.mean,
                "z_value": round((planned.at_start() - ceiling.mean) / ceiling.standard_error, 1),
                "z_played": round(
                    (played.mean - ceiling.mean) / math.hypot(played.standard_error, ceiling.standard_error), 1
                ),
                "cpu_seconds_to_plan": round(seconds, 1),
            }
        )
    print("\n".join(table(rows)))
    save("ceilings", CLAIM, rows)


if __name__ == "__main__":
    main()
