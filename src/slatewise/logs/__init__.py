"""Interactions at rest: write, read, check, import and export logs."""

from slatewise.logs.check import check
from slatewise.logs.dsjson import import_dsjson
from slatewise.logs.dsjson_export import export_dsjson
from slatewise.logs.export import export_table
from slatewise.logs.log import Log
from slatewise.logs.movielens import import_movielens
from slatewise.logs.obp import from_obp, to_obp
from slatewise.logs.open_bandit import import_open_bandit, log_rule
from slatewise.logs.table import from_table
from slatewise.logs.table_mapping import TableMapping
from slatewise.logs.writer import LogWriter

__all__ = [
    "Log",
    "LogWriter",
    "TableMapping",
    "check",
    "export_dsjson",
    "export_table",
    "from_obp",
    "from_table",
    "import_dsjson",
    "import_movielens",
    "import_open_bandit",
    "log_rule",
    "to_obp",
]
