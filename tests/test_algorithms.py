"""The page that counts all algorithms says what the registry says."""

import re
from pathlib import Path
from typing import get_args

import pytest

from slatewise.agents import AGENTS, agent_class

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "algorithms.md").read_text()
ROW = re.compile(r"^\| `([^`]+)` \|.*\| ([^|]+) \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE)
VARIANTS = [name for name, _ in ROWS if " " in name]


def test_every_agent_is_in_the_table_once_and_counted() -> None:
    agents = [name for name, _ in ROWS if " " not in name]
    assert sorted(agents) == sorted(AGENTS)
    assert f"**{len(agents)} agents**" in PAGE


def test_variants_are_counted_and_differ() -> None:
    assert len(set(VARIANTS)) == len(VARIANTS) > 0
    assert f"**{len(VARIANTS)} published variants**" in PAGE


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_settings_that_its_agent_takes(variant: str) -> None:
    name, *pairs = variant.split()
    cls, values = agent_class(name), dict(pair.split("=") for pair in pairs)
    settings = cls.Settings.of(name, values).model_dump()
    assert values.keys() <= settings.keys()


def test_every_target_of_slateq_is_in_the_table() -> None:
    targets = get_args(agent_class("slateq").Settings.model_fields["target"].annotation)
    assert len(targets) > 1
    assert {f"slateq target={value}" for value in targets} <= set(VARIANTS)


@pytest.mark.parametrize(("row", "figures"), ROWS, ids=[row for row, _ in ROWS])
def test_figures_stand_where_the_table_says(row: str, figures: str) -> None:
    if figures.startswith("none"):
        return
    (page,) = re.findall(r"\]\(([^)#]+)", figures)
    text, name = (DOCS / page).read_text(), row.split()[0]
    assert name in text or agent_class(name).__name__ in text
