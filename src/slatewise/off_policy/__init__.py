"""Judging policies by a log: know before you ship."""

from slatewise.off_policy.evaluate import InteractionLog, evaluate
from slatewise.off_policy.result import Diagnostics, Interval, Judgement, Result

__all__ = ["Diagnostics", "InteractionLog", "Interval", "Judgement", "Result", "evaluate"]
