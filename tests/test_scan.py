"""What `molmoact-arm scan` says about ports and the servos behind them."""

import pytest
from emulated_arm import START_DEG
from scripted_console import ScriptedConsole

from firmware_bridge import registers, scan_command, usb_ports
from firmware_bridge.bus import Bus
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.faults import Faults, ReplyFault
from firmware_bridge.emulator.memory_transport import MemoryTransport
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.errors import PortError
from firmware_bridge.port_options import UserError
from firmware_bridge.registers import Register


def emulated(faults=None):
    return EmulatedBus(RotorPlant(6, start_deg=START_DEG), faults=faults)


def scan(servos, baud_rate=None, ids=range(1, 9), echo=False):
    """Return (how many were found, what was printed, the rates that were opened)."""
    console, rates = ScriptedConsole(), []

    def open_at(rate):
        rates.append(rate)
        transport = MemoryTransport(servos, rate)
        return Bus(transport, clock=transport.clock, echo=echo)

    found = scan_command.scan_port(console, open_at, list(ids), baud_rate, echo=echo)
    return found, console.words(), rates


def test_a_healthy_arm_is_a_line_a_servo():
    found, lines, rates = scan(emulated())
    assert found == len(lines) == 6
    assert rates == [1_000_000]
    assert lines[2] == "id 3 model 777 (sts3215) firmware 3.10 12 V build 12.0 V 24 C ok"


@pytest.mark.parametrize(
    ("register", "value", "text"),
    [
        (registers.MAX_VOLTAGE_LIMIT, 80, "7.4 V build 12.0 V 24 C voltage"),
        (registers.MODEL_NUMBER, 2825, "model 2825 (sts3250)"),
        (registers.MODEL_NUMBER, 9, "model 9 (unknown)"),
        (registers.FIRMWARE_MINOR_VERSION, 6, "firmware 3.6"),
    ],
)
def test_what_differs_about_a_servo_is_in_its_line(register: Register, value, text):
    servos = emulated()
    servos.servos[1].restore_eeprom({register: value})
    _, lines, _ = scan(servos)
    assert text in lines[1]
    assert text not in lines[0]


@pytest.mark.parametrize("index", range(1, len(registers.BAUD_RATES)))
def test_servos_at_another_rate_are_found_and_the_rate_is_said(index):
    servos = emulated()
    for servo in servos.servos:
        servo.restore_eeprom({registers.BAUD_RATE: index})
    found, lines, _ = scan(servos)
    rate = registers.BAUD_RATES[index]
    assert found == 6
    assert lines[-1].startswith(f"these answer at {rate} baud, the arm needs 1000000: run ")


def test_a_given_rate_is_the_only_one_tried():
    found, lines, rates = scan(emulated(), baud_rate=500_000)
    assert (found, lines, rates) == (0, [], [500_000])


def test_an_empty_bus_is_searched_at_every_rate():
    found, _, rates = scan(emulated(Faults(missing=frozenset(range(1, 7)))))
    assert found == 0
    assert len(rates) == len(set(rates)) == 9


def test_damaged_replies_raise_the_suspicion_of_a_shared_id():
    faults = Faults(replies=(ReplyFault("corrupt", ids=frozenset({4}), probability=0.5),))
    _, lines, _ = scan(emulated(faults))
    suspects = [line for line in lines if "may share this id" in line]
    assert [line[:5] for line in suspects] == ["id 4:"]


def test_an_echoing_adapter_is_named_before_it_is_believed():
    servos = emulated(Faults(echo=True))
    with pytest.raises(UserError, match="returns every byte sent; set its jumper to USB"):
        scan(servos)
    found, lines, _ = scan(servos, echo=True)
    assert found == len(lines) == 6


def test_a_late_reply_does_not_make_two_servos_of_one():
    faults = Faults(replies=(ReplyFault("late", ids=frozenset({2}), delay_ms=30, after=1),))
    found, lines, _ = scan(emulated(faults))
    assert found == 6
    assert not [line for line in lines if line.startswith("id 3:")]


def test_ports_come_with_the_name_that_lasts(tmp_path, monkeypatch):
    device = tmp_path / "ttyACM0"
    device.touch()
    by_id = tmp_path / "by-id" / "usb-1a86_USB_Single_Serial_58FA-if00"
    by_id.parent.mkdir()
    by_id.symlink_to(device)

    class Port:
        vid, pid, serial_number = 0x1A86, 0x55D3, "58FA"
        description = "USB Single Serial"

    Port.device = str(device)
    monkeypatch.setattr(usb_ports.list_ports, "comports", lambda: [Port])
    (port,) = usb_ports.usb_ports(by_id.parent)
    assert port.by_id == str(by_id)
    assert port.is_adapter
    assert port.line == f"{device}  1a86:55d3  USB Single Serial  serial 58FA  {by_id}"


def test_without_a_port_there_is_nothing_to_scan():
    with pytest.raises(UserError, match="no USB serial port found; plug the arm's adapter in"):
        scan_command._scan_all(ScriptedConsole(), [], lambda port: 0)


def test_one_port_that_cannot_be_scanned_does_not_end_the_scan():
    ports = [
        usb_ports.UsbPort(f"/dev/ttyUSB{number}", 0x0403, 0x6014, None, "adapter", None)
        for number in range(3)
    ]
    ports.append(usb_ports.UsbPort("/dev/ttyUSB3", 0x2341, 0x43, None, "Arduino", None))

    def scan_port(port):
        if port == "/dev/ttyUSB0":
            raise PortError("taken")
        if port == "/dev/ttyUSB1":
            raise UserError("echo")
        return 0

    console = ScriptedConsole()
    assert scan_command._scan_all(console, ports, scan_port) == 0
    assert console.words() == [
        "/dev/ttyUSB0 0403:6014 adapter",
        "taken",
        "/dev/ttyUSB1 0403:6014 adapter",
        "echo",
        "/dev/ttyUSB2 0403:6014 adapter",
        "no servo answered; check power and cabling",
        "/dev/ttyUSB3 2341:0043 Arduino",
        "not a known servo adapter; give --port to ask it all the same",
    ]
