"""Off-policy evaluation in the demo: on a real log, or on a simulated one where that cannot be had."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slatewise import plots
from slatewise.environments import make
from slatewise.errors import InputError
from slatewise.evaluation import evaluate, simulate
from slatewise.judging import judge
from slatewise.logs import Log, LogWriter, import_open_bandit
from slatewise.off_policy import Result

TRUTH_SEED = 1000  # users that are not in the log


@dataclass(frozen=True)
class Unit:
    """How values are shown: multiplied by `scale`, with so many digits."""

    name: str
    scale: float
    digits: int


CLICKS = Unit("clicks per 1,000 impressions", 1000, 2)
MINUTES = Unit("minutes watched per decision", 1, 3)


def judge_open_bandit(logs: Path, download: bool, say: Any) -> dict[str, Any] | None:
    """Judge Thompson's starting policy on the random log of the Open Bandit sample; None where it cannot be had."""
    path = logs / "open-bandit-random-all"
    try:
        import_open_bandit(path, "random", "all", None, download, overwrite=True)
    except InputError as error:
        say(f"the Open Bandit sample is not here ({error}); judging on a simulated log instead")
        return None
    judged = judge(path, ["thompson"])
    shown = Log(path).source["on_policy"]["thompson"]
    truth = {"mean": shown["mean"], "standard_error": shown["standard_error"]}
    numbers = judged.to_json() | {"log": "open-bandit", "truth": truth | {"of": "Thompson's own log"}}
    story = (
        "10,000 real impressions of a fashion shop, shown at random, with the probability of each and whether it was "
        "clicked (Open Bandit sample, campaign “all”, Saito et al. 2021). What would a Thompson-sampling policy have "
        "earned? The table estimates it from the random log alone (circles). Squares: what the random "
        "policy earned, and what the shop's own Thompson log shows."
    )
    clicks = round(judged.logged.value * judged.decisions)
    note = (
        "The judged policy is Thompson sampling as it was when the experiment began (its priors, by Monte Carlo). The "
        "one that made the Thompson log went on learning, so the two need not agree; and with "
        f"{clicks} clicks among {judged.decisions:,} impressions, nothing here can be known to better than about "
        f"{100 / clicks**0.5:.0f} %."
    )
    page = _judged_page(judged, story, note, ("Thompson's own log", shown["mean"], shown["standard_error"]), CLICKS)
    return {"numbers": numbers, "page": page}


def judge_simulation(logs: Path, seed: int) -> dict[str, Any]:
    """Judge a rule on a simulated log of first decisions, where the truth can be simulated too."""
    path = logs / "first-decisions"
    settings: dict[str, Any] = {"slate_size": 1, "horizon": 1}
    env = make("interest-evolution", 20_000, seed, **settings)
    source = {
        "kind": "simulation",
        "world": env.full_name,
        "settings": env.settings.model_dump(mode="json"),
        "seed": seed,
    }
    with LogWriter(path, env.spec, source | {"policy": "random"}, overwrite=True) as writer:
        simulate(env.rule("random", seed), env, env.users, writer.add)
    judged = judge(path, ["myopic"])
    fresh = make("interest-evolution", 20_000, TRUTH_SEED, **settings)
    true = evaluate(fresh.rule("myopic"), fresh, 200_000)
    truth = {"mean": true.mean, "standard_error": true.standard_error}
    numbers = judged.to_json() | {
        "log": "simulated first decisions",
        "truth": truth | {"of": "simulation of the policy"},
    }
    story = (
        "Without the real log at hand, a simulated one: 20,000 first decisions for new users of interest evolution, "
        "one item each, shown at random. What would the myopic rule have earned with its first decision? The table "
        "estimates it from the random log alone; the lower square is the truth, from simulating it."
    )
    note = "A real log (1.4 MB) takes this place when `slatewise demo` may fetch it."
    page = _judged_page(judged, story, note, ("truth (simulated)", true.mean, true.standard_error), MINUTES)
    return {"numbers": numbers, "page": page}


def _judged_page(judged: Result, story: str, note: str, truth: tuple[str, float, float], unit: Unit) -> dict[str, Any]:
    """Return the words, the table and the picture of the off-policy section.  truth: name, mean, standard error."""

    def row(name: str, kind: str, value: float, low: float, high: float, size: str) -> dict[str, str]:
        shown = [f"{unit.scale * x:.{unit.digits}f}" for x in (value, low, high)]
        return {"name": name, "kind": kind, "value": shown[0], "interval": f"{shown[1]} to {shown[2]}", "size": size}

    table = {name: values.estimates for name, values in judged.policies.items()}
    sizes = {name: f"{values.diagnostics.effective_sample_size:,.0f}" for name, values in judged.policies.items()}
    rows = [row(f"{n}, {e}", "", i.value, i.low, i.high, sizes[n]) for n, one in table.items() for e, i in one.items()]
    name, mean, error = truth
    logged = judged.logged
    rows.append(row("logged policy", "reference", logged.value, logged.low, logged.high, "–"))
    rows.append(row(name, "reference", mean, mean - 1.96 * error, mean + 1.96 * error, "–"))
    scaled = {
        n: {e: {k: unit.scale * getattr(i, k) for k in ("value", "low", "high")} for e, i in one.items()}
        for n, one in table.items()
    }
    known = {"logged policy": (logged.value, logged.standard_error), name: (mean, error)}
    known = {n: (unit.scale * m, unit.scale * e) for n, (m, e) in known.items()}
    picture = plots.to_svg(plots.estimates(scaled, known, unit.name), "Off-policy estimates with intervals")
    verdict = judged.verdict[0].upper() + judged.verdict[1:].replace(" %", "\u00a0%") + "."
    return {"story": story, "verdict": verdict, "rows": rows, "note": note, "picture": picture, "unit": unit.name}
