"""The page of an off-policy evaluation says what the result says, and loads nothing."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import slatewise as sw
from slatewise.cli import app
from slatewise.judgement_page import about_log, judgement_page
from slatewise.logs import Log, LogWriter


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    path = tmp_path_factory.mktemp("logs") / "first <decisions>"
    env = sw.make("interest-evolution", users=3000, slate_size=1, horizon=1, seed=0)
    source = {"kind": "simulation", "world": env.full_name, "settings": env.settings.model_dump(mode="json")}
    with LogWriter(path, env.spec, source) as writer:
        writer.add(env.step(env.rule("random").act(env.observation)))
    return Log(path)


def test_the_page_has_the_verdict_every_value_and_its_pictures(log: Log) -> None:
    env = sw.make("interest-evolution", users=1, slate_size=1)
    rules = {name: env.rule(name) for name in ("myopic", "quality")}
    result = sw.off_policy.evaluate(log, rules, estimators="all")
    page = judgement_page(result, log.path.name, about_log(log, None), "slatewise ope")
    text = re.sub(r"\s+", " ", page.replace("\u00a0", " "))
    for name, judged in result.policies.items():
        assert judged.verdict[1:] in text
        for estimator, interval in judged.estimates.items():
            assert f"<td>{name}</td><td>{estimator}" in text
            assert f"<td>{interval.value:.3g}</td>" in text
    assert page.count("<svg") == 6  # values, along the log, weights, calibration, and items twice
    assert "first &lt;decisions&gt;" in page
    assert "its propensities are logged" in page
    outside = [url for url in re.findall(r'(?:href|src)="([^"]+)"', page) if not url.startswith(("#", "data:"))]
    assert outside == []


def test_what_a_log_does_not_have_is_left_out(log: Log) -> None:
    env = sw.make("interest-evolution", users=1, slate_size=1)
    result = sw.off_policy.evaluate(log, {"myopic": env.rule("myopic")}, estimators="IPS")
    bare = replace(result, series=None, calibration=None, items=None)
    page = judgement_page(bare, "log", about_log(log, "watch"), "slatewise ope")
    assert page.count("<svg") == 2
    assert "the reward is watch" in page
    assert "show more and less" not in page


def test_small_rewards_are_shown_for_a_thousand_decisions(log: Log) -> None:
    env = sw.make("interest-evolution", users=1, slate_size=1)
    rare = Log(log.path, reward="0.01 * clicked")
    result = sw.off_policy.evaluate(rare, {"myopic": env.rule("myopic")})
    page = judgement_page(result, "log", about_log(rare, "0.01 * clicked"), "slatewise ope")
    assert "Mean reward per 1,000 decisions" in page
    assert f"<td>{1000 * result.logged.value:.3g}</td>" in page


def test_ope_writes_the_page(log: Log, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "verdict.html"
    arguments = ["ope", str(log.path), "--policy", "myopic", "--reward", "watch", "--report", str(page), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["report"] == str(page)
    assert "the reward is watch" in page.read_text()
    assert [path.name for path in page.parent.iterdir()] == ["verdict.html"]
