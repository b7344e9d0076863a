"""What jetson-stats (`jtop`) tells of a Jetson, where it is installed and its service answers.

The attributes are those of `jtop.jtop` (rbonghi/jetson_stats @f41d5ca, version 7.2): clocks
in kHz, power in mW, temperatures in degrees. A client thread of its own keeps the newest values, so
reading them starts nothing. jetson-stats is never needed: /sys says the same, with more files.
"""

from __future__ import annotations

import importlib
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edge.power_modes import CurrentMode

SOCKET = "run/jtop.sock"  # of the service, jetson-stats docs/jtop/how_is_it_works.rst
SOURCE = "jtop"
OPEN_S = 5.0
_OFFLINE_C = -256
# What its client raises, beside JtopException, when the service is another version or ends.
_FAILURES = (
    OSError,
    EOFError,
    queue.Empty,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    RuntimeError,
)


class JtopSource:
    """A running client; every method returns what is known and never raises."""

    def __init__(self, client: Any, failures: tuple[type[BaseException], ...] = _FAILURES) -> None:
        self._client = client
        self._failures = failures

    def answers(self) -> bool:
        """Tell whether the service still sends."""
        return bool(self._ask(lambda client: client.ok(spin=True)))

    def temperatures_c(self) -> dict[str, float]:
        """Return the sensors that are on."""
        return self._ask(lambda client: _temperatures_c(client.temperature)) or {}

    def clocks_mhz(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the clocks and their caps now, by unit: cpu, gpu, emc."""
        units = {
            "cpu": self._ask(lambda client: [c["freq"] for c in client.cpu["cpu"] if c["online"]]),
            "gpu": self._ask(lambda client: [gpu["freq"] for gpu in dict(client.gpu).values()]),
            "emc": self._ask(lambda client: [dict(client.memory["EMC"])]),
        }
        return self._highest_mhz(units, "cur"), self._highest_mhz(units, "max")

    def power_mw(self) -> tuple[dict[str, float], float | None, str]:
        """Return the rails, the board's total and what the total is."""
        return self._ask(lambda client: _power_mw(client.power)) or ({}, None, "")

    def power_mode(self) -> CurrentMode | None:
        """Return the power mode that is on."""
        return self._ask(
            lambda client: CurrentMode(int(client.nvpmodel.id), str(client.nvpmodel.name), SOURCE)
        )

    def part_number(self) -> str | None:
        """Return the module's part number from its EEPROM, "p3767-0005"."""
        return self._ask(lambda client: str(client.board["hardware"]["P-Number"]))

    def close(self) -> None:
        """End the client."""
        self._ask(lambda client: client.close())

    def _highest_mhz(self, units: dict[str, Any], key: str) -> dict[str, float]:
        asked = {
            unit: self._ask(lambda _, of=clocks: max(float(clock[key]) for clock in of))
            for unit, clocks in units.items()
        }
        return {unit: clock_khz / 1e3 for unit, clock_khz in asked.items() if clock_khz}

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        with suppress(*self._failures):
            return question(self._client)
        return None


def open_jtop(
    import_module: Callable[[str], Any] = importlib.import_module, open_s: float = OPEN_S
) -> JtopSource | None:
    """Connect to the service; None where jetson-stats is absent or does not answer in time."""
    try:
        module = import_module("jtop")
    except ImportError:
        return None
    failures = (*_FAILURES, module.JtopException)
    opened: list[Any] = []
    thread = threading.Thread(
        target=_start, args=(module, failures, opened), name="open jtop", daemon=True
    )
    thread.start()
    thread.join(open_s)
    return JtopSource(opened[0], failures) if opened else None


def _start(module: Any, failures: tuple[type[BaseException], ...], opened: list[Any]) -> None:
    with suppress(*failures):
        client = module.jtop()
        client.start()
        opened.append(client)


def _temperatures_c(sensors: Any) -> dict[str, float]:
    return {
        name: float(values["temp"])
        for name, values in dict(sensors).items()
        if values.get("online", True) and values["temp"] != _OFFLINE_C
    }


def _power_mw(power: Any) -> tuple[dict[str, float], float, str]:
    rails = {name: float(rail["power"]) for name, rail in power["rail"].items()}
    name = power["tot"].get("name") or f"sum of {len(rails)} rails"
    return rails, float(power["tot"]["power"]), f"{name}, by jtop"
