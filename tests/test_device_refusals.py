"""What a device turns away, asked the way a session asks."""

from __future__ import annotations

import shutil
import time

import pytest

from deploy.device import facts as facts_module
from deploy.device.errors import DeviceError, RefusedError
from deploy.device.facts import check_clock, check_device, device_facts
from deploy.device.layout import Config, Layout, read_config
from deploy.device.objects import missing_objects
from deploy.device.offer import consider
from deploy.device.provisioning import allowed_keys, provision
from deploy.device.settings import read_settings, store_settings
from deploy.device.signature import read_allowed_keys
from deploy.device.state import State, read_state, write_state
from deploy.practice_release import make_key, practice_release

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here")
CONFIG = Config("supervisor", None, None)


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return make_key(tmp_path_factory.mktemp("key"), "team")


@pytest.fixture(scope="module")
def release(key, tmp_path_factory):
    return practice_release(tmp_path_factory.mktemp("release") / "r", 7, key, bundle_kib=4)


@pytest.fixture
def layout(tmp_path, key):
    layout = Layout(tmp_path / "root")
    archive = tmp_path / "agent.pyz"
    archive.write_bytes(b"agent")
    keys = allowed_keys([key.with_suffix(".pub").read_text()])
    provision(layout, keys, archive, None, None, None, False, lambda line: None)
    return layout


def offered(layout, release, **wishes):
    request = {
        "manifest": release.manifest.content.decode(),
        "signature": release.signature.decode(),
    }
    return consider(layout, CONFIG, {**request, **wishes})


def test_a_signed_release_for_this_machine_is_wanted_whole(layout, release):
    offer = offered(layout, release, clock_s=time.time())
    assert offer.signer == "team"
    missing = missing_objects(layout, offer.manifest.objects())
    assert sum(entry["size"] for entry in missing) == release.total_bytes


def test_an_older_release_must_be_asked_for_by_its_name(layout, release):
    write_state(layout, State({"newest_sequence": release.manifest.sequence + 1}))
    with pytest.raises(RefusedError, match=f"--older {release.manifest.id}"):
        offered(layout, release)
    with pytest.raises(RefusedError, match="is older than"):
        offered(layout, release, older="20260101000001-another")
    assert offered(layout, release, older=release.manifest.id)


def test_a_second_release_with_the_same_number_is_refused(layout, release):
    newest = {"newest_sequence": release.manifest.sequence, "newest_manifest": "0" * 64}
    write_state(layout, State(newest))
    with pytest.raises(RefusedError, match="build it again"):
        offered(layout, release)


def test_another_robots_profile_must_be_asked_for_by_name(layout, release):
    write_state(layout, State({"profile_name": "so101"}))
    with pytest.raises(RefusedError, match="--change-profile so101"):
        offered(layout, release)
    assert offered(layout, release, change_profile="so101")


def test_nothing_is_taken_where_the_record_of_the_newest_is_damaged(layout, release):
    layout.state.write_text("{")
    with pytest.raises(DeviceError, match="--forget-state"):
        offered(layout, release)


def test_a_clock_far_off_is_refused():
    with pytest.raises(RefusedError, match="hours behind"):
        check_clock({"clock_s": 0.0}, 1e9)
    check_clock({"clock_s": 100.0}, 130.0)


def facts_of(release, **other):
    good = {
        "machine": release.manifest.machine,
        "pythons": {release.manifest.python: "/usr/bin/python3"},
        "free_bytes": 10 << 30,
        "memory_total_mib": 7620,
        "part_number": None,
        "cuda": False,
    }
    return {**good, **other}


