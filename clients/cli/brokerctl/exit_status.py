"""How brokerctl ends; also in `brokerctl --help`. 2 is click's, for wrong use.

Where no broker answers every command ends with 3, the doctor too, though that is what it found.
"""

from __future__ import annotations

from typing import Final

EXIT_SAID_NO: Final = 1
EXIT_WRONG_USE: Final = 2
EXIT_NO_BROKER: Final = 3
EXIT_INTERRUPTED: Final = 130
