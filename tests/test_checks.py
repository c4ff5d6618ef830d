"""The checks accept what is right, explain what is wrong, and leave an untouched exercise open.

Chapters whose answers need nothing else state them as lists in `test_checks_NAME.py`: `RIGHT`, `WRONG`, `EXERCISES`.
"""

import re

import pytest
import test_checks_billing
import test_checks_collapsing
import test_checks_forgetting
import test_checks_mocapsnet
import test_checks_reproducing
import test_checks_sharing
import test_checks_shortcuts
import test_checks_shouldering
import test_checks_tiling

STATED = (
    *(test_checks_billing, test_checks_collapsing, test_checks_forgetting, test_checks_mocapsnet),
    *(test_checks_reproducing, test_checks_sharing, test_checks_shortcuts, test_checks_shouldering),
    test_checks_tiling,
)


@pytest.mark.parametrize(("check", "answer"), [case for chapter in STATED for case in chapter.RIGHT])
def test_right_answers_are_accepted(check, answer):
    verdict = check(answer)
    assert verdict.right is True, verdict
    assert verdict.message


@pytest.mark.parametrize(
    ("check", "answer", "reason"), [case for chapter in STATED for case in chapter.WRONG]
)
def test_wrong_answers_are_explained(check, answer, reason):
    verdict = check(answer)
    assert verdict.right is False, verdict
    assert re.search(reason, verdict.message), verdict.message


@pytest.mark.parametrize("check", [check for chapter in STATED for check in chapter.EXERCISES])
@pytest.mark.parametrize("blank", [..., None])
def test_an_untouched_exercise_is_open(check, blank):
    assert check(blank).right is None
