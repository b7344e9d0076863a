"""What is drawn is what was measured, and a report that cannot be drawn is one line."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("onnx")
pytest.importorskip("matplotlib")

from benchmarks.ceiling import Ceiling
from benchmarks.cli import main
from benchmarks.plots import latency_figure, write_latency_plot

STAGES = ("preprocess", "vision", "prefill", "depth", "expert")
PNG = b"\x89PNG\r\n\x1a\n"


def row(cameras, changed_percent, horizon, scale):
    p50 = {stage: scale * (number + 1) for number, stage in enumerate(STAGES)}
    return {
        "cameras": cameras,
        "changed_percent": changed_percent,
        "horizon": horizon,
        "calls": 3,
        "stages_ms": {stage: {"p50": value} for stage, value in p50.items()},
        "call_ms": {"p50": sum(p50.values())},
        "floors_ms": {"vision": scale * 0.5, "prefill": scale * 0.25},
    }


def report():
    return {
        "bench": "latency",
        "machine": "a board, 6 cores",
        "recipe": "int4",
        "ceiling": {"read_gb_s": 50.0, "fp32_gflop_s": 300.0, "int8_gop_s": 900.0},
        "base": {"cameras": 2, "changed_percent": 30, "horizon": 30},
        "rows": [
            row(3, 30, 30, 500.0),  # out of order
            row(1, 30, 30, 100.0),
            row(2, 30, 30, 200.0),
            row(2, 0, 30, 150.0),
            row(2, None, 30, 120.0),
            row(2, 30, 15, 180.0),
        ],
    }


EXPECTED = {
    "cameras": {"1": 100.0, "2": 200.0, "3": 500.0},
    "depth cells that changed": {"no depth": 120.0, "0 %": 150.0, "30 %": 200.0},
    "horizon": {"15": 180.0, "30": 200.0},
}


def test_bars_and_floors_are_the_figures_of_the_report_in_seconds():
    figure = latency_figure(report())
    assert [axes.get_xlabel() for axes in figure.axes] == list(EXPECTED)
    for axes in figure.axes:
        expected = EXPECTED[axes.get_xlabel()]
        assert [label.get_text() for label in axes.get_xticklabels()] == list(expected)
        assert [bars.get_label() for bars in axes.containers] == list(STAGES)
        for number, bars in enumerate(axes.containers):
            heights = [bar.get_height() for bar in bars]
            assert heights == pytest.approx([s * (number + 1) / 1e3 for s in expected.values()])
            bottoms = [bar.get_y() for bar in bars]
            below = sum(range(number + 1))
            assert bottoms == pytest.approx([s * below / 1e3 for s in expected.values()])
        (floors,) = axes.collections
        drawn = [segment[0][1] for segment in floors.get_segments()]
        assert drawn == pytest.approx([s * 0.75 / 1e3 for s in expected.values()])
    title = figure.get_suptitle()
    assert "recipe int4" in title
    assert "a board, 6 cores" in title


def test_the_picture_is_a_png_1200_pixels_wide_and_small(tmp_path):
    path = tmp_path / "latency.png"
    write_latency_plot(report(), path)
    picture = path.read_bytes()
    assert picture.startswith(PNG)
    assert int.from_bytes(picture[16:20], "big") == 1200
    assert len(picture) < 200_000


def test_a_checkpoint_without_depth_is_drawn_too(tmp_path):
    plain = report()
    plain["base"]["changed_percent"] = None
    plain["rows"] = [row(1, None, 30, 1.0), row(2, None, 30, 2.0)]
    (axes,) = latency_figure(plain).axes
    assert axes.get_xlabel() == "cameras"
    assert axes.get_ylabel() == "median of a call, ms"


def test_what_latency_printed_draws_the_picture_that_it_drew(
    bundles, tmp_path, capsys, monkeypatch
):
    ways = {"read": {"any": 2.0}, "fp32": {"any": 1.0}, "int8": {"any": 4.0}}
    ceiling = Ceiling(1, 2.0, 1.0, 4.0, ways)
    monkeypatch.setattr("benchmarks.latency.measure_ceiling", lambda _threads: ceiling)
    first, again, printed = (tmp_path / name for name in ("a.png", "b.png", "printed.txt"))
    arguments = ["--changed", "0", "30", "--repeats", "1", "--plot", str(first)]
    assert main(["latency", str(bundles()), *arguments]) == 0
    printed.write_text(capsys.readouterr().out)
    assert main(["plot", str(printed), str(again)]) == 0
    assert first.read_bytes() == again.read_bytes()


def without(*keys):
    damaged = value = report()
    for key in keys[:-1]:
        value = value[key]
    del value[keys[-1]]
    return json.dumps(damaged)


def replaced(new, *keys):
    damaged = value = report()
    for key in keys[:-1]:
        value = value[key]
    value[keys[-1]] = new
    return json.dumps(damaged)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no JSON report"),
        ('{"bench": "latency", "rows"', "holds no JSON report"),
        ("[" * 100_000, "holds no JSON report"),
        ("\xff\xfe", "not a report of"),
        ("17", "not a report of"),
        (replaced("memory", "bench"), "not a report of"),
        (without("rows"), "rows is null; a list is needed"),
        (replaced([], "rows"), "nothing to draw"),
        (replaced(7, "rows", 1), "rows[1] is 7"),
        (without("base", "cameras"), "base.cameras is null"),
        (replaced(True, "rows", 0, "cameras"), "rows[0].cameras is True"),
        (without("rows", 2, "stages_ms", "vision"), "rows[2].stages_ms.vision is null"),
        (replaced("x", "rows", 2, "stages_ms", "vision", "p50"), "vision.p50 is 'x'"),
        (replaced(-1, "rows", 2, "floors_ms", "vision"), "floors_ms.vision is -1"),
        (replaced(float("nan"), "rows", 0, "call_ms", "p50"), "call_ms.p50 is nan"),
        (without("rows", 0, "calls"), "rows[0].calls is null"),
        (without("ceiling"), "ceiling is null; an object is needed"),
        (without("machine"), "machine is null; a text is needed"),
    ],
)
def test_a_damaged_report_is_one_line_and_no_picture(text, says, tmp_path, capsys):
    path, picture = tmp_path / "report.json", tmp_path / "picture.png"
    path.write_text(text if text != "\xff\xfe" else '"\xff\xfe"', encoding="utf-8")
    assert main(["plot", str(path), str(picture)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not picture.exists()


def test_bytes_that_are_no_text_are_one_line(tmp_path, capsys):
    path = tmp_path / "report.json"
    path.write_bytes(b"\xff\x00\x80")
    assert main(["plot", str(path), str(tmp_path / "picture.png")]) == 2
    assert "holds no JSON report" in capsys.readouterr().err


def test_a_picture_is_never_overwritten_and_known_before_measuring(bundles, tmp_path, capsys):
    path = tmp_path / "latency.png"
    path.write_bytes(b"mine")
    assert main(["latency", str(bundles()), "--plot", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["latency", str(bundles()), "--plot", str(tmp_path / "no" / "l.png")]) == 2
    assert "no folder" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
