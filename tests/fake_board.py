"""A folder in the shape of a board's /sys, /proc and /etc, which can be heated and slowed down.

board = FakeBoard(tmp_path, BOARDS["orin_nano_8gb"])
reader = BoardReader(board.root, run=board.run)
board.heat("tj-thermal", 98.0)
"""

from __future__ import annotations

from pathlib import Path

from fake_boards import Kind

IDLE_C, IDLE_MHZ_SHARE = 45.0, 0.5
COUNTERS = ("oc1", "oc2", "oc3")


class FakeBoard:
    """Files are written in place, so that a reader that keeps them open sees the change."""

    def __init__(self, root: Path, kind: Kind) -> None:
        self.root, self.kind = root, kind
        self.mode = kind.default
        self.asked: list[tuple[str, ...]] = []
        self._zones: dict[str, str] = {}
        self._cooling: dict[str, str] = {}
        self._rails: dict[str, tuple[str, int]] = {}
        self._counters: dict[str, str] = {}
        self._flags = kind.throttled_flags
        self._write_system()
        self._write_sensors()
        if kind.modes:
            self.set_mode(kind.default)

    def write(self, path: str, content: object) -> None:
        """Write one file below the root, in place."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("r+" if file.exists() else "w") as open_file:
            open_file.write(f"{content}\n")
            open_file.truncate()

    def heat(self, zone: str, degrees_c: float) -> None:
        """Set a zone's temperature."""
        self.write(f"{self._zones[zone]}/temp", round(degrees_c * 1e3))

    def silence(self, zone: str) -> None:
        """Let a zone's sensor answer nothing, as one of a part that is switched off."""
        self.write(f"{self._zones[zone]}/temp", "")

    def cool_by(self, device: str, state: int) -> None:
        """Set a cooling device's state; 0 is off."""
        self.write(f"{self._cooling[device]}/cur_state", state)

    def draw(self, rail: str, milliamperes: int) -> None:
        """Set a rail's current."""
        folder, channel = self._rails[rail]
        self.write(f"{folder}/curr{channel}_input", milliamperes)

    def over_current(self, counter: str, events: int) -> None:
        """Set how many events a counter has seen."""
        self.write(self._counters[counter], events)

    def cap(self, unit: str, mhz: float) -> None:
        """Set how fast cpu or gpu may run, as something that throttles would."""
        if unit == "gpu":
            self.write(f"sys/class/devfreq/{self.kind.gpu}/max_freq", round(mhz * 1e6))
            return
        for policy in self._policies():
            self.write(f"{policy}/scaling_max_freq", round(mhz * 1e3))

    def run_gpu(self, mhz: float, load_permille: int) -> None:
        """Set the GPU's clock and load."""
        self.write(f"sys/class/devfreq/{self.kind.gpu}/cur_freq", round(mhz * 1e6))
        self.write(f"sys/class/devfreq/{self.kind.gpu}/device/load", load_permille)

    def set_flags(self, flags: int) -> None:
        """Set what a Raspberry Pi's firmware answers."""
        self._flags = flags

    def set_mode(self, mode_id: int) -> None:
        """Switch to another power mode, as `nvpmodel -m` does."""
        self.mode, kind = mode_id, self.kind
        mode = kind.modes[mode_id]
        self.write("var/lib/nvpmodel/status", f"pmode:{mode_id:04d}")
        self.write("sys/devices/system/cpu/online", f"0-{mode.cores - 1}")
        self.cap("cpu", (mode.cpu_khz if mode.cpu_khz > 0 else kind.cpu_khz or 0) / 1e3)
        gpu_hz = mode.gpu_hz if mode.gpu_hz > 0 else kind.gpu_hz
        self.cap("gpu", gpu_hz / 1e6)
        self.run_gpu(gpu_hz * IDLE_MHZ_SHARE / 1e6, 0)
        if kind.tpc_mask_path:
            self.write(kind.tpc_mask_path, mode.tpc_mask)
        if kind.emc_cap_path:
            self.write(kind.emc_cap_path, mode.emc_hz if mode.emc_hz > 0 else kind.emc_hz)

    def run(self, words: tuple[str, ...]) -> str | None:
        """Answer the commands that this board has."""
        self.asked.append(words)
        if words == ("nvpmodel", "-q") and self.kind.modes:
            return f"NV Power Mode: {self.kind.modes[self.mode].name}\n{self.mode}\n"
        if words == ("vcgencmd", "get_throttled") and self._flags is not None:
            return f"throttled={self._flags:#x}\n"
        return None

    def _policies(self) -> list[str]:
        if self.kind.cpu_khz is None:
            return []
        firsts = range(0, self.kind.cores, self.kind.cores_a_policy)
        return [f"sys/devices/system/cpu/cpufreq/policy{first}" for first in firsts]

    def _write_system(self) -> None:
        kind = self.kind
        if kind.model:
            self.write("proc/device-tree/model", f"{kind.model}\0")
        if kind.compatible:
            self.write("proc/device-tree/compatible", "\0".join(kind.compatible) + "\0")
        if kind.spec:
            self.write("etc/nv_boot_control.conf", f"TNSPEC {kind.spec}\nTEGRA_CHIPID 0x23")
        if kind.release:
            major, revision = kind.release.split()
            line = (
                f"# {major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64"
            )
            self.write("etc/nv_tegra_release", line)
        if kind.modes:
            self.write(f"etc/{kind.conf}", self._conf())
            if kind.conf != "nvpmodel.conf":
                (self.root / "etc/nvpmodel.conf").symlink_to(kind.conf)
        cpu = f"model name\t: {kind.cpu_model}" if kind.cpu_model else "processor\t: 0"
        self.write("proc/cpuinfo", cpu)
        half_kib = kind.memory_kib // 2
        self.write(
            "proc/meminfo",
            f"MemTotal:       {kind.memory_kib} kB\nMemFree: 1 kB\nMemAvailable: {half_kib} kB",
        )
        self.write("sys/devices/system/cpu/online", f"0-{kind.cores - 1}")
        for policy in self._policies():
            self.write(f"{policy}/scaling_cur_freq", round((kind.cpu_khz or 0) * IDLE_MHZ_SHARE))
            self.write(f"{policy}/scaling_max_freq", kind.cpu_khz)

    def _write_sensors(self) -> None:
        kind = self.kind
        for number, (zone, trips) in enumerate(kind.zones.items()):
            folder = self._zones[zone] = f"sys/class/thermal/thermal_zone{number}"
            self.write(f"{folder}/type", zone)
            self.heat(zone, IDLE_C)
            for trip, (what, degrees_c) in enumerate(trips.items()):
                self.write(f"{folder}/trip_point_{trip}_type", what)
                self.write(f"{folder}/trip_point_{trip}_temp", round(degrees_c * 1e3))
        for number, device in enumerate(kind.cooling):
            folder = self._cooling[device] = f"sys/class/thermal/cooling_device{number}"
            self.write(f"{folder}/type", device)
            self.cool_by(device, 3 if device in ("pwm-fan", "TCC Offset") else 0)
        for number, (chip, channels) in enumerate(kind.rails):
            self._write_monitor(f"sys/class/hwmon/hwmon{number}", chip, channels)
        if kind.over_current:
            folder = f"sys/class/hwmon/hwmon{len(kind.rails)}"
            self.write(f"{folder}/name", kind.over_current)
            for counter in COUNTERS:
                self._counters[counter] = f"{folder}/{counter}_event_cnt"
                self.over_current(counter, 7)
        if kind.emc_devfreq_hz:
            self.write("sys/class/devfreq/bwmgr/cur_freq", kind.emc_devfreq_hz // 2)
            self.write("sys/class/devfreq/bwmgr/max_freq", kind.emc_devfreq_hz)

    def _write_monitor(
        self, folder: str, chip: str, channels: tuple[tuple[str, int, int], ...]
    ) -> None:
        self.write(f"{folder}/name", chip)
        for channel, (label, millivolts, milliamperes) in enumerate(channels, start=1):
            if chip == "ina238":
                self.write(f"{folder}/power1_input", millivolts * milliamperes)
                continue
            self._rails[label] = folder, channel
            self.write(f"{folder}/in{channel}_label", label)
            self.write(f"{folder}/in{channel}_input", millivolts)
            self.write(f"{folder}/curr{channel}_input", milliamperes)
        if chip == "ina3221":
            self.write(f"{folder}/in7_label", "sum of shunt voltages")
            self.write(f"{folder}/in7_input", 1)

    def _conf(self) -> str:
        lines = ["# < POWER_MODEL ID=id_num NAME=mode_name >", "<PARAM TYPE=CLOCK NAME=EMC >", ""]
        for mode_id, mode in enumerate(self.kind.modes):
            lines.append(f"< POWER_MODEL ID={mode_id} NAME={mode.name} >")
            for core in range(self.kind.cores):
                lines.append(f"CPU_ONLINE CORE_{core} {int(core < mode.cores)}")
            if self.kind.tpc_mask_path:
                lines.append("FBP_POWER_GATING FBP_PG_MASK 0x2")
                lines.append(f"TPC_POWER_GATING TPC_PG_MASK {mode.tpc_mask}")
            for policy in range(2):
                lines.append(f"CPU_A78_{policy} MIN_FREQ 729600")
                lines.append(f"CPU_A78_{policy} MAX_FREQ {mode.cpu_khz}")
            lines += [f"GPU MAX_FREQ {mode.gpu_hz}", f"EMC MAX_FREQ {mode.emc_hz}", ""]
        return "\n".join([*lines, f"< PM_CONFIG DEFAULT={self.kind.default} >"])
