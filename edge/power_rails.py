"""What a board draws, rail by rail, from its INA3221 and INA238 monitors.

Rails and totals are as jetson_stats has them (rbonghi/jetson_stats @f41d5ca, jtop/core/power.py,
and pull requests 750, 900, 905): channels without a label or labelled NC are left out, so is
channel 7, the sum of shunt voltages; the total is the rail that feeds the module where there is
one. hwmon gives millivolts, milliamperes and microwatts (kernel,
Documentation/hwmon/sysfs-interface.rst).
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.system_files import KeptFile, SystemFiles

MONITORS = "sys/class/hwmon/hwmon*"
INA3221, INA238 = "ina3221", "ina238"
NOT_CONNECTED, SUM_OF_SHUNTS = "NC", 7
# Of these a board has one at most: what feeds the module, or on Thor the whole carrier.
TOTAL_RAILS = ("VDD_IN", "VIN", "POM_5V_IN")
# The carrier of Thor has one, which measures its input (NVIDIA tegra264-p4071-0000.dtsi).
INA238_RAIL = "VIN"
NO_RAILS = "no power monitor that this program knows can be read here"


@dataclass(frozen=True, slots=True)
class PowerRail:
    """One measured rail."""

    name: str
    millivolts: KeptFile | None
    milliamperes: KeptFile | None
    microwatts: KeptFile | None

    def read_mw(self) -> float | None:
        """Return the power now."""
        if self.microwatts is not None:
            power_uw = self.microwatts.number()
            return None if power_uw is None else power_uw / 1e3
        if self.millivolts is None or self.milliamperes is None:
            return None
        voltage_mv, current_ma = self.millivolts.number(), self.milliamperes.number()
        return None if voltage_mv is None or current_ma is None else voltage_mv * current_ma / 1e3

    def close(self) -> None:
        """Close its files."""
        for file in (self.millivolts, self.milliamperes, self.microwatts):
            if file is not None:
                file.close()


def find_rails(files: SystemFiles) -> list[PowerRail]:
    """List the rails of all monitors."""
    rails = []
    for folder in files.matches(MONITORS):
        name = files.text(f"{folder}/name")
        if name == INA3221:
            rails += _channels(files, folder)
        elif name == INA238 and files.exists(f"{folder}/power1_input"):
            label = files.text(f"{folder}/label") or INA238_RAIL
            rails.append(PowerRail(label, None, None, files.kept(f"{folder}/power1_input")))
    return rails


def read_power_mw(rails: list[PowerRail]) -> tuple[dict[str, float], float | None, str]:
    """Return the power of each rail, of the board, and what that total is or why there is none."""
    read = {rail.name: rail.read_mw() for rail in rails}
    known = {name: power_mw for name, power_mw in read.items() if power_mw is not None}
    for name in TOTAL_RAILS:
        if name in known:
            return known, known[name], name
    if not known:
        return {}, None, NO_RAILS
    if len(known) < len(read):
        silent = ", ".join(name for name in read if name not in known)
        return known, None, f"no total: {silent} did not answer"
    return known, sum(known.values()), f"sum of {len(known)} rails; this board has no total rail"


def _channels(files: SystemFiles, folder: str) -> list[PowerRail]:
    rails = []
    for path in files.matches(f"{folder}/in*_label"):
        number = path.rpartition("/in")[2].removesuffix("_label")
        label = files.text(path)
        if not label or label.startswith(NOT_CONNECTED) or number == str(SUM_OF_SHUNTS):
            continue
        voltage, current = files.kept(f"{folder}/in{number}_input"), f"{folder}/curr{number}_input"
        rails.append(PowerRail(label, voltage, files.kept(current), None))
    return rails
