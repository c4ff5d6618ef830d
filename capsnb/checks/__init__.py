"""Checks for the exercises: they say *why* an answer is wrong. One module for each chapter that has exercises."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        right: True, False, or None while the exercise still holds its `...`.
        message: for the learner.
    """

    right: bool | None
    message: str

    def __repr__(self) -> str:
        mark = {True: "✓ Right.", False: "✗ Not yet.", None: "… Not answered yet."}[self.right]
        return f"{mark} {self.message}".rstrip()


def unanswered(answer: object) -> Verdict | None:
    """A verdict for an answer that is still `...` or None, so that an untouched notebook runs to its end."""
    if answer is ... or answer is None:
        return Verdict(None, "Replace the ... with your answer and run the cell again.")
    return None
