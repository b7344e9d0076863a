"""USB serial ports: which there are, what is plugged in, and the name that survives a reboot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serial.tools import list_ports

# USB vendors of servo adapters: QinHeng (CH340, CH343, CH9102), FTDI, Silicon Labs.
ADAPTER_VENDORS = {0x1A86: "QinHeng", 0x0403: "FTDI", 0x10C4: "Silicon Labs"}
BY_ID_FOLDER = Path("/dev/serial/by-id")


@dataclass(frozen=True, slots=True)
class UsbPort:
    """One USB serial port; `by_id` is the path that does not change when ports swap names."""

    device: str
    vendor_id: int
    product_id: int
    serial_number: str | None
    description: str
    by_id: str | None

    @property
    def is_adapter(self) -> bool:
        """Whether its maker makes servo adapters."""
        return self.vendor_id in ADAPTER_VENDORS

    @property
    def line(self) -> str:
        """The port in one line."""
        serial = f"  serial {self.serial_number}" if self.serial_number else ""
        by_id = f"  {self.by_id}" if self.by_id else ""
        usb = f"{self.vendor_id:04x}:{self.product_id:04x}"
        return f"{self.device}  {usb}  {self.description}{serial}{by_id}"


def usb_ports(by_id_folder: Path = BY_ID_FOLDER) -> list[UsbPort]:
    """Return all USB serial ports, sorted by name."""
    found = [entry for entry in list_ports.comports() if entry.vid is not None]
    return [
        UsbPort(
            device=entry.device,
            vendor_id=entry.vid,
            product_id=entry.pid,
            serial_number=entry.serial_number,
            description=entry.description,
            by_id=by_id_path(entry.device, by_id_folder),
        )
        for entry in sorted(found, key=lambda entry: entry.device)
    ]


def by_id_path(device: str, by_id_folder: Path = BY_ID_FOLDER) -> str | None:
    """Return the path under /dev/serial/by-id that leads to `device`; None when there is none."""
    target = Path(device).resolve()
    try:
        links: Sequence[Path] = sorted(by_id_folder.iterdir())
    except OSError:
        return None
    return next((str(link) for link in links if link.resolve() == target), None)
