"""Experiments: runs that answer a question or fill a paper's table, each kept as one file as soon as it is finished.

A study is a list of `Run`s, written down before anything is trained; so is a table of a paper. `reproduce` trains those
that have no file yet: it can be stopped, and go on elsewhere; two machines' results are merged by copying files.
Chapters read `finished` and `rows`.
"""

from capsnb.experiments.costs import COSTS, measure, slopes, table4
from capsnb.experiments.ledger import (
    STUDIES,
    Row,
    check,
    finished,
    overview,
    reproduce,
    rows,
    runs,
    table,
)
from capsnb.experiments.papers import TABLES, Published, numbers, published
from capsnb.experiments.run import Finished, Run, load, perform

__all__ = [
    "COSTS",
    "STUDIES",
    "TABLES",
    "Finished",
    "Published",
    "Row",
    "Run",
    "check",
    "finished",
    "load",
    "measure",
    "numbers",
    "overview",
    "perform",
    "published",
    "reproduce",
    "rows",
    "runs",
    "slopes",
    "table",
    "table4",
]
