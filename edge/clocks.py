"""How fast processor, GPU and memory run, and how fast they may.

Paths by generation of Jetson: jetson_stats @f41d5ca (jtop/core/gpu.py, memory.py) and NVIDIA's
nvpmodel files. A clock below its cap says nothing by itself: governors save power.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.system_files import KeptFile, SystemFiles

CPU, GPU, EMC = "cpu", "gpu", "emc"
POLICIES = "sys/devices/system/cpu/cpufreq/policy*"
DEVFREQ = "sys/class/devfreq/*"
# Names in the device tree or of the folder: Xavier, Orin on JetPack 5, Orin on 6, Thor.
GPU_NAMES = ("gv11b", "ga10b", "gpu", "gpu-gpc-0")
EMC_DEVFREQ = "sys/class/devfreq/bwmgr"  # Thor
EMC_RATE = "sys/kernel/debug/bpmp/debug/clk/emc/rate"  # for root only
# JetPack 6, then 5.
EMC_CAPS = ("sys/kernel/nvpmodel_clk_cap/emc", "sys/kernel/nvpmodel_emc_cap/emc_iso_cap")
_KHZ, _HZ = 1e3, 1e6  # in a MHz
_HIGHEST_MHZ = 1e4  # a larger cap stands for none


@dataclass(frozen=True, slots=True)
class Clock:
    """One clock of a unit; None where the system has no such file."""

    unit: str
    now: KeptFile | None
    cap: KeptFile | None
    per_mhz: float
    load: KeptFile | None = None  # tenths of a percent

    def read_mhz(self) -> tuple[float | None, float | None]:
        """Return the clock and its cap now."""
        return self._mhz(self.now), self._mhz(self.cap)

    def close(self) -> None:
        """Close its files."""
        for file in (self.now, self.cap, self.load):
            if file is not None:
                file.close()

    def _mhz(self, file: KeptFile | None) -> float | None:
        value = file.number() if file else None
        return value / self.per_mhz if value and 0 < value / self.per_mhz < _HIGHEST_MHZ else None


def find_clocks(files: SystemFiles) -> list[Clock]:
    """List the clocks of this system."""
    clocks = [
        Clock(CPU, files.kept(f"{p}/scaling_cur_freq"), files.kept(f"{p}/scaling_max_freq"), _KHZ)
        for p in files.matches(POLICIES)
    ]
    for folder in files.matches(DEVFREQ):
        if _is_gpu(files, folder):
            load = f"{folder}/device/load"
            clocks.append(_devfreq(files, GPU, folder, load if files.exists(load) else None))
    if files.exists(EMC_DEVFREQ):
        return [*clocks, _devfreq(files, EMC, EMC_DEVFREQ, None)]
    cap = next((path for path in EMC_CAPS if files.exists(path)), None)
    if cap is not None:
        rate = files.kept(EMC_RATE) if files.exists(EMC_RATE) else None
        clocks.append(Clock(EMC, rate, files.kept(cap), _HZ))
    return clocks


def read_clocks_mhz(clocks: list[Clock]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the clocks and the caps by unit; of several clocks of a unit the highest."""
    now: dict[str, float] = {}
    caps: dict[str, float] = {}
    for clock in clocks:
        for found, value in zip((now, caps), clock.read_mhz(), strict=True):
            if value is not None:
                found[clock.unit] = max(value, found.get(clock.unit, 0.0))
    return now, caps


def _is_gpu(files: SystemFiles, folder: str) -> bool:
    name = files.text(f"{folder}/device/of_node/name")
    last = folder.rpartition("/")[2]
    return name in GPU_NAMES or last in GPU_NAMES or last.rpartition(".")[2] in GPU_NAMES


def _devfreq(files: SystemFiles, unit: str, folder: str, load: str | None) -> Clock:
    return Clock(
        unit,
        files.kept(f"{folder}/cur_freq"),
        files.kept(f"{folder}/max_freq"),
        _HZ,
        files.kept(load) if load else None,
    )
