"""jetson-stats, faked by its attributes: preferred while it answers, then forgotten."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from fake_board import FakeBoard
from fake_boards import BOARDS

from edge.board_state import BoardReader
from edge.jtop_source import JtopSource, open_jtop


class JtopError(Exception):
    """Stands for jtop.JtopException."""


class FakeJtop:
    """The attributes of jtop.jtop that are read, with values of an Orin Nano."""

    def __init__(self):
        self.running, self.closed = True, False
        self.temperature = {
            "cpu": {"temp": 61.5, "online": True},
            "tj": {"temp": 63.0, "online": True},
            "cv0": {"temp": -256, "online": False},
        }
        self.cpu = {
            "cpu": [
                {"online": True, "freq": {"cur": 1190400, "max": 1344000, "min": 115200}},
                {"online": False},
            ]
        }
        self.gpu = {"gpu": {"freq": {"cur": 816000, "max": 918000}, "status": {"load": 71.0}}}
        self.memory = {"EMC": {"cur": 2133000, "max": 3199000}}
        self.power = {
            "rail": {"VDD_SOC": {"power": 2400}, "VDD_CPU_GPU_CV": {"power": 7300}},
            "tot": {"power": 14100, "name": "VDD_IN"},
        }
        self.nvpmodel = SimpleNamespace(id=2, name="MAXN_SUPER")
        self.board = {"hardware": {"P-Number": "p3767-0003"}}

    def start(self):
        pass

    def ok(self, spin=False):
        assert spin, "a blocking question"
        if self.running is None:
            raise JtopError("Lost connection with jtop server")
        return self.running

    def close(self):
        self.closed = True


def module_of(client):
    return SimpleNamespace(jtop=lambda: client, JtopException=JtopError)


def opened(client):
    source = open_jtop(lambda name: module_of(client))
    assert source is not None
    return source


def test_its_values_come_in_our_units():
    source = opened(FakeJtop())
    assert source.temperatures_c() == {"cpu": 61.5, "tj": 63.0}
    assert source.clocks_mhz() == (
        {"cpu": 1190.4, "gpu": 816.0, "emc": 2133.0},
        {"cpu": 1344.0, "gpu": 918.0, "emc": 3199.0},
    )
    rails = {"VDD_SOC": 2400.0, "VDD_CPU_GPU_CV": 7300.0}
    assert source.power_mw() == (rails, 14100.0, "VDD_IN, by jtop")
    assert source.part_number() == "p3767-0003"


def test_a_board_prefers_it_to_files(tmp_path):
    board = FakeBoard(tmp_path, BOARDS["orin_nano_8gb"])
    reader = BoardReader(board.root, jtop=opened(FakeJtop()))
    identity, state = reader.identity(), reader.state()
    assert (identity.part_number, identity.power_mode_id) == ("p3767-0003", 2)
    assert identity.sources["power_mode"] == "jtop"
    assert reader.mode_limits().name == "MAXN_SUPER"
    assert state.temperatures_c == {"cpu": 61.5, "tj": 63.0, "gpu": 45.0, "soc0": 45.0}
    assert state.headroom_c == 36.0
    assert state.total_mw == 14100.0


def test_files_speak_again_when_its_service_ends(tmp_path):
    board = FakeBoard(tmp_path, BOARDS["orin_nano_8gb"])
    client = FakeJtop()
    reader = BoardReader(board.root, jtop=opened(client))
    client.running = None
    state = reader.state()
    assert state.temperatures_c["tj"] == 45.0
    assert state.power_note == "VDD_IN"
    assert reader.identity().sources["power_mode"] == "/var/lib/nvpmodel/status"
    client.running = True
    assert reader.state().temperatures_c["tj"] == 45.0  # once gone it is not asked again


@pytest.mark.parametrize("value", [None, {}, {"cpu": [{}]}, {"any": {"temp": None, "freq": {}}}])
@pytest.mark.parametrize("attribute", ["temperature", "cpu", "gpu", "power", "nvpmodel", "board"])
def test_what_a_version_lacks_or_says_otherwise_is_unknown(attribute, value):
    client = FakeJtop()
    setattr(client, attribute, value)
    source = JtopSource(client)
    asked = {
        "temperature": source.temperatures_c() == {},
        "cpu": "cpu" not in source.clocks_mhz()[0],
        "gpu": "gpu" not in source.clocks_mhz()[0],
        "power": source.power_mw() == ({}, None, ""),
        "nvpmodel": source.power_mode() is None,
        "board": source.part_number() is None,
    }
    assert asked[attribute]


def test_it_is_optional():
    def absent(name):
        raise ImportError(name)

    assert open_jtop(absent) is None


def test_a_service_that_refuses_is_as_good_as_none():
    client = FakeJtop()

    def refuse():
        raise JtopError("The jtop.service is not active")

    client.start = refuse
    assert open_jtop(lambda name: module_of(client)) is None


def test_a_service_that_hangs_is_not_waited_for():
    client, released = FakeJtop(), threading.Event()
    client.start = released.wait
    assert open_jtop(lambda name: module_of(client), open_s=0.01) is None
    released.set()
