import json

import pytest

from firmware_bridge.emulator.faults import (
    Faults,
    FaultsError,
    ReplyFault,
    ServoFaults,
)
from firmware_bridge.emulator.faults_file import faults_from_mapping, load_faults

FULL = """
seed: 7
echo: true
missing: [3]
silent_after_missing: true
overload_clears_on: power_cycle
replies:
  - {kind: late, ids: [2], probability: 0.01, delay_ms: 40}
  - {kind: drop, after: 100, count: 1}
servos:
  4: {status_bits: 32, response_status_level: 0, torque_on_runs_to_stale_goal: true}
"""


def test_every_key_of_a_file_arrives(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text(FULL)
    assert load_faults(path) == Faults(
        seed=7,
        echo=True,
        missing=frozenset([3]),
        silent_after_missing=True,
        overload_clears_on="power_cycle",
        replies=(
            ReplyFault("late", frozenset([2]), probability=0.01, delay_ms=40.0),
            ReplyFault("drop", after=100, count=1),
        ),
        servos={4: ServoFaults(32, 0, torque_on_runs_to_stale_goal=True)},
    )


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
