"""Judging policies by a log: know before you ship."""

from slatewise.off_policy.evaluate import evaluate
from slatewise.off_policy.reading import InteractionLog, ItemGroups
from slatewise.off_policy.result import Diagnostics, Interval, Judgement, Result

__all__ = ["Diagnostics", "InteractionLog", "Interval", "ItemGroups", "Judgement", "Result", "evaluate"]
