"""Experiments: runs that answer a question or fill a paper's table, each recorded in one file when it is finished.

A study is a list of `Run`s, written down before anything is trained; so is a table of a paper. `reproduce` trains those
that have no file yet: it can be stopped, and resumed elsewhere; two machines' results are merged by copying files.
Chapters read `results` and `study_rows`. `capsnb.experiments.comparison` puts records of any origin into one table.
"""

from capsnb.experiments.costs import COSTS, measure_costs, slopes, table4
from capsnb.experiments.papers import TABLES, ReportedAccuracy, paper_numbers, reported_accuracies
from capsnb.experiments.registry import (
    STUDIES,
    StudyRow,
    check,
    overview,
    reproduce,
    results,
    runs,
    study_rows,
    study_table,
    table_forms,
)
from capsnb.experiments.run import Run, RunResult, execute

__all__ = [
    "COSTS",
    "STUDIES",
    "TABLES",
    "ReportedAccuracy",
    "Run",
    "RunResult",
    "StudyRow",
    "check",
    "execute",
    "measure_costs",
    "overview",
    "paper_numbers",
    "reported_accuracies",
    "reproduce",
    "results",
    "runs",
    "slopes",
    "study_rows",
    "study_table",
    "table4",
    "table_forms",
]
