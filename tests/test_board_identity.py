"""Who a board is: read on the board, every known field with its source."""

from __future__ import annotations

import dataclasses

import pytest
from fake_board import FakeBoard
from fake_boards import BOARDS, Kind

from edge.board_identity import count_cores
from edge.board_state import BoardReader
from edge.power_modes import read_power_modes
from edge.system_files import SystemFiles

EXPECTED = {
    "orin_nano_8gb": ("p3767-0005", "36.4.3", "6.2", "25W", 1, True, 8, 6),
    "orin_nx_16gb": ("p3767-0000", "36.4.4", "6.2.1", "15W", 2, False, 4, 4),
    "agx_orin_64gb": ("p3701-0005", "36.5.0", "6.2.2", "MODE_30W", 2, False, 8, 8),
    "thor_t5000": ("p3834-0008", "38.2.0", "7.0", "120W", 1, False, None, 14),
    "xavier_nx_8gb": ("p3668-0000", "35.6.4", "5.1.6", "MODE_10W_DESKTOP", 1, False, 6, 4),
    "raspberry_pi_5_8gb": (None, None, None, None, None, None, None, 4),
    "pc": (None, None, None, None, None, None, None, 8),
}


def identity_of(root, kind, **changes):
    board = FakeBoard(root, dataclasses.replace(kind, **changes))
    return BoardReader(board.root).identity()


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_says_who_it_is_and_where_that_was_read(tmp_path, name):
    identity = identity_of(tmp_path, BOARDS[name])
    assert identity.module == (None if name == "pc" else name)
    found = (
        identity.part_number,
        identity.l4t,
        identity.jetpack,
        identity.power_mode,
        identity.power_mode_id,
        identity.is_super,
        identity.active_sms,
        identity.cores_online,
    )
    assert found == EXPECTED[name]
    assert identity.memory_total_mib == pytest.approx(BOARDS[name].memory_kib / 1024, abs=0.1)
    known = {
        field.name
        for field in dataclasses.fields(identity)
        if field.name != "sources" and getattr(identity, field.name) is not None
    }
    assert set(identity.sources) == known


def test_a_computer_without_a_device_tree_is_named_by_its_processor(tmp_path):
    identity = identity_of(tmp_path, BOARDS["pc"])
    assert identity.name == BOARDS["pc"].cpu_model
    assert identity.sources["name"] == "/proc/cpuinfo"


def test_an_empty_root_says_nothing_and_does_not_fail(tmp_path):
    reader = BoardReader(tmp_path)
    identity, state = reader.identity(), reader.state()
    assert identity.module is None
    assert identity.cores_online is None
    assert identity.memory_total_mib is None
    assert state.temperatures_c == {}
    assert state.throttled is None
    assert state.memory_available_mib is None


@pytest.mark.parametrize(
    ("spec", "compatible", "part"),
    [
        ("3767-300-0003-S.1-1-1-x-", ("nvidia,p3767-0005",), "p3767-0003"),
        (None, ("nvidia,p3768-0000+p3767-0004", "nvidia,tegra234"), "p3767-0004"),
    ],
)
def test_boot_control_names_the_module_and_the_device_tree_where_it_is_silent(
    tmp_path, spec, compatible, part
):
    kind = BOARDS["orin_nano_8gb"]
    assert identity_of(tmp_path, kind, spec=spec, compatible=compatible).part_number == part


def test_a_compatible_spec_names_the_module_when_nothing_else_does(tmp_path):
    board = FakeBoard(
        tmp_path, dataclasses.replace(BOARDS["orin_nano_8gb"], spec=None, compatible=())
    )
    board.write(
        "etc/nv_boot_control.conf", "COMPATIBLE_SPEC 3767--0005--1--jetson-orin-nano-devkit-"
    )
    assert BoardReader(board.root).identity().module == "orin_nano_8gb"


@pytest.mark.parametrize(
    ("model", "gib", "module"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", 7.4, "orin_nano_8gb"),
        ("NVIDIA Jetson Orin Nano Developer Kit", 3.4, "orin_nano_4gb"),
        ("NVIDIA Jetson Orin NX", 15.2, "orin_nx_16gb"),
        ("NVIDIA Jetson AGX Thor Developer Kit", 122.8, "thor_t5000"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 29.0, None),  # devkit and 32GB module have 32 GB
    ],
)
def test_memory_tells_modules_apart_only_where_it_can(tmp_path, model, gib, module):
    kind = Kind(model=model, memory_kib=round(gib * (1 << 20)))
    assert identity_of(tmp_path, kind).module == module


