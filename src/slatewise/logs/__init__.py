"""Interactions at rest: write, read, check and import logs."""

from slatewise.logs.check import check
from slatewise.logs.log import Log
from slatewise.logs.open_bandit import import_open_bandit, log_rule
from slatewise.logs.writer import LogWriter

__all__ = ["Log", "LogWriter", "check", "import_open_bandit", "log_rule"]
