"""The thermal zones of a system: how warm each is, and at which trip points it acts.

Trip types are the kernel's (Documentation/driver-api/thermal/sysfs-api.rst): `passive` slows the
system down, `critical` shuts it down; `active` only starts fans. Temperatures are in thousandths of
a degree.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.system_files import KeptFile, SystemFiles

ZONES = "sys/class/thermal/thermal_zone*"
# Trip points outside are switched off: 0, -274000 and -32768000 stand for none.
LOWEST_TRIP_C, HIGHEST_TRIP_C = 20.0, 150.0
LOWEST_C, HIGHEST_C = -50.0, 200.0  # a sensor that says otherwise is off
_PASSIVE, _CRITICAL = "passive", "critical"
_SUFFIXES = ("-thermal", "-therm", "_thermal")


@dataclass(frozen=True, slots=True)
class ThermalZone:
    """One zone; its trip points are read once."""

    name: str  # without "-thermal": cpu, gpu, tj
    temperature: KeptFile
    throttle_c: float | None  # lowest passive trip point
    shutdown_c: float | None  # lowest critical one

    def read_c(self) -> float | None:
        """Return the temperature now; None from a sensor that is off."""
        value = self.temperature.number()
        if value is None or not LOWEST_C <= value / 1e3 <= HIGHEST_C:
            return None
        return value / 1e3


def find_zones(files: SystemFiles) -> list[ThermalZone]:
    """List the zones that have a name; a name that comes again gets its number."""
    zones: list[ThermalZone] = []
    for folder in files.matches(ZONES):
        kind = files.text(f"{folder}/type")
        if not kind:
            continue
        name = _short(kind)
        if any(zone.name == name for zone in zones):
            name = f"{name} {folder.removeprefix(ZONES[:-1])}"
        trips = _trips_c(files, folder)
        zones.append(
            ThermalZone(
                name=name,
                temperature=files.kept(f"{folder}/temp"),
                throttle_c=min((c for kind, c in trips if kind == _PASSIVE), default=None),
                shutdown_c=min((c for kind, c in trips if kind == _CRITICAL), default=None),
            )
        )
    return zones


def _trips_c(files: SystemFiles, folder: str) -> list[tuple[str, float]]:
    trips = []
    for path in files.matches(f"{folder}/trip_point_*_type"):
        value = files.number(path.removesuffix("type") + "temp")
        if value is not None and LOWEST_TRIP_C <= value / 1e3 <= HIGHEST_TRIP_C:
            trips.append((files.text(path) or "", value / 1e3))
    return trips


def _short(kind: str) -> str:
    for suffix in _SUFFIXES:
        if kind.lower().endswith(suffix):
            return kind[: -len(suffix)].lower()
    return kind
