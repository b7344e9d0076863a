"""What a release is made of besides code: unit, udev rule, profiles; and fleets."""

from __future__ import annotations

import configparser
import errno
import os
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from deploy import cli
from deploy.device.errors import os_error_text
from deploy.device.supervisor import START_BURST, START_INTERVAL_S, STOP_S, WATCHDOG_S
from deploy.errors import FlashError
from deploy.fleet_command import _batches, inventory_hosts
from deploy.profile_files import profile_files
from deploy.push_command import best_python, fitting
from edge.config_section import ProfileError
from edge.profile import load_profile

SYSTEM = Path(str(resources.files("deploy").joinpath("system")))


@pytest.fixture(scope="module")
def unit():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(SYSTEM / "molmoact-edge.service")
    return parser


def test_unit_and_supervisor_follow_the_same_rules(unit):
    assert float(unit["Unit"]["StartLimitIntervalSec"]) == START_INTERVAL_S
    assert int(unit["Unit"]["StartLimitBurst"]) == START_BURST
    assert float(unit["Service"]["WatchdogSec"]) == WATCHDOG_S
    assert float(unit["Service"]["TimeoutStopSec"]) >= STOP_S
    assert unit["Service"]["RestartPreventExitStatus"] == "2"


def test_the_watchdog_process_of_the_arm_outlives_the_service(unit):
    assert unit["Service"]["KillMode"] == "process"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_understands_the_unit_and_finds_it_tight():
    path = str(SYSTEM / "molmoact-edge.service")
    verify = subprocess.run(
        ["systemd-analyze", "verify", path], capture_output=True, text=True, check=False
    )
    complaints = [line for line in verify.stderr.splitlines() if "molmoact" in line]
    assert [line for line in complaints if "is not executable" not in line] == []
    security = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in security.stderr:
        pytest.skip("this systemd cannot rate a file")
    assert security.returncode == 0, security.stdout[-400:]


def test_the_udev_rule_names_every_adapter_that_scan_knows():
    text = (SYSTEM / "60-molmoact-arm.rules").read_text()
    rules = [line for line in text.splitlines() if line and not line.startswith("#")]
    for vendor, product in (("1a86", "55d3"), ("1a86", "55d4"), ("1a86", "7523"), ("0403", "6001")):
        matching = [rule for rule in rules if vendor in rule and product in rule]
        assert len(matching) == 1
        assert 'SYMLINK+="molmoact-arm"' in matching[0]


def test_a_shipped_profile_travels_by_name():
    argument, files, profile = profile_files("orin_nano_8gb_25w")
    assert (argument, files) == ("orin_nano_8gb_25w", {})
    assert profile.board.hardware.module == "orin_nano_8gb"


def test_a_profile_of_ones_own_travels_with_its_files(tmp_path):
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "quiet.yaml").write_text("name: quiet\nbased_on: generic_cpu\n")
    text = "name: mine\nbased_on: so101\nboard: boards/quiet.yaml\ncalibration: arm.json\n"
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "arm.json").write_text("{}")
    argument, files, profile = profile_files(str(tmp_path / "mine.yaml"))
    assert set(files) == {"profile/mine.yaml", "profile/boards/quiet.yaml", "profile/arm.json"}
    there = tmp_path / "device"
    for name, content in files.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(content)
    arrived = load_profile(str(there / argument))
    assert arrived.board == profile.board
    assert arrived.calibration == there / "profile" / "arm.json"


def test_a_profile_with_files_elsewhere_is_refused(tmp_path):
    (tmp_path / "quiet.yaml").write_text("name: quiet\nbased_on: generic_cpu\n")
    (tmp_path / "robots").mkdir()
    path = tmp_path / "robots" / "mine.yaml"
    path.write_text("name: mine\nbased_on: so101\nboard: ../quiet.yaml\n")
    with pytest.raises(FlashError, match="put the files of a profile in its folder"):
        profile_files(str(path))


def test_a_board_that_cannot_be_used_is_refused_before_anything_is_built():
    with pytest.raises(ProfileError, match="refused"):
        profile_files("orin_nano_4gb")


def test_the_oldest_python_of_a_device_is_taken():
    assert best_python({"pythons": {"3.12": "/a", "3.10": "/b"}}) == "3.10"
    with pytest.raises(FlashError, match="--python PATH"):
        best_python({"pythons": {}})


def test_no_release_for_a_device_names_those_there_are():
    class Made:
        def __init__(self, machine, python):
            self.manifest = type("M", (), {"machine": machine, "python": python})

    made = [Made("aarch64", "3.10"), Made("aarch64", "3.12")]
    facts = {"machine": "aarch64", "pythons": {"3.12": "/usr/bin/python3.12"}}
    assert fitting(made, facts) is made[1]
    with pytest.raises(FlashError, match=r"there are: aarch64 Python 3\.10, aarch64 Python 3\.12"):
        fitting(made, {"machine": "x86_64", "pythons": {"3.12": "/x"}})


def test_the_devices_of_an_inventory_are_found_in_its_order(tmp_path):
    path = tmp_path / "inventory.yaml"
    path.write_text(
        "all:\n  children:\n    canary: {hosts: {b: {}}}\n    rest: {hosts: {a: , c: }}\n"
    )
    assert inventory_hosts(path) == ["b", "a", "c"]
    path.write_text("all: {}\n")
    with pytest.raises(FlashError, match="no devices"):
        inventory_hosts(path)


def test_batches_are_numbers_or_shares():
    assert _batches("1,25%") == [1, "25%"]
    with pytest.raises(FlashError, match="--batches"):
        _batches("1,half")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["push", "h"], "give either --release"),
        (["push", "h", "--bundle", "b"], "belong together"),
        (["push", "h", "--release", "r", "--bundle", "b", "--profile", "p"], "give either"),
        (["push", "h", "--root", "r", "--release", "/nowhere"], "no connection|no release"),
    ],
)
def test_wrong_words_are_one_line(words, says, capsys):
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("molmoact-flash: error: ")
    assert re.search(says, said)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (
            errno.ENOSPC,
            r"^the device's disk is full \(/x/y\); free some with 'molmoact-flash prune'$",
        ),
        (
            errno.EROFS,
            r"^the device's user \w+ may not write \(/x/y\): Read-only .*provision again",
        ),
        (errno.EIO, "^.*Input/output error: '/x/y'$"),
    ],
)
def test_what_the_system_refuses_says_what_helps(number, says):
    assert re.search(says, os_error_text(OSError(number, os.strerror(number), "/x/y")))