def test_a_part_that_is_not_known_is_no_module_even_if_memory_would_fit(tmp_path):
    identity = identity_of(tmp_path, BOARDS["orin_nano_8gb"], spec="3767-300-0099-S.1-1-1-x-")
    assert identity.part_number == "p3767-0099"
    assert identity.module is None


def test_a_pi_5_with_less_memory_is_not_the_8gb_one(tmp_path):
    identity = identity_of(tmp_path, BOARDS["raspberry_pi_5_8gb"], memory_kib=4 << 20)
    assert identity.module is None
    assert identity.name.startswith("Raspberry Pi 5")


def test_super_is_read_from_the_flashed_state_or_the_modes_on_disk(tmp_path):
    nano = BOARDS["orin_nano_8gb"]
    plain = {"spec": "3767-300-0005-X.1-1-1-jetson-orin-nano-devkit-", "conf": "nvpmodel.conf"}
    assert identity_of(tmp_path / "modes", nano, **plain).is_super
    without = identity_of(tmp_path / "none", nano, **plain, modes=nano.modes[:2])
    assert without.is_super is False


def test_modes_are_those_of_the_board_with_their_limits(tmp_path):
    FakeBoard(tmp_path, BOARDS["orin_nano_8gb"])
    modes = read_power_modes(SystemFiles(tmp_path))
    assert [(mode.id, mode.name) for mode in modes.modes] == [
        (0, "15W"),
        (1, "25W"),
        (2, "MAXN_SUPER"),
    ]
    assert modes.default_id == 1
    mode = modes.by_name("25W")
    assert (mode.cpu_mhz, mode.gpu_mhz, mode.emc_mhz) == (1344.0, 918.0, 3199.0)
    assert (mode.cores_online, mode.tpc_mask, mode.fbp_mask) == (6, 240, 2)
    uncapped = modes.by_name("MAXN_SUPER")
    assert (uncapped.cpu_mhz, uncapped.gpu_mhz, uncapped.emc_mhz) == (None, None, None)


def test_modes_that_are_commented_out_are_none(tmp_path):
    FakeBoard(tmp_path, BOARDS["orin_nano_8gb"])
    conf = tmp_path / "etc/nvpmodel.conf"
    before = read_power_modes(SystemFiles(tmp_path))
    old = "#< POWER_MODEL ID=9 NAME=MAXN_SUPER >\n#CPU_ONLINE CORE_0 1\n"
    conf.write_text(f"# < PM_CONFIG DEFAULT=9 >\n{old}{conf.read_text()}\n  {old}")
    assert read_power_modes(SystemFiles(tmp_path)) == before


def test_a_switched_mode_is_seen_with_its_cores_and_sms(tmp_path):
    board = FakeBoard(tmp_path, BOARDS["orin_nx_16gb"])
    reader = BoardReader(board.root)
    board.set_mode(0)
    identity = reader.identity()
    assert (identity.power_mode, identity.active_sms, identity.cores_online) == ("MAXN", 8, 8)


def test_nvpmodel_is_asked_where_it_keeps_no_status(tmp_path):
    board = FakeBoard(tmp_path, BOARDS["orin_nano_8gb"])
    (board.root / "var/lib/nvpmodel/status").unlink()
    identity = BoardReader(board.root, run=board.run).identity()
    assert (identity.power_mode, identity.power_mode_id) == ("25W", 1)
    assert identity.sources["power_mode"] == "nvpmodel -q"
    assert BoardReader(board.root).identity().power_mode is None


def test_the_mask_of_the_mode_stands_in_for_an_unreadable_one(tmp_path):
    identity = identity_of(tmp_path, BOARDS["orin_nano_8gb"], tpc_mask_path=None)
    assert identity.sm_mask is None  # the fake file of modes has none either
    board = FakeBoard(tmp_path / "conf", BOARDS["orin_nano_8gb"])
    (board.root / board.kind.tpc_mask_path).unlink()
    identity = BoardReader(board.root).identity()
    assert (identity.sm_mask, identity.active_sms) == (240, 8)
    assert "mode 25W" in identity.sources["sm_mask"]


@pytest.mark.parametrize(
    ("text", "cores"), [("0-3,6", 5), ("0", 1), ("", None), (None, None), ("0-x", None)]
)
def test_cores_are_counted_from_ranges(text, cores):
    assert count_cores(text) == cores
