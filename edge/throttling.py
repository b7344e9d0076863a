"""Whether a board is being slowed down right now, and what says so.

Five witnesses, each for the boards that have it:
- cooling devices of the kernel that throttle (`*-throttle-alert` on Jetsons, cpufreq and devfreq
  ones elsewhere) in another state than 0; fans and alarms for hot surfaces are none;
- caps below what the power mode allows: something lowered them since;
- a GPU that is busy and yet below its cap, in two readings one after the other: governors save
  power only where there is little to do;
- over-current counters `soctherm_oc` that rose (Tegra234: oc1 under-voltage, oc2 average, oc3
  instantaneous over-current; NVIDIA's drivers name them ocN_event_cnt, or ocN_irq_cnt on Xavier);
- the firmware of a Raspberry Pi (`vcgencmd get_throttled`).

oc3 is counted but does not count as throttling: owners report it rising several times a second
under ordinary load in MAXN_SUPER, each event too short to slow anything down.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.clocks import CPU, GPU, Clock
from edge.power_modes import ModeLimits, Runner
from edge.system_files import KeptFile, SystemFiles, number_from_text

COOLING = "sys/class/thermal/cooling_device*"
THROTTLING_KINDS = ("throttle", "cpufreq", "devfreq", "thermal-cpu", "thermal-gpu", "processor")
OVER_CURRENT = ("soctherm_oc", "nvtherm-oc-event")
INSTANT_COUNTER = "oc3"
PI_QUERY = ("vcgencmd", "get_throttled")
# Bits of the firmware's answer that hold now (documentation of Raspberry Pi, os/using-vcgencmd).
PI_FLAGS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
LEAST_SHARE = 0.98  # of the mode's clock; governors round to their tables
BUSY_PERMILLE, BUSY_SHARE = 950, 0.9  # of a GPU's load, and of its cap while it is busy


@dataclass(frozen=True, slots=True)
class CoolingDevice:
    """A cooling device that slows something down."""

    kind: str
    state: KeptFile


class ThrottleWatch:
    """Asks the witnesses that this board has; counters are compared with the last reading."""

    def __init__(self, files: SystemFiles, clocks: list[Clock], run: Runner | None) -> None:
        self._devices = _cooling_devices(files)
        self._counters = _counters(files)
        self._before = {name: file.number() for name, file in self._counters.items()}
        self._clocks = clocks
        self._slow_before: set[str] = set()
        self._run = run if run and (run(PI_QUERY) or "").startswith("throttled=") else None

    def read(self, mode: ModeLimits | None) -> tuple[bool | None, str, dict[str, int]]:
        """Return whether the board is throttled, what says so, and over-current events since.

        None: there is no witness here.
        """
        events = self._new_events()
        reasons = [
            *self._cooling(),
            *self._low_caps(mode),
            *self._busy_and_slow(),
            *(f"{name}: {n} events" for name, n in events.items() if n and name != INSTANT_COUNTER),
            *self._firmware(),
        ]
        witnesses = (self._devices, self._counters, mode, self._run)
        told = any(bool(witness) for witness in witnesses)
        return bool(reasons) if told else None, "; ".join(reasons), events

    def close(self) -> None:
        """Close every file."""
        for file in (*(device.state for device in self._devices), *self._counters.values()):
            file.close()

    def _cooling(self) -> list[str]:
        states = [(device.kind, device.state.number()) for device in self._devices]
        return [f"{kind} in state {state:g}" for kind, state in states if state and state > 0]

    def _low_caps(self, mode: ModeLimits | None) -> list[str]:
        if mode is None:
            return []
        allowed = {CPU: mode.cpu_mhz, GPU: mode.gpu_mhz}
        lowest: dict[str, float] = {}
        for clock in self._clocks:
            cap_mhz = clock.read_mhz()[1]
            if cap_mhz is not None and allowed.get(clock.unit):
                lowest[clock.unit] = min(cap_mhz, lowest.get(clock.unit, cap_mhz))
        return [
            f"{unit} capped at {cap_mhz:.0f} MHz, mode {mode.name} allows {allowed[unit]:.0f}"
            for unit, cap_mhz in lowest.items()
            if cap_mhz < LEAST_SHARE * allowed[unit]
        ]

    def _busy_and_slow(self) -> list[str]:
        slow = {}
        for clock in self._clocks:
            load = clock.load.number() if clock.load else None
            now_mhz, cap_mhz = clock.read_mhz()
            if load is None or now_mhz is None or cap_mhz is None or load < BUSY_PERMILLE:
                continue
            if now_mhz < BUSY_SHARE * cap_mhz:
                slow[clock.unit] = f"{clock.unit} busy at {now_mhz:.0f} of {cap_mhz:.0f} MHz"
        lasting = [reason for unit, reason in slow.items() if unit in self._slow_before]
        self._slow_before = set(slow)
        return lasting

    def _new_events(self) -> dict[str, int]:
        events = {}
        for name, file in self._counters.items():
            now, before = file.number(), self._before.get(name)
            if now is not None:
                events[name] = int(max(now - before, 0)) if before is not None else 0
                self._before[name] = now
        return events

    def _firmware(self) -> list[str]:
        if self._run is None:
            return []
        answer = number_from_text((self._run(PI_QUERY) or "").removeprefix("throttled="))
        flags = int(answer or 0)
        return [f"firmware: {text}" for bit, text in PI_FLAGS.items() if flags >> bit & 1]


def _cooling_devices(files: SystemFiles) -> list[CoolingDevice]:
    devices = []
    for folder in files.matches(COOLING):
        kind = files.text(f"{folder}/type") or ""
        if any(word in kind.lower() for word in THROTTLING_KINDS):
            devices.append(CoolingDevice(kind, files.kept(f"{folder}/cur_state")))
    return devices


def _counters(files: SystemFiles) -> dict[str, KeptFile]:
    for folder in files.matches("sys/class/hwmon/hwmon*"):
        if files.text(f"{folder}/name") in OVER_CURRENT:
            paths = files.matches(f"{folder}/oc*_cnt")
            return {path.rpartition("/")[2].partition("_")[0]: files.kept(path) for path in paths}
    return {}
