"""The demo: train and judge recommenders live, and write a page that explains what happened."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from slatewise import reports
from slatewise.demo.acts import ACTS, EPISODES, EVALUATION_SEED, run_act
from slatewise.demo.judged import judge_open_bandit, judge_simulation


def run_demo(out: Path, seed: int = 0, quick: bool = False, download: bool = True, show: bool = True) -> dict[str, Any]:
    """Run the whole demo into a folder and return its numbers; the page is `report.html` in it.

    quick: a tenth of the training.  download: fetch the Open Bandit sample with pip where it is not in the cache.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    say = Console(stderr=True).print if show else _silent
    chapters = [run_act(act, out / "runs", seed, 10 if quick else 1, show, say) for act in ACTS]
    say("judging policies on a log …")
    judged = judge_open_bandit(out / "logs", download, say) or judge_simulation(out / "logs", seed)
    result: dict[str, Any] = {
        "worlds": {chapter["full_name"]: chapter["numbers"] for chapter in chapters},
        "off_policy": judged["numbers"],
        "report": str(out / "report.html"),
    }
    seconds = time.perf_counter() - started
    page = reports.render(
        "demo.html.jinja",
        {
            "worlds": [chapter["page"] for chapter in chapters],
            "off_policy": judged["page"],
            "minutes": f"{seconds / 60:.1f}",
            "quick": quick,
            "episodes": EPISODES,
            "command": f"slatewise demo --seed {seed}{' --quick' if quick else ''}",
            "seed": seed,
            "evaluation_seed": EVALUATION_SEED,
            "versions": ", ".join(f"{name} {version(name)}" for name in ("slatewise", "torch"))
            + f", Python {platform.python_version()}",
            "timing": f"{seconds:.0f} seconds on {os.cpu_count()} cores, one thread.",
        },
    )
    reports.write(page, out / "report.html")
    say(f"the page: {out / 'report.html'}  ({seconds / 60:.1f} minutes)")
    return result


def _silent(*_: Any) -> None:
    pass
