"""Which JetPack a Jetson Linux (L4T) release belongs to.

The map is that of jetson_stats (rbonghi/jetson_stats @f41d5ca, jtop/core/jetson_variables.py), from
JetPack 5.0.2 on; 36.5.2 and 39.2.1 come from NVIDIA's release pages at second hand and are
unverified.
"""

from __future__ import annotations

import re

from edge.system_files import SystemFiles

RELEASE = "etc/nv_tegra_release"
JETPACK_BY_L4T = {
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "35.6.3": "5.1.5",
    "35.6.4": "5.1.6",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.2": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}

_LINE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")


def read_l4t(files: SystemFiles) -> str | None:
    """Return the release of Jetson Linux as three numbers, "36.4.3"; None where there is none."""
    line = _LINE.search(files.text(RELEASE) or "")
    if line is None:
        return None
    numbers = f"{line[1]}.{line[2]}".split(".")
    return ".".join([*numbers, "0", "0"][:3])


def jetpack_from_l4t(l4t: str | None) -> str | None:
    """Return the JetPack of a release; None for one that the map does not have."""
    return JETPACK_BY_L4T.get(l4t or "")
