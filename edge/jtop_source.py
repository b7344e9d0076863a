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
        sensors = self._ask(lambda client: dict(client.temperature)) or {}
        return {
            name: float(values["temp"])
            for name, values in sensors.items()
            if values.get("online", True) and values.get("temp", _OFFLINE_C) != _OFFLINE_C
        }

    def clocks_mhz(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the clocks and their caps now, by unit: cpu, gpu, emc."""
        cores = self._ask(lambda client: client.cpu["cpu"]) or []
        gpus = self._ask(lambda client: dict(client.gpu)) or {}
        emc = self._ask(lambda client: client.memory["EMC"]) or {}
        online = [core.get("freq", {}) for core in cores if core.get("online")]
        units = {
            "cpu": online,
            "gpu": [gpu.get("freq", {}) for gpu in gpus.values()],
            "emc": [emc],
        }
        return _highest_mhz(units, "cur"), _highest_mhz(units, "max")

    def power_mw(self) -> tuple[dict[str, float], float | None, str]:
        """Return the rails, the board's total and what the total is."""
        power = self._ask(lambda client: dict(client.power)) or {}
        rails = {name: float(rail["power"]) for name, rail in power.get("rail", {}).items()}
        total = power.get("tot", {})
        if "power" not in total:
            return rails, None, ""
        note = total.get("name") or f"sum of {len(rails)} rails"
        return rails, float(total["power"]), f"{note}, by jtop"

    def power_mode(self) -> CurrentMode | None:
        """Return the power mode that is on."""
        mode = self._ask(lambda client: (client.nvpmodel.id, client.nvpmodel.name))
        return CurrentMode(int(mode[0]), str(mode[1]), SOURCE) if mode else None

    def part_number(self) -> str | None:
        """Return the module's part number from its EEPROM, "p3767-0005"."""
        return self._ask(lambda client: client.board["hardware"]["P-Number"])

    def close(self) -> None:
        """End the client."""
        self._ask(lambda client: client.close())

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


def _highest_mhz(units: dict[str, list[dict[str, Any]]], key: str) -> dict[str, float]:
    found = {
        unit: max((float(values.get(key) or 0) for values in clocks), default=0.0) / 1e3
        for unit, clocks in units.items()
    }
    return {unit: clock_mhz for unit, clock_mhz in found.items() if clock_mhz > 0}
