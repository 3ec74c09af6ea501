"""What do estimates cost, given the arrays that they are made from? One thread.

python benchmarks/off_policy_speed.py [--obp PYTHON]: with a Python that has the Open Bandit Pipeline (see peer_obp.py),
that estimates from the same arrays in the same run.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from results import save, table
from torch import Tensor

from off_policy import generate, peer
from slatewise.estimators import ESTIMATORS, slate_weights
from slatewise.off_policy.intervals import bootstrap
from slatewise.off_policy.slope import tuned
from slatewise.off_policy.terms import Rows, Terms

CLAIM = (
    "CPU milliseconds of one estimate, median of {repeats}: {rows:,} decisions with 10 actions, from the same arrays "
    "for both (rewards, logged actions and propensities, the target's probabilities and a model's rewards of all "
    "actions; no model is fitted). `pipeline`: the Open Bandit Pipeline ({obp}). `ratio`: how many times as long the "
    "pipeline takes. Tuned estimators choose among the same {grid} parameters, each by its own SLOPE. "
    "`bootstrap`: the interval of DR from {draws} resamples; ours has their standard errors as well (studentised)."
)
DRAWS = 100
LARGE = 1e12  # for a parameter that leaves weights as they are: the pipeline's shrinkage cannot be infinite


def estimates(given: dict[str, Tensor]) -> dict[str, Callable[[], float]]:
    """Return what is timed, by name; each begins with the arrays."""
    plain = {name: partial(point, given, name) for name in ("IPS", "SNIPS", "DR")}
    chosen = {f"{name}, tuned": partial(tuned_value, given, name) for name in ("Switch-DR", "DRos")}
    return plain | chosen | {"DR, bootstrap": partial(bootstrap_low, given)}


def point(given: dict[str, Tensor], name: str) -> float:
    rows = judged(given, ESTIMATORS[name].modelled)
    return float(ESTIMATORS[name].value(rows.reward, rows.weights, rows.predicted, rows.predicted_target))


def judged(given: dict[str, Tensor], modelled: bool = True) -> Rows:
    """Return weights and the model's rewards of what was logged and under the target."""
    action = given["action"].unsqueeze(1)
    weights = slate_weights(given["target"].gather(1, action), given["propensity"].unsqueeze(1))
    if not modelled:
        return Rows(given["reward"], weights)
    under_target = (given["target"] * given["predicted"]).sum(1)
    return Rows(given["reward"], weights, given["predicted"].gather(1, action)[:, 0], under_target)


def tuned_value(given: dict[str, Tensor], name: str) -> float:
    terms = Terms([name])
    sums = terms.of(judged(given))
    return float(terms.solve(sums.sum(0)).values[tuned(terms, sums)[0]])


def bootstrap_low(given: dict[str, Tensor]) -> float:
    terms = Terms(["DR"])
    one = torch.ones(1, dtype=torch.float64)
    return float(bootstrap(terms.estimates(terms.of(judged(given)), one, (0, 1), [0]), draws=DRAWS)[0])


def made(rows: int) -> dict[str, np.ndarray]:
    """Return a log of the pipeline's generator, with a model that errs by 0.2."""
    log = generate(0, rows)
    return {
        "reward": log["reward"].astype(float),
        "action": log["action"],
        "propensity": log["logged"][np.arange(rows), log["action"]],
        "target": log["target"],
        "predicted": log["expected_reward"] + np.random.default_rng(0).normal(0, 0.2, log["target"].shape),
    }


def timed(what: Callable[[], float], repeats: int) -> dict[str, Any]:
    """Return the last answer, and the CPU milliseconds of every repetition after one to warm up."""
    value, took = what(), list[float]()
    for _ in range(repeats):
        started = time.process_time()
        value = what()
        took.append(1000 * (time.process_time() - started))
    return {"value": value, "ms": took}


def theirs(python: str, arrays: dict[str, np.ndarray], repeats: int) -> dict[str, dict[str, Any]]:
    grids = {name: [min(p, LARGE) for p in ESTIMATORS[name].grid] for name in ("Switch-DR", "DRos")}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/arrays.npz", **arrays, **grids)
        return json.loads(peer(python, "time", f"{folder}/arrays.npz", str(repeats), str(DRAWS)).splitlines()[-1])


def rows_of(ours: dict[str, dict[str, Any]], pipeline: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, mine in ours.items():
        row: dict[str, Any] = {"what": name, "slatewise": statistics.median(mine["ms"]), "value": mine["value"]}
        if name in pipeline:
            other = statistics.median(pipeline[name]["ms"])
            row |= {"pipeline": other, "ratio": other / row["slatewise"], "pipeline's value": pipeline[name]["value"]}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--obp", metavar="PYTHON", help="a Python that has sb-obp 0.5.10")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arrays = made(arguments.rows)
    given = {name: torch.from_numpy(values) for name, values in arrays.items()}
    ours = {name: timed(what, arguments.repeats) for name, what in estimates(given).items()}
    pipeline = theirs(arguments.obp, arrays, arguments.repeats) if arguments.obp else {}
    rows = rows_of(ours, pipeline)
    print("\n".join(table(rows)))
    claim = CLAIM.format(
        repeats=arguments.repeats,
        rows=arguments.rows,
        grid=len(ESTIMATORS["DRos"].grid),
        draws=DRAWS,
        obp="sb-obp 0.5.10, measured in the same run" if arguments.obp else "not measured in this run",
    )
    save("off_policy_speed", claim, rows, raw={"slatewise": ours, "pipeline": pipeline})


if __name__ == "__main__":
    main()
