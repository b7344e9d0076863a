import dataclasses
import json

import numpy as np
import pytest
from recorded_run import PROFILE, record_run, with_joints

from edge.black_box import BlackBoxError
from edge.box_file import BoxFile
from edge.box_reader import read_box
from edge.cli import main
from edge.profile import load_profile
from edge.profile_record import profile_from_record, record_from_profile
from edge.replay_gate import recorded_profile, rerun_gate

SHIPPED = ("sim", "so101")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A run of 3 s with lost replies and a chunk that ends before it."""
    return save(record_run(lost=(20, 21, 22, 23, 24, 25)), tmp_path_factory.mktemp("run"))


def save(box, folder):
    path = folder / "run.box"
    BoxFile(path, box.layout.total_bytes).write(box)
    return path


def replay(capsys, *arguments):
    code = main(["replay", *(str(argument) for argument in arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_card_end_figures_and_last_ticks_are_shown(path, capsys):
    code, out, err = replay(capsys, path, "--last", "0.1")
    assert (code, err) == (0, "")
    assert "task           pick up the red cube" in out
    assert "emulated servos, measured on a machine" in out
    assert "ended          time: 3 s are over" in out
    assert "90 run, 90 of them in the box, 0 missed; 6 failed reads, 0 failed writes" in out
    assert "  tick lateness" in out
    assert "  hold goal" in out
    assert "read failed: servo 3: no reply in 5.0 ms" in out
    assert "hold: no action chunk" in out
    last = out[out.index("before the end") :].splitlines()
    assert len(last) == 1 + 3
    assert last[-1].startswith("      -0.000 s")
    assert "hold goal" in last[-1]


def test_worst_values_name_their_joint(path, capsys):
    _, out, _ = replay(capsys, path, "--json")
    worst = json.loads(out)["joints"]
    view = read_box(path).view
    ticks = view.columns()
    assert worst["gripper"]["current_ma"] == 13.0 * 90
    assert worst["elbow_flex"]["least_voltage_v"] == 12.0
    assert worst["elbow_flex"]["temperature_c"] == 30.0
    lead = np.nanmax(np.abs(ticks["written"] - ticks["present"]), axis=0)
    assert worst["wrist_roll"]["lead"] == pytest.approx(lead[4], abs=1e-3)


def test_faults_that_a_servo_reported_are_named(tmp_path, capsys):
    box = record_run(seconds=0.5, status=np.array([0, 0x24, 0, 0, 0, 0], np.uint8))
    out = replay(capsys, save(box, tmp_path))[1]
    (line,) = [line for line in out.splitlines() if "reported" in line]
    assert line.startswith("shoulder_lift ")
    assert line.endswith("reported too much heat and overload")


def test_json_is_one_object_with_the_same_figures(path, capsys):
    _, out, _ = replay(capsys, path, "--json", "--gate")
    summary = json.loads(out)
    assert summary["schema"] == "molmoact-edge.replay.v1"
    assert summary["ticks"] == {
        "run": 90,
        "kept": 90,
        "missed": 0,
        "read_errors": 6,
        "write_errors": 0,
    }
    assert sum(outcome["count"] for outcome in summary["verdicts"].values()) == 90
    assert summary["verdicts"]["clamp"]["rules"]
    assert summary["gate"]["n_differences"] == 0
    assert "NaN" not in out


@pytest.mark.parametrize("lost", [(), (20, 21, 22, 23, 24, 25), range(30, 50)])
def test_the_recorded_profile_gives_the_recorded_verdicts(tmp_path, lost):
    box = read_box(save(record_run(lost=lost), tmp_path))
    result = rerun_gate(box, recorded_profile(box))
    assert result["ticks"] == box.view.n_ticks
    assert result["differences"] == []
    assert result["n_differences"] == 0


def test_other_limits_give_other_verdicts_and_say_which(path, tmp_path):
    box = read_box(path)
    slow = with_joints(recorded_profile(box), max_velocity=10.0)
    result = rerun_gate(box, slow)
    assert result["n_differences"] > 20
    assert any("velocity" in difference["now"] for difference in result["differences"])
    assert len(result["differences"]) == 20


def test_another_profile_may_be_given_by_name(path, capsys):
    code, out, _ = replay(capsys, path, "--profile", "so101")
    assert code == 0
    assert "gate again     profile so101, 90 ticks" in out


def test_box_that_lost_its_first_ticks_is_judged_from_where_it_begins(tmp_path):
    box = read_box(save(record_run(capacity=40), tmp_path))
    result = rerun_gate(box, recorded_profile(box))
    assert (result["from_start"], result["ticks"]) == (False, 39)
    # A gate that saw the run from its start knows more; what that changes is over soon.
    assert all(difference["tick"] < 70 for difference in result["differences"])


def test_profile_of_another_arm_is_refused(path):
    box = read_box(path)
    arm = dataclasses.replace(PROFILE.arm, joints=PROFILE.arm.joints[:5])
    with pytest.raises(BlackBoxError, match=r"recorded with the joints .* a profile of the same"):
        rerun_gate(box, dataclasses.replace(PROFILE, arm=arm))
    with pytest.raises(BlackBoxError, match="recorded with the cameras 2, profile sim has 1"):
        rerun_gate(box, dataclasses.replace(PROFILE, cameras=PROFILE.cameras[:1]))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_profile_comes_back_from_its_record(name):
    profile = load_profile(name)
    record = json.loads(json.dumps(record_from_profile(profile)))
    assert profile_from_record(record, "run.box") == profile


def test_record_of_another_version_is_refused_with_the_way_out(tmp_path, capsys):
    record = record_from_profile(PROFILE)
    record["arm"]["wings"] = 2
    box = record_run(seconds=0.1)
    box.seal_card({**read_box(save(box, tmp_path)).card, "profile_values": record})
    (tmp_path / "other").mkdir()
    other = save(box, tmp_path / "other")
    code, _, err = replay(capsys, other, "--gate")
    assert code == 2
    assert "profile.arm: unknown wings; it was recorded by another version" in err
    assert replay(capsys, other)[0] == 0


def test_run_without_an_end_says_so(tmp_path, capsys):
    box = record_run(seconds=0.2)
    box.set_text("how", "")
    box.set_text("reason", "")
    assert "ended without saying why" in replay(capsys, save(box, tmp_path))[1]


def test_run_without_a_tick_can_be_shown(tmp_path, capsys):
    box = record_run(seconds=0.2, lost=range(100))
    box.header["n_ticks"] = 0
    code, out, _ = replay(capsys, save(box, tmp_path), "--gate")
    assert code == 0
    assert "0 of them in the box" in out


def test_plots_go_into_one_file_or_a_folder_and_never_over_others(path, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert replay(capsys, path, "--plot", tmp_path / "all.png")[0] == 0
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    assert replay(capsys, path, "--plot", tmp_path / "plots")[0] == 0
    names = sorted(file.name for file in (tmp_path / "plots").iterdir())
    assert names == ["goals.png", "servos.png", "timing.png"]
    code, _, err = replay(capsys, path, "--plot", tmp_path / "all.png")
    assert code == 2
    assert "all.png: already exists; remove it or choose another path" in err


def test_plots_without_matplotlib_name_the_install_command(path, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = replay(capsys, path, "--plot", tmp_path / "all.png")
    assert code == 2
    assert "pip install 'molmoact-edge[demo]'" in err
    assert replay(capsys, path)[0] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a black box"), (b"MMAEDBOX" + bytes(5000), "black box version 0")],
)
def test_a_file_that_is_no_box_is_refused_in_one_line(tmp_path, capsys, content, message):
    (tmp_path / "file").write_bytes(content)
    code, out, err = replay(capsys, tmp_path / "file")
    assert (code, out) == (2, "")
    assert err.startswith("molmoact-edge: error: ")
    assert message in err
    assert err.count("\n") == 1
