"""The contracts ask whether rules show valid slates, for which any λ will do: iterating the planner's takes seconds."""

import pytest

from slatewise.environments.interest_evolution import InterestEvolution


@pytest.fixture(autouse=True)
def no_iterated_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InterestEvolution, "planner_worth", lambda self: 1.4)
