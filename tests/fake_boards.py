"""The boards that tests pretend to have, each as little as `fake_board.FakeBoard` needs.

Figures are those of NVIDIA's nvpmodel files, device trees and of jetson_stats, as docs/profiling.md
names them; memory sizes are of public logs. Trip points of Xavier are not known and made up here.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Mode:
    """One section of nvpmodel.conf; -1 is no limit."""

    name: str
    cores: int
    cpu_khz: int = -1
    gpu_hz: int = -1
    emc_hz: int = -1
    tpc_mask: int = 0


@dataclass(frozen=True)
class Kind:
    """What a module and its software look like to a program."""

    model: str | None
    compatible: tuple[str, ...] = ()
    spec: str | None = None  # behind TNSPEC
    release: str | None = None  # "R36", "4.3"
    conf: str = "nvpmodel.conf"  # what /etc/nvpmodel.conf links to
    modes: tuple[Mode, ...] = ()
    default: int = 0
    cores: int = 4
    cpu_khz: int | None = None  # None: no cpufreq
    cores_a_policy: int = 1
    gpu: str | None = None  # folder under /sys/class/devfreq
    gpu_hz: int = 0
    tpc_mask_path: str | None = None
    emc_cap_path: str | None = None
    emc_devfreq_hz: int | None = None
    emc_hz: int = 0
    zones: dict[str, dict[str, float]] = field(default_factory=dict)  # trips in degrees, by type
    cooling: tuple[str, ...] = ()
    rails: tuple[tuple[str, tuple[tuple[str, int, int], ...]], ...] = ()  # chip: label, mV, mA
    over_current: str | None = None
    memory_kib: int = 8 << 20
    cpu_model: str | None = None
    throttled_flags: int | None = None  # what vcgencmd answers


ORIN_ZONES = {
    name: {"passive": 99.0, "critical": 104.5}
    for name in ("cpu-thermal", "gpu-thermal", "soc0-thermal", "tj-thermal")
}
ORIN = {
    "tpc_mask_path": "sys/devices/platform/gpu.0/tpc_pg_mask",
    "emc_cap_path": "sys/kernel/nvpmodel_clk_cap/emc",
    "gpu": "17000000.gpu",
    "cores_a_policy": 4,
    "zones": ORIN_ZONES,
    "cooling": ("pwm-fan", "cpu-throttle-alert", "gpu-throttle-alert", "hot-surface-alert"),
    "over_current": "soctherm_oc",
}
NANO_RAILS = (
    (
        "ina3221",
        (("VDD_IN", 4984, 1204), ("VDD_CPU_GPU_CV", 4984, 352), ("VDD_SOC", 4976, 288)),
    ),
)

BOARDS = {
    "orin_nano_8gb": Kind(
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        compatible=("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
        spec="3767-300-0005-S.1-1-1-jetson-orin-nano-devkit-super-",
        release="R36 4.3",
        conf="nvpmodel/nvpmodel_p3767_0003_super.conf",
        modes=(
            Mode("15W", 6, 1497600, 612000000, 2133000000, 240),
            Mode("25W", 6, 1344000, 918000000, 3199000000, 240),
            Mode("MAXN_SUPER", 6, tpc_mask=240),
        ),
        default=1,
        cores=6,
        cpu_khz=1728000,
        gpu_hz=1020000000,
        emc_hz=3199000000,
        rails=NANO_RAILS,
        memory_kib=7802880,
        **ORIN,
    ),
    "orin_nx_16gb": Kind(
        model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        compatible=("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"),
        spec="3767-300-0000-H.2-1-0-recomputer-orin-j401-",
        release="R36 4.4",
        modes=(
            Mode("MAXN", 8, tpc_mask=240),
            Mode("10W", 4, 1190400, 612000000, 2133000000, 252),
            Mode("15W", 4, 1651200, 612000000, -1, 252),
            Mode("25W", 8, 1497600, 408000000, -1, 240),
        ),
        default=2,
        cores=8,
        cpu_khz=1984000,
        gpu_hz=918000000,
        emc_hz=3199000000,
        rails=NANO_RAILS,
        memory_kib=16000000,
        **ORIN,
    ),
    "agx_orin_64gb": Kind(
        model="NVIDIA Jetson AGX Orin Developer Kit",
        compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
        spec="3701-500-0005-M.0-1-0-jetson-agx-orin-devkit-",
        release="R36 5.0",
        modes=(
            Mode("MAXN", 12),
            Mode("MODE_15W", 4, 1113600, 408000000, 2133000000, 248),
            Mode("MODE_30W", 8, 1728000, 612000000, -1, 240),
            Mode("MODE_50W", 12, 1497600, 816000000),
        ),
        default=2,
        cores=12,
        cpu_khz=2201600,
        gpu_hz=1300500000,
        emc_hz=3199000000,
        rails=(
            ("ina3221", (("VDD_GPU_SOC", 19000, 200), ("VDD_CPU_CV", 19000, 100), ("NC", 0, 0))),
            ("ina3221", (("VIN_SYS_5V0", 5000, 700), ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 90))),
        ),
        memory_kib=64286720,
        **ORIN,
    ),
    "thor_t5000": Kind(
        model="NVIDIA Jetson AGX Thor Developer Kit",
        compatible=("nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"),
        release="R38 2.0",
        modes=(Mode("MAXN", 14), Mode("120W", 14, 2601000, 1386000000)),
        default=1,
        cores=14,
        cpu_khz=2601000,
        gpu="gpu-gpc-0",
        gpu_hz=1575000000,
        emc_devfreq_hz=4266000000,
        zones={
            "cpu-thermal": {"critical": 113.0},
            "gpu-thermal": {"critical": 113.0},
            "tj-thermal": {"passive": 109.0, "critical": 113.0},
        },
        cooling=("pwm-fan", "tj-throttle-alert"),
        rails=(
            ("ina3221", (("VDD_GPU", 20000, 900), ("VDD_CPU_SOC_MSS", 20000, 600))),
            ("ina238", (("", 20000, 2500),)),
        ),
        over_current="nvtherm-oc-event",
        memory_kib=128790528,
    ),
    "xavier_nx_8gb": Kind(
        model="NVIDIA Jetson Xavier NX Developer Kit",
        compatible=("nvidia,p3449-0000+p3668-0000", "nvidia,p3668-0000", "nvidia,tegra194"),
        spec="3668-100-0000-N.0-1-2-jetson-xavier-nx-devkit-",
        release="R35 6.4",
        modes=(
            Mode("MODE_15W_2CORE", 2, 1907200, 1109250000, 1600000000, 1),
            Mode("MODE_10W_DESKTOP", 4, 1907200, 510000000, 1600000000, 1),
        ),
        default=1,
        cores=6,
        cpu_khz=1907200,
        cores_a_policy=2,
        gpu="17000000.gv11b",
        gpu_hz=1109250000,
        tpc_mask_path="sys/devices/gpu.0/tpc_pg_mask",
        emc_cap_path="sys/kernel/nvpmodel_emc_cap/emc_iso_cap",
        emc_hz=1866000000,
        zones={"CPU-therm": {"passive": 95.5, "critical": 96.0}, "GPU-therm": {"active": 50.0}},
        cooling=("pwm-fan", "thermal-cpufreq-0"),
        rails=(("ina3221", (("VDD_IN", 5000, 900), ("VDD_CPU_GPU_CV", 5000, 300))),),
        over_current="soctherm_oc",
        memory_kib=7155712,
    ),
    "raspberry_pi_5_8gb": Kind(
        model="Raspberry Pi 5 Model B Rev 1.0",
        compatible=("raspberrypi,5-model-b", "brcm,bcm2712"),
        cores=4,
        cpu_khz=2400000,
        cores_a_policy=4,
        zones={"cpu-thermal": {"active": 50.0, "critical": 110.0}},
        cooling=("pwm-fan",),
        memory_kib=8241152,
        throttled_flags=0,
    ),
    "pc": Kind(
        model=None,
        cores=8,
        cpu_khz=4700000,
        zones={"x86_pkg_temp": {"passive": -274.0}, "acpitz": {"critical": 120.0}},
        cooling=("Processor", "TCC Offset", "intel_powerclamp"),
        memory_kib=32 << 20,
        cpu_model="Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz",
    ),
}
