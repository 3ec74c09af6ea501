"""The page of an off-policy evaluation: verdict, values, how far to trust them, pictures."""

import math
from importlib.metadata import version

from matplotlib.figure import Figure

from slatewise import plots
from slatewise.logs import Log
from slatewise.off_policy.result import Interval, Judgement, Result
from slatewise.reports import render


def judgement_page(result: Result, log: str, about: str, command: str) -> str:
    """Return the page as HTML, with nothing loaded from outside.

    log: its name.  about: a sentence on where it comes from.  command: that made the page.
    """
    scale, unit = _unit(result)
    names = [name for name in result.policies if name != result.baseline]
    judged = {name: result.policies[name] for name in names}
    return render(
        "judgement.html.jinja",
        {
            "title": f"{' and '.join(names) or result.baseline}, judged on {log}",
            "verdicts": [_sentence(policy.verdict) for policy in judged.values()],
            "story": _story(result, about),
            "notes": result.notes,
            "several": len(result.policies) > 1,
            "rows": [_logged(result, scale), *_rows(result, scale)],
            "unit": unit,
            "baseline": "what was logged" if result.baseline == "logged" else result.baseline,
            "trust": [_trust(name, policy) for name, policy in result.policies.items()],
            "warnings": [f"{n}: {w}" for n, policy in judged.items() for w in policy.diagnostics.warnings()],
            "values": _values(result, scale, unit),
            "evidence": _evidence(result, scale, unit),
            "items": _items(result, names),
            "how": f"{command} · slatewise {version('slatewise')}",
        },
    )


def about_log(log: Log, reward: str | None) -> str:
    """Return sentences on where a log comes from, what its reward is, and where its propensities come from."""
    kind = str(log.source.get("kind", "unknown source"))
    world = log.source.get("world") or log.source.get("campaign")
    source = f"A log of {kind}{f' ({world})' if world else ''}"
    what = "the reward as it was logged" if reward is None else f"the reward is {reward}"
    return f"{source}; {what}; its propensities are {log.propensities['kind']}."


def _unit(result: Result) -> tuple[float, str]:
    """Small rewards, such as clicks, are shown for 1,000 decisions."""
    return (1000.0, "reward per 1,000 decisions") if abs(result.logged.value) < 0.1 else (1.0, "reward per decision")


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:].replace(" %", "\u00a0%") + "."


def _story(result: Result, about: str) -> str:
    left = f" {result.excluded:,} more have no known reward and are left out." if result.excluded else ""
    groups = f" of {result.clusters:,} users or sessions" if result.clusters < result.decisions else ""
    return f"{about} {result.decisions:,} decisions{groups} count.{left}"


def _logged(result: Result, scale: float) -> dict[str, str]:
    return _row("logged", "logged mean", result.logged, scale) | {"kind": "reference"}


def _rows(result: Result, scale: float) -> list[dict[str, str]]:
    return [
        _row(name, _named(policy, e), interval, scale, policy.differences.get(e))
        | {"size": _size(policy, e), "kind": "best" if e == policy.judged_by else ""}
        for name, policy in result.policies.items()
        for e, interval in policy.estimates.items()
    ]


def _named(policy: Judgement, estimator: str) -> str:
    parameter = policy.parameters.get(estimator)
    return estimator if parameter is None or math.isinf(parameter) else f"{estimator} ({parameter:g})"


def _size(policy: Judgement, estimator: str) -> str:
    return f"{policy.effective_sample_sizes.get(estimator, policy.diagnostics.effective_sample_size):,.0f}"


def _row(
    policy: str, estimator: str, interval: Interval, scale: float, difference: Interval | None = None
) -> dict[str, str]:
    value, reach = _shown(interval, scale)
    change, change_reach = ("–", "–") if difference is None else _shown(difference, scale)
    return {
        "policy": policy,
        "estimator": estimator,
        "value": value,
        "interval": reach,
        "difference": change,
        "difference_interval": change_reach,
        "size": "–",
    }


def _shown(interval: Interval, scale: float) -> tuple[str, str]:
    value, low, high = (f"{scale * x:.3g}".replace("-", "−") for x in (interval.value, interval.low, interval.high))
    return value, f"{low} to {high}"


def _trust(name: str, policy: Judgement) -> dict[str, str]:
    d = policy.diagnostics
    return {
        "policy": name,
        "size": f"{d.effective_sample_size:,.0f}",
        "mean": f"{d.mean_weight:.3f} ± {d.mean_weight_standard_error:.3f}",
        "largest": f"{d.largest_weight:.3g}",
        "support": f"{100 * d.support:.1f}\u00a0%",
        "agreement": f"{100 * d.agreement:.1f}\u00a0%",
        "share": f"{100 * d.largest_share:.1f}\u00a0%",
    }


def _values(result: Result, scale: float, unit: str) -> list[dict[str, str]]:
    found = [
        _picture(
            plots.judged_values(result, scale, unit),
            "Values with intervals",
            "Values with 95 % intervals. Square and band: what was logged. Filled: the estimator that judges.",
        )
    ]
    if result.series is not None and len(result.series.first) > 1:
        found.append(
            _picture(
                plots.judged_over_time(result.series, scale, unit),
                "Reward along the log",
                "Rewards along the log: where the logged line drifts, the past may not be like the future.",
            )
        )
    return found


def _evidence(result: Result, scale: float, unit: str) -> list[dict[str, str]]:
    histograms = {name: p.weights for name, p in result.policies.items() if p.weights is not None}
    found = [
        _picture(
            plots.judged_weights(histograms),
            "Histogram of importance weights",
            "Importance weights: how much likelier the new policy makes what was logged. Decisions at 0 say nothing "
            "about it; large weights make single decisions count for many.",
        )
    ]
    if result.calibration is not None:
        found.append(
            _picture(
                plots.judged_calibration(result.calibration, scale, unit),
                "Calibration of the reward model",
                "The reward model, on decisions it did not see, in ten bins: on the dashed line it is right.",
            )
        )
    return found


def _items(result: Result, names: list[str]) -> list[dict[str, str]]:
    if result.items is None:
        return []
    return [
        _picture(
            plots.judged_items(result.items, name),
            f"Items that {name} shows more and less",
            f"{name}: items whose share of slots rises (green) and falls (brown) most; square: as logged.",
        )
        for name in names
    ]


def _picture(figure: Figure, description: str, caption: str) -> dict[str, str]:
    return {"svg": plots.to_svg(figure, description), "caption": caption}