@pytest.mark.parametrize(
    ("facts", "needs", "says"),
    [
        ({"machine": "riscv64"}, {}, "this device is riscv64"),
        ({"pythons": {}}, {}, "none from 3.10 to 3.13"),
        ({"free_bytes": 100 << 20}, {}, "100 MiB of disk are free"),
        ({}, {"memory_mib": 7100}, "take 7100 MiB"),
        ({}, {"part_numbers": ["p3767-0005"]}, "does not say that it is one"),
        ({"part_number": "p3701-0005"}, {"part_numbers": ["p3767-0005"]}, "module is p3701-0005"),
        ({}, {"provider": "CUDAExecutionProvider"}, "no CUDA driver"),
    ],
)
def test_a_device_that_does_not_fit_says_why(release, monkeypatch, facts, needs, says):
    for name, value in needs.items():
        monkeypatch.setattr(release.manifest.needs, name, value)
    with pytest.raises(RefusedError, match=says):
        check_device(release.manifest, facts_of(release, **facts), 1000)


def test_a_device_that_fits_is_taken(release, monkeypatch):
    monkeypatch.setattr(release.manifest.needs, "part_numbers", ["p3767-0003", "p3767-0005"])
    check_device(release.manifest, facts_of(release, part_number="p3767-0005"), 1000)


def test_a_jetson_is_known_by_its_boot_control_file(layout, tmp_path):
    board = tmp_path / "board"
    (board / "etc").mkdir(parents=True)
    (board / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")
    spec = "TNSPEC 3767-300-0005-N.3-1-1-jetson-orin-nano-devkit-super-\nCOMPATIBLE_SPEC 3767--\n"
    (board / "etc" / "nv_boot_control.conf").write_text(spec)
    facts = device_facts(layout, CONFIG, board)
    assert (facts["l4t"], facts["part_number"]) == ("36.4.3", "p3767-0005")
    assert facts["cuda"] is False


def test_a_jetson_is_known_by_its_device_tree_where_that_file_is_missing(tmp_path):
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    compatible = b"nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0"
    (tmp_path / "proc" / "device-tree" / "compatible").write_bytes(compatible)
    assert facts_module._part_number(tmp_path) == "p3767-0005"


def test_settings_are_kept_and_wrong_ones_refused(layout):
    stored = store_settings(layout, {"tasks": ["lift it"], "calibrations": ['{"gripper": {}}']})
    assert stored == read_settings(layout)
    assert stored["tasks"] == ["lift it"]
    assert stored["ports"] == ["/dev/molmoact-arm"]
    assert (layout.root / "calibration-0.json").read_text() == '{"gripper": {}}'
    for wrong in ({"tasks": "x"}, {"depth": "deep"}, {"accept": ["all"]}, {"calibrations": ["{"]}):
        with pytest.raises(RefusedError):
            store_settings(layout, wrong)


def test_there_is_nothing_to_accept_before_a_release(layout):
    with pytest.raises(RefusedError, match="flash one first"):
        store_settings(layout, {"tasks": ["lift it"], "accept": ["unjudged"]})
    assert read_settings(layout)["tasks"] == []


def test_refused_settings_change_no_calibration(layout):
    store_settings(layout, {"calibrations": ['{"gripper": {}}']})
    with pytest.raises(RefusedError, match="calibration 2"):
        store_settings(layout, {"calibrations": ['{"elbow": {}}', "{"]})
    assert (layout.root / "calibration-0.json").read_text() == '{"gripper": {}}'
    assert read_settings(layout)["calibrations"] == 1


def test_a_python_that_is_none_is_refused_though_others_are_there(layout):
    keys = read_allowed_keys(layout.keys)
    with pytest.raises(DeviceError, match=r"/opt/nowhere/python3\.10 is no Python"):
        provision(layout, keys, layout.agent, None, None, "/opt/nowhere/python3.10", False, print)
    assert read_config(layout).python is None


def test_provisioning_again_changes_keys_and_keeps_state(layout, key, tmp_path):
    write_state(layout, State({"newest_sequence": 20260101000009}))
    other = make_key(tmp_path, "new-team")
    keys = allowed_keys([other.with_suffix(".pub").read_text()])
    provision(layout, keys, layout.agent, None, None, None, False, lambda line: None)
    assert "new-team" in layout.keys.read_text()
    assert "\nteam" not in "\n" + layout.keys.read_text()
    assert read_state(layout).newest_sequence == 20260101000009
