import json

import pytest
import yaml
from emulated_arm import ROOT

from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.faults import (
    SWITCHES,
    Event,
    Faults,
    FaultsError,
    ReplyFault,
    ServoFaults,
)
from firmware_bridge.emulator.faults_file import FaultsWatch, faults_from_mapping, load_faults
from firmware_bridge.emulator.plant import RotorPlant

FULL = """
seed: 7
echo: true
missing: [3]
silent_after_missing: true
adapter_ms: 1
build: 7.4v
supply_v: 5.1
supply_ohm: 0.3
brown_out_below_v: 4
overload_clears_on: power_cycle
return_delay: ignored
replies:
  - {kind: late, ids: [2], probability: 0.01, delay_ms: 40}
  - {kind: drop, after: 100, count: 1}
events:
  - {kind: brown_out, at_s: 12}
  - {kind: block, ids: [1, 2], every_s: 3, duration_s: 0.5}
  - {kind: sag, value: 9}
  - {kind: register, register: id, value: 4, ids: [5]}
servos:
  4: {status_bits: 32, response_status_level: 0, torque_on_runs_to_stale_goal: true}
  6: {registers: {phase: 28, homing_offset: -5}}
"""


def test_every_key_of_a_file_arrives(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text(FULL)
    assert load_faults(path) == Faults(
        seed=7,
        echo=True,
        missing=frozenset([3]),
        silent_after_missing=True,
        adapter_ms=1.0,
        build="7.4v",
        supply_v=5.1,
        supply_ohm=0.3,
        brown_out_below_v=4.0,
        overload_clears_on="power_cycle",
        return_delay="ignored",
        replies=(
            ReplyFault("late", frozenset([2]), probability=0.01, delay_ms=40.0),
            ReplyFault("drop", after=100, count=1),
        ),
        events=(
            Event("brown_out", at_s=12.0),
            Event("block", ids=frozenset([1, 2]), every_s=3.0, duration_s=0.5),
            Event("sag", value=9.0),
            Event("register", ids=frozenset([5]), register="id", value=4.0),
        ),
        servos={
            4: ServoFaults(32, 0, torque_on_runs_to_stale_goal=True),
            6: ServoFaults(registers={"phase": 28, "homing_offset": -5}),
        },
    )


def test_the_first_choice_of_a_switch_is_its_default():
    assert {key: getattr(Faults(), key) for key in SWITCHES} == {
        key: choices[0] for key, choices in SWITCHES.items()
    }


def test_faults_file_of_the_documentation_is_one():
    text = (ROOT / "docs" / "servo_bus.md").read_text()
    block = text.split("### Faults file")[1].split("```yaml")[1].split("```")[0]
    faults = faults_from_mapping(yaml.safe_load(block))
    assert len(faults.events) == 3
    EmulatedBus(RotorPlant(6), faults=faults)
    for key in SWITCHES:
        assert f"`{key}`" in text


def test_json_says_the_same(tmp_path):
    path = tmp_path / "faults.json"
    path.write_text(json.dumps({"missing": [3], "servos": {"4": {"status_bits": 32}}}))
    faults = load_faults(path)
    assert faults.missing == {3}
    assert faults.servos == {4: ServoFaults(status_bits=32)}


def test_empty_file_means_no_faults(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text("")
    assert load_faults(path) == Faults()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"\[\] is not a mapping"),
        ({"ecko": True}, "unknown key 'ecko'; known are seed, echo"),
        ({"echo": 1}, "echo is 1, allowed is true or false"),
        ({"seed": -1}, "seed is -1, allowed is 0"),
        ({"missing": 3}, "missing is 3, allowed is a list"),
        ({"missing": [300]}, r"missing: 300 is not a servo id, 0\.\.253"),
        ({"overload_clears_on": "hope"}, "'hope', allowed is goal_write or power_cycle"),
        ({"replies": [{"kind": "lose"}]}, r"replies\[0\]: kind is 'lose', allowed is drop or late"),
        ({"replies": [{}]}, r"replies\[0\]: kind is None"),
        ({"replies": [{"kind": "late"}]}, "a late reply needs delay_ms above 0"),
        (
            {"replies": [{"kind": "drop", "probability": 2}]},
            r"probability is 2, allowed is 0\.\.1",
        ),
        ({"replies": [{"kind": "drop", "count": 0}]}, "count is 0, allowed is 1"),
        ({"build": "24v"}, "build is '24v', allowed is 12v or 7.4v"),
        ({"supply_v": "12"}, r"supply_v is '12', allowed is 0\.\.30"),
        ({"events": [{"kind": "melt"}]}, r"events\[0\]: kind is 'melt', allowed is brown_out or"),
        ({"events": [{"kind": ["hot"]}]}, r"events\[0\]: kind is \['hot'\]"),
        ({"events": [{"kind": "sag"}]}, r"events\[0\]: sag has value None, allowed is 0\.\.30"),
        ({"events": [{"kind": "hot", "duration_s": 1}]}, "hot takes no duration_s"),
        ({"events": [{"kind": "register", "register": "i", "value": 1}]}, "register is 'i'"),
        ({"events": [{"kind": "unplug", "every_s": 0}]}, r"every_s is 0, allowed is 0\.01"),
        ({"servos": {1: {"registers": {"i": 1}}}}, "'i' is not a register of the servo"),
        ({"servos": {1: {"registers": {"id": 300}}}}, r"registers: id: 300 is outside 0\.\.255"),
        ({"servos": {1: {"registers": {"id": 1.5}}}}, "id is 1.5, allowed is a whole number"),
        ({"servos": {"x": {}}}, "servos: 'x' is not a servo id"),
        ({"servos": {4: {"status_bits": 128}}}, r"servos\.4: status_bits is 128, allowed is 0"),
    ],
)
def test_bad_content_is_named_with_its_key_in_one_line(content, message):
    with pytest.raises(FaultsError, match=message) as caught:
        faults_from_mapping(content, "f.yaml")
    assert str(caught.value).startswith("f.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("f.yaml", "a: [1"), ("f.json", "{"), ("f.yaml", "a: 2020-13-45"), ("f.json", "[" * 100_000)],
)
def test_file_that_does_not_parse_is_one_line(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(FaultsError, match="is not valid YAML or JSON") as caught:
        load_faults(path)
    assert "\n" not in str(caught.value)


def test_absent_file_is_one_line(tmp_path):
    with pytest.raises(FaultsError, match="cannot be read"):
        load_faults(tmp_path / "none.yaml")


def test_file_is_read_again_when_it_was_written_and_bad_content_only_complained_about(tmp_path):
    path, used, complaints = tmp_path / "faults.yaml", [], []
    path.write_text("seed: 1")
    watch = FaultsWatch(path, used.append, complaints.append)
    watch.poll()
    assert used == []
    for text in ("seed: 22", "seed: [", "seed: 4444"):
        path.write_text(text)
        watch.poll()
        watch.poll()
    path.unlink()
    watch.poll()
    assert [faults.seed for faults in used] == [22, 4444]
    assert len(complaints) == 1
    assert complaints[0].endswith("the faults stay as they were")
