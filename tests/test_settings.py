from typing import Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from slatewise.errors import InputError, unknown_name
from slatewise.settings import Settings


class Example(Settings):
    rate: float = Field(0.1, gt=0, description="step length")
    rounds: int = Field(3, ge=1, description="how often")
    kind: Literal["plain", "fancy"] = Field("plain", description="which one")
    observe: tuple[str, ...] = Field((), description="what to show")
    limit: int | None = Field(None, description="when to stop")
    greedy: bool = Field(False, description="take the best")

    @model_validator(mode="after")
    def _agree(self) -> "Example":
        if self.kind == "fancy" and self.greedy:
            raise ValueError("Fancy and greedy contradict each other")
        return self


def test_text_becomes_the_type_of_the_field() -> None:
    text = {"rate": "0.5", "rounds": "7", "kind": "fancy", "observe": "budget,quality", "limit": "9"}
    assert Example.of("example", text) == Example(
        rate=0.5, rounds=7, kind="fancy", observe=("budget", "quality"), limit=9
    )
    assert Example.of("example", {"greedy": "true"}).greedy is True
    assert Example.of("example", {"observe": ""}).observe == ()
    assert Example.of("example", {"observe": ["budget"]}).observe == ("budget",)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rats": 1}, ["unknown setting of example 'rats'", "did you mean 'rate'?", "known are greedy, kind"]),
        ({"rate": 0}, ["example: rate=0", "greater than 0"]),
        ({"rounds": "many"}, ["example: rounds='many'", "integer"]),
        ({"kind": "plane"}, ["example: kind='plane'", "'plain' or 'fancy'"]),
        ({"kind": "fancy", "greedy": True}, ["example: fancy and greedy contradict"]),
    ],
    ids=["unknown key", "bound", "type", "literal", "contradiction"],
)
def test_bad_values_are_named(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Example.of("example", values)
    for word in words:
        assert word in str(caught.value)


def test_settings_do_not_change() -> None:
    settings = Example()
    with pytest.raises(ValidationError, match="frozen"):
        settings.rate = 2.0
    assert settings.rate == 0.1


def test_settings_survive_json() -> None:
    settings = Example(rate=0.25, observe=("budget",), limit=4)
    assert Example.model_validate_json(settings.model_dump_json()) == settings


def test_the_table_has_every_field_with_its_default() -> None:
    rows = {row["name"]: row for row in Example.table()}
    assert list(rows) == ["rate", "rounds", "kind", "observe", "limit", "greedy"]
    assert rows["rate"] == {"name": "rate", "type": "float", "default": "0.1", "description": "step length"}
    assert rows["limit"]["type"] == "int | None"


def test_an_unknown_name_far_from_all_lists_what_is_known() -> None:
    assert str(unknown_name("rule", "zzzz", ["b", "a"])) == "unknown rule 'zzzz': known are a, b"
    assert str(unknown_name("rule", "x", [])) == "unknown rule 'x': known are none"
