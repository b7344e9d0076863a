"""`molmoact-bench profile`: what it measures, what it says of it, and the three files."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

pytest.importorskip("onnx")
pytest.importorskip("matplotlib")

from fake_boards import BOARDS
from profile_rig import TICKS, options_for, profiled_on

from benchmarks.cli import main
from benchmarks.perfetto_trace import trace_of
from benchmarks.profile_command import write_profile
from benchmarks.profile_html import html_of
from benchmarks.profile_report import as_json, read_profile_report
from edge.errors import EdgeError
from edge.loop import LoopEnd
from edge.policy import STAGES

PREDICTION = {
    "board": "Jetson $a$ <b>",
    "unit": "cpu",
    "kind": "unverified",
    "stages_ms": {"vision": 11.0},
    "call_ms": 12.5,
}


@pytest.fixture(scope="module")
def nano(bundles, tmp_path_factory):
    """A profile of an Orin Nano measured on one, which throttles in the loop."""
    with pytest.MonkeyPatch.context() as patch:
        return profiled_on(
            patch,
            tmp_path_factory.mktemp("board"),
            BOARDS["orin_nano_8gb"],
            options_for(bundles(), "orin_nano_8gb_25w"),
            predict=lambda profile, manifest, row: (PREDICTION, ""),
            throttle=True,
        )


@pytest.fixture(scope="module")
def pc(bundles, tmp_path_factory):
    """The same profile measured on a computer that is no such board."""
    with pytest.MonkeyPatch.context() as patch:
        return profiled_on(
            patch,
            tmp_path_factory.mktemp("board"),
            BOARDS["pc"],
            options_for(bundles(), "orin_nano_8gb_25w"),
            predict=lambda profile, manifest, row: (None, "nobody asked"),
        )


@pytest.fixture(scope="module")
def page(nano):
    """The page of the Orin Nano."""
    return html_of(nano.report)


@pytest.fixture(scope="module")
def pc_page(pc):
    """The page of the computer."""
    return html_of(pc.report)


def test_stages_are_measured_without_and_with_depth_and_every_call_is_kept(nano):
    plain, deep = nano.report.stages
    assert (plain.changed_percent, deep.changed_percent) == (None, 30)
    assert plain.calls == 12
    assert set(plain.repeats_ms) == {*STAGES, "call"}
    assert all(len(values) == 12 for values in deep.repeats_ms.values())
    assert max(plain.repeats_ms["depth"]) < min(deep.repeats_ms["depth"])


def test_the_machine_is_the_one_it_ran_on(nano, pc):
    assert (nano.report.machine.module, nano.report.machine.power_mode) == ("orin_nano_8gb", "25W")
    assert nano.report.machine.jetpack == "6.2"
    assert nano.report.labels.foreign is None
    assert pc.report.machine.module is None
    assert pc.report.machine.name == BOARDS["pc"].cpu_model


def test_a_profile_of_another_board_says_so_in_every_output(pc, pc_page):
    foreign = pc.report.labels.foreign
    assert "describes Jetson Orin Nano 8GB" in foreign
    assert BOARDS["pc"].cpu_model in foreign
    assert f'class="warn">{foreign[0].upper()}' in pc_page.replace("&#x27;", "'")
    trace = trace_of(pc)
    assert trace["otherData"]["foreign"] == foreign
    assert foreign in trace["traceEvents"][0]["args"]["name"]
    assert as_json(pc.report)["labels"]["foreign"] == foreign


def test_another_power_mode_than_the_profile_describes_is_said(bundles, tmp_path, monkeypatch):
    kind = replace(BOARDS["orin_nano_8gb"], default=0)
    options = options_for(bundles(), "orin_nano_8gb_25w", seconds=None, repeats=1)
    report = profiled_on(monkeypatch, tmp_path, kind, options).report
    assert "describes power mode 25W, the board is in 15W" in report.labels.foreign
    assert report.loop is None
    assert report.energy.reason == "the loop was not run"


def test_seconds_of_ticks_are_the_repeats_of_the_loop(nano):
    repeats = nano.report.loop.repeats
    assert repeats["tick lateness"] == [
        0.2,
        0.2,
    ]  # whole seconds; a tick without a time is left out
    assert repeats["tick"] == [4.0, 4.0]
    assert repeats["policy call"] == [pytest.approx(100.0)]


def test_a_signal_in_the_loop_writes_nothing_and_is_in_the_exit_code(
    bundles, tmp_path, monkeypatch, capsys
):
    def interrupted(options, say):
        root = tmp_path / "board"
        return profiled_on(monkeypatch, root, BOARDS["pc"], options, signal_number=15)

    monkeypatch.setattr("benchmarks.profile_command.measure_profile", interrupted)
    out = tmp_path / "out"
    arguments = ["profile", str(bundles()), "--profile", "sim", "--out", str(out)]
    assert main([*arguments, "--repeats", "1", "--rest", "1"]) == 143
    assert "signal 15 ended the loop after 90 ticks; nothing was written" in capsys.readouterr().err
    assert not out.exists()


def test_a_loop_that_was_stopped_is_written_said_and_in_the_exit_code(
    bundles, tmp_path, monkeypatch, capsys
):
    ends = [LoopEnd("stop", "shoulder_pan: blocked"), LoopEnd("time", "3 s are over")]

    def measured(options, say):
        root = tmp_path / f"board{len(ends)}"
        return profiled_on(monkeypatch, root, BOARDS["pc"], options, end=ends.pop(0))

    monkeypatch.setattr("benchmarks.profile_command.measure_profile", measured)
    arguments = ["profile", str(bundles()), "--profile", "sim", "--repeats", "1", "--rest", "1"]
    assert main([*arguments, "--accept-unjudged", "--out", str(tmp_path / "a")]) == 2
    assert "the loop was stopped after 3.0 s: shoulder_pan: blocked" in capsys.readouterr().err
    assert read_profile_report(tmp_path / "a")["loop"]["stopped"] == "shoulder_pan: blocked"
    warning = '<p class="warn">The loop was stopped: shoulder_pan: blocked</p>'
    assert warning in (tmp_path / "a" / "report.html").read_text("utf-8")
    assert main([*arguments, "--accept-unjudged", "--out", str(tmp_path / "b")]) == 0
    assert read_profile_report(tmp_path / "b")["loop"]["stopped"] is None


def test_pictures_that_cannot_be_drawn_are_refused_before_anything_is_measured(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("benchmarks.profile_command.measure_profile", pytest.fail)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["profile", "bundle", "--profile", "sim", "--out", str(tmp_path / "out")]) == 2
    assert "matplotlib; install what it needs with: pip install" in capsys.readouterr().err


def test_what_the_loop_would_refuse_is_refused_before_anything_is_measured(
    bundles, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr("benchmarks.profile_run.measure_row", lambda *_: calls.append(1))
    options = options_for(bundles(recipe="int8"), accept=())
    with pytest.raises(EdgeError, match="judged"):
        profiled_on(monkeypatch, tmp_path / "a", BOARDS["pc"], options)
    options = options_for(bundles(), ports=("/dev/ttyACM0",))
    with pytest.raises(EdgeError, match="simulates its arm"):
        profiled_on(monkeypatch, tmp_path / "b", BOARDS["pc"], options)
    assert not calls


def test_energy_is_power_over_the_actions_that_were_executed(nano):
    energy = nano.report.energy
    power_mw = 4.984 * 1204
    assert energy.idle_mw == pytest.approx(power_mw)
    assert energy.loop_mw == pytest.approx(power_mw)
    # 60 of 90 ticks followed the policy: none in the first second, 30 in each of the others.
    assert nano.report.loop.actions == 60
    windows_s = 3 * 0.98
    executed = 59  # the last began after the last sample
    assert energy.mj_per_action == pytest.approx(power_mw * windows_s / executed, rel=0.02)
    assert energy.reason == "VDD_IN, idle and the simulator included"


def test_power_that_cannot_be_read_is_null_with_its_reason(pc, pc_page):
    energy = pc.report.energy
    assert energy.mj_per_action is None
    assert "no power monitor" in energy.reason
    assert "no power monitor" in pc_page


def test_throttling_and_heat_of_any_sample_are_in_the_report(nano, pc, page):
    board = nano.report.board
    assert board.throttled is True
    assert board.throttle_reasons == ["gpu-throttle-alert in state 1"]
    assert (board.hottest_c, board.throttle_c) == (90.0, 99.0)
    columns = board.samples
    assert len({len(values) for values in columns.values()}) == 1
    assert "The board was throttled while it was measured" in page
    assert pc.report.board.throttled is False


def test_the_page_is_whole_and_loads_nothing(page):
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)[^"]*:', page)
    assert "url(" not in page.replace("url(#", "")
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    assert page.count("<svg") == 5  # stages, temperature, clocks, power, lateness
    assert "currentColor" in page
    assert "#010203" not in page


def test_predicted_stands_beside_measured_and_is_escaped(page, pc_page):
    assert '<th class="predicted">predicted</th>' in page
    assert page.count('<td class="predicted">11.00</td>') == 2  # without depth, and with
    assert '<td class="predicted">12.50</td>' in page
    assert "Jetson $a$ &lt;b&gt;" in page
    assert 'class="predicted"' not in pc_page
    assert "Nothing is predicted: nobody asked" in pc_page


def test_text_of_the_machine_cannot_become_markup(nano):
    machine = replace(nano.report.machine, cpu="<img src=x onerror=1>")
    assert "<img" not in html_of(replace(nano.report, machine=machine))


def test_trace_events_lie_inside_each_other_on_each_thread(nano):
    events = trace_of(nano)["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert sum(event["name"] == "tick" for event in complete) == TICKS
    assert {event["name"] for event in complete} >= {"bus read", "safety gate", "call", "vision"}
    for thread in {event["tid"] for event in complete}:
        stack = []
        ordered = sorted(
            (event for event in complete if event["tid"] == thread),
            key=lambda event: (event["ts"], -event["dur"]),
        )
        for event in ordered:
            end_us = event["ts"] + event["dur"]
            while stack and stack[-1] <= event["ts"] + 1e-6:
                stack.pop()
            assert not stack or end_us <= stack[-1] + 1e-6, event
            stack.append(end_us)


def test_trace_counters_are_numbers_over_time(nano):
    counters = [event for event in trace_of(nano)["traceEvents"] if event["ph"] == "C"]
    tracks = {f"{event['name']} {key}" for event in counters for key in event["args"]}
    expected = {"temperature, C tj", "clock, MHz gpu", "power, mW VDD_IN", "board throttled"}
    assert expected <= tracks
    assert all(type(v) in (int, float) for event in counters for v in event["args"].values())
    assert all(event["ts"] >= 0 for event in counters)


def test_the_folder_appears_whole_and_is_never_overwritten(nano, tmp_path):
    folder = tmp_path / "out"
    write_profile(folder, nano)
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html",
        "report.json",
        "trace.json",
    ]
    assert read_profile_report(folder)["schema"] == "molmoact-edge.profile.v1"
    assert read_profile_report(folder / "report.json") == json.loads(
        json.dumps(as_json(nano.report), allow_nan=False)
    )
    arguments = ["profile", "bundle", "--profile", "sim", "--out", str(folder)]
    assert main(arguments) == 2


def test_nothing_is_left_of_a_folder_that_cannot_be_written(nano, tmp_path, monkeypatch):
    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(Exception, match="No space left"):
        write_profile(tmp_path / "out", nano)
    assert list(tmp_path.iterdir()) == []


class _Balance(HTMLParser):
    """Keeps the elements that are open."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
