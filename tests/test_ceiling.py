"""The ceiling is the best of several ways that count what they really read and multiply."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("onnx")

from benchmarks import ceiling
from benchmarks.ceiling import Ceiling, higher, measure_ceiling
from benchmarks.cli import main

READ_BYTES, SHAPE = 1 << 20, (8, 64, 32)


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch):
    for name, value in {
        "_READ_BYTES": READ_BYTES,
        "_READ_WIDTH": 256,
        "_SHAPES": (SHAPE,),
        "_READ_S": 0.0,
        "_PRODUCT_S": 0.0,
    }.items():
        monkeypatch.setattr(ceiling, name, value)


def test_the_best_way_counts():
    found = measure_ceiling(1)
    assert found.read_gb_s == max(found.ways["read"].values()) > 0
    assert found.fp32_gflop_s == max(found.ways["fp32"].values()) > 0
    assert found.int8_gop_s == max(found.ways["int8"].values()) > 0
    assert len(found.ways["read"]) == 4
    assert {way.split()[0] for way in found.ways["int8"]} == {
        "DynamicQuantizeMatMul",
        "MatMulInteger",
    }


def test_every_way_counts_the_bytes_and_operations_it_takes(monkeypatch):
    monkeypatch.setattr(ceiling, "_best_s", lambda runs, _budget_s: dict.fromkeys(runs, 1.0))
    ways = measure_ceiling(2).ways
    narrow = ways["read"].pop("one row x INT4 matrix") * 1e9
    for rate in ways["read"].values():
        assert rate * 1e9 == pytest.approx(READ_BYTES)
    assert narrow == pytest.approx(READ_BYTES / 2 * (1 + 4 / 64))  # a scale a block of 128
    operations = 2 * np.prod(SHAPE)
    for rate in [*ways["fp32"].values(), *ways["int8"].values()]:
        assert rate * 1e9 == pytest.approx(operations)


@pytest.mark.parametrize(("kind", "dtype"), [("MatMul", np.float32), ("MatMulInteger", np.uint8)])
def test_a_product_is_really_computed(kind, dtype):
    values = np.arange(12).reshape(3, 4).astype(dtype)
    weight = np.float32 if kind == "MatMul" else np.int8
    result = np.zeros((3, 5), np.float32 if kind == "MatMul" else np.int32)
    ceiling._run(kind, values, {"matrix": ((4, 5), weight)}, result, 1)()
    assert np.array_equal(result, values.astype(int) @ np.ones((4, 5), int))


def test_ways_take_turns_and_their_shortest_time_counts(monkeypatch):
    now_s, order, costs = [0.0], [], {"a": iter([9, 3, 2, 4]), "b": iter([9, 5, 6, 7])}

    def run(way):
        order.append(way)
        now_s[0] += next(costs[way])

    monkeypatch.setattr(ceiling.time, "perf_counter", lambda: now_s[0])
    runs = {way: lambda way=way: run(way) for way in costs}
    assert ceiling._best_s(runs, budget_s=1.0) == {"a": 2, "b": 5}  # the warm-up is not counted
    assert order == ["a", "b"] * 4


def test_of_two_measurements_the_better_of_each_way_counts():
    one = Ceiling(1, 30.0, 100.0, 400.0, {"read": {"a": 30.0, "b": 20.0}, "fp32": {"c": 100.0}})
    other = Ceiling(1, 25.0, 120.0, 300.0, {"read": {"a": 10.0, "b": 25.0}, "fp32": {"c": 120.0}})
    for ways in (one.ways, other.ways):
        ways["int8"] = {"d": 400.0 if ways is one.ways else 300.0}
    best = higher(one, other)
    assert (best.read_gb_s, best.fp32_gflop_s, best.int8_gop_s) == (30.0, 120.0, 400.0)
    assert best.ways["read"] == {"a": 30.0, "b": 25.0}


def test_the_command_names_every_way_and_ends_with_json(capsys):
    assert main(["ceiling", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    report = json.loads(lines[-1])
    assert report["bench"] == "ceiling"
    assert report["threads"] == 1
    for ways in report["ways"].values():
        for way in ways:
            assert any(way in line for line in lines[:-1])
