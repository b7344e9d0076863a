import grp
import os
import pwd
from pathlib import Path

import pytest

from firmware_bridge.latency_timer import latency_ms, request_low_latency
from firmware_bridge.port_remedies import (
    absence_remedy,
    latency_remedy,
    meddler_remedy,
    permission_remedy,
)

USER = pwd.getpwuid(os.getuid()).pw_name
DIALOUT = grp.struct_group(("dialout", "x", 987, [USER]))


@pytest.fixture
def port(tmp_path):
    path = tmp_path / "ttyUSB0"
    path.touch()
    path.chmod(0o660)
    return path


def belongs_to(monkeypatch, group, mode=0o660):
    """Have every port belong to `group`, and this user be logged in with none."""
    monkeypatch.setattr("firmware_bridge.port_remedies._owner", lambda port: (mode, group))
    monkeypatch.setattr("firmware_bridge.port_remedies.os.getgroups", list)


def run_process(proc_root, name):
    (proc_root / "77").mkdir()
    (proc_root / "77" / "comm").write_text(f"{name}\n")


def set_latency(sys_root, text):
    path = sys_root / "bus/usb-serial/devices/ttyUSB0/latency_timer"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


class Adapter:
    """As much of a serial port as setting the latency touches."""

    def __init__(self, port, refusal=None):
        self.port = port
        self.refusal = refusal
        self.low_latency = False

    def set_low_latency_mode(self, wanted):
        if self.refusal:
            raise self.refusal
        self.low_latency = wanted


def test_low_latency_is_set_where_allowed(port, tmp_path):
    path = set_latency(tmp_path, "16\n")
    adapter = Adapter(str(port))
    request_low_latency(adapter, tmp_path)
    assert adapter.low_latency
    assert latency_ms(str(port), tmp_path) == 1
    assert path.read_text() == "1"


def test_adapter_that_knows_no_low_latency_is_left_as_it_is(port, tmp_path):
    request_low_latency(Adapter(str(port), ValueError("not supported")), tmp_path)
    assert latency_ms(str(port), tmp_path) is None


def test_latency_is_mended_now_and_for_good():
    remedy = latency_remedy(Path("/sys/bus/usb-serial/devices/ttyUSB0/latency_timer"))
    assert "'echo 1 | sudo tee /sys/bus/usb-serial/devices/ttyUSB0/latency_timer' now" in remedy
    assert 'ATTR{latency_timer}="1"' in remedy
    assert "sudo tee /etc/udev/rules.d/99-servo-latency.rules" in remedy


def test_user_outside_the_group_is_told_the_group_and_the_command(monkeypatch):
    belongs_to(monkeypatch, grp.struct_group(("dialout", "x", 987, [])))
    assert permission_remedy("/dev/ttyUSB0") == (
        f"it belongs to group dialout, {USER} is in no group; run "
        f"'sudo usermod -aG dialout {USER}' and log in again"
    )


def test_member_who_has_not_logged_in_again_is_told_so(monkeypatch):
    belongs_to(monkeypatch, DIALOUT)
    assert permission_remedy("/dev/ttyUSB0") == (
        f"{USER} is in group dialout but logged in before; log out and in again"
    )


@pytest.mark.parametrize(("group_id", "mode"), [(0, 0o660), (987, 0o600)])
def test_port_that_no_group_may_use_is_given_to_one(monkeypatch, group_id, mode):
    belongs_to(monkeypatch, grp.struct_group(("some", "x", group_id, [])), mode)
    assert "run 'sudo chgrp dialout /dev/x; sudo chmod 660 /dev/x'" in permission_remedy("/dev/x")


def test_port_is_looked_at_for_its_group(port):
    group = grp.getgrgid(port.stat().st_gid)
    assert group.gr_name in permission_remedy(str(port)) or group.gr_gid == 0


def test_absent_port_names_the_usual_group():
    assert f"sudo usermod -aG dialout {USER}" in permission_remedy("/dev/none")


def test_braille_driver_that_takes_adapters_is_named(tmp_path):
    assert "brltty" not in absence_remedy(tmp_path)
    run_process(tmp_path, "brltty")
    assert "sudo apt remove brltty" in absence_remedy(tmp_path)


def test_modem_manager_is_named(tmp_path):
    assert meddler_remedy(tmp_path) is None
    run_process(tmp_path, "ModemManager")
    assert "sudo systemctl disable --now ModemManager" in meddler_remedy(tmp_path)
