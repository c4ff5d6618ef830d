"""A pytest plugin: nbval waits five seconds for a cell's last output, which a busy machine may exceed."""

from typing import Any

from nbval.plugin import IPyNbCell

SECONDS = 120
make = IPyNbCell.__init__


def make_patient(self: IPyNbCell, *arguments: Any, **named: Any) -> None:
    """Make the cell as nbval does, then give it time."""
    make(self, *arguments, **named)
    self.output_timeout = SECONDS


IPyNbCell.__init__ = make_patient
