"""The checks accept what is right, explain what is wrong, and leave an untouched exercise open.

Chapters whose answers need nothing else state them as lists in `test_checks_NAME.py`: `RIGHT`, `WRONG`, `EXERCISES`.
"""

import re

import pytest
import test_checks_ch05
import test_checks_ch06
import test_checks_ch07
import test_checks_ch11
import test_checks_ch12
import test_checks_ch13
import test_checks_ch14
import test_checks_ch16
import test_checks_ch17

STATED = (
    *(test_checks_ch13, test_checks_ch06, test_checks_ch11, test_checks_ch12),
    *(test_checks_ch17, test_checks_ch16, test_checks_ch07, test_checks_ch14),
    test_checks_ch05,
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
