"""How many user-steps a CPU second does `slatewise simulate --policy random` take? One thread, 10,000 users."""

import statistics

import torch
from results import save, table

import slatewise as sw
from slatewise.evaluation import simulate

CLAIM = (
    "User-steps per CPU second through `simulate --policy random --users 10000`, policy, propensities, validation and "
    "session accounting included; median of 5 runs."
)
RUNS = 5


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, steps in (("long-term-satisfaction", 3_000_000), ("interest-evolution", 2_000_000)):
        rates = []
        for run in range(RUNS + 1):  # the first one warms up
            env = sw.make(name, users=10_000, seed=run)
            result = simulate(env.rule("random", run), env, steps)
            rates.append(result.steps_per_cpu_second)
        rows.append(
            {
                "world": name,
                "candidates": env.spec.candidates,
                "slate_size": env.spec.slate_size,
                "steps_per_cpu_second": statistics.median(rates[1:]),
                "runs": [round(rate) for rate in rates[1:]],
            }
        )
    print("\n".join(table(rows)))
    save("simulation", CLAIM, rows)


if __name__ == "__main__":
    main()
