import dataclasses
from importlib import resources
from pathlib import Path

import pytest
import yaml
from ladder_settings import LADDER, LADDER_TEXT, ladder_of, with_ladder

from edge.config_section import ProfileError
from edge.ladder_profile import CHANGES, Rung, check_ladder
from edge.profile import load_profile
from edge.profile_record import profile_from_record, record_from_profile


def test_every_rung_says_what_it_changes_and_the_order_stays():
    assert tuple(rung.change for rung in LADDER.rungs) == CHANGES
    assert LADDER.rungs[0] == Rung("draft_window", 8.0)
    assert [rung.name for rung in LADDER.rungs[-2:]] == ["speed_share 0.5", "hold"]
    assert ladder_of("ladder: null\n") is None


def test_missing_key_is_an_error_whichever_it_is():
    for key in yaml.safe_load(LADDER_TEXT)["ladder"]:
        values = yaml.safe_load(LADDER_TEXT)
        del values["ladder"][key]
        with pytest.raises(ProfileError, match=rf"board.yaml: ladder.{key}: this key is missing"):
            ladder_of(yaml.safe_dump(values))
    with pytest.raises(ProfileError, match=r"ladder: this key is missing and has no default"):
        ladder_of("{}\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trip_margin_c: 5.0", "trip_margin_c: null", "clear_margin_c: 9.0; allowed: trip_margin"),
        ("clear_margin_c: 9.0", "clear_margin_c: 4.9", r"4.9; allowed: trip_margin_c \(5.0\) or m"),
        ("quiet_s: 20.0", "quiet_s: 0.5", r"ladder.quiet_s: 0.5; allowed: 1..3600"),
        ("max_quiet_s: 160.0", "max_quiet_s: 19", r"max_quiet_s: 19; allowed: 20..86400"),
        ("late_call_share: 0.5", "late_call_share: 1.0", r"1; allowed: 0..0.99"),
        ("throttled: true", "throttled: 1", "throttled: 1; allowed: true, false"),
        ("draft_window: 8", "draft_window: 0", r"rungs\[0\].draft_window: 0; allowed: a whole"),
        ("draft_window: 8", "vision: 1", "rungs: vision; allowed: one of draft_window, max_policy"),
        ("draft_window: 8", "{draft_window: 8, hold: true}", "rungs: draft_window, hold; allowed"),
        ("speed_share: 0.5", "speed_share: 1.0", "speed_share: 1; allowed: 0.05..0.95"),
        ("hold: true", "hold: false", "hold: false; allowed: true, or leave the rung out"),
        ("depth_every_calls: 4", "depth_every_calls: 1", "allowed: a whole number 2..1000"),
        ("- flow_steps: 5", "- draft_window: 4", "draft_window 4 after depth_max_cells 25; allow"),
        ("- hold: true", "- speed_share: 0.5", "speed_share 0.5 after speed_share 0.5 gives noth"),
        (
            "- depth_max_cells: 25",
            "- depth_every_calls: 4",
            "depth_every_calls 4 after depth_every_calls 4 gives nothing up; remove it",
        ),
    ],
)
def test_what_a_ladder_may_not_say_is_refused_with_its_key(old, new, message):
    assert old in LADDER_TEXT
    with pytest.raises(ProfileError, match=message):
        ladder_of(LADDER_TEXT.replace(old, new, 1))


def test_a_kind_may_come_again_with_less():
    rungs = ladder_of(LADDER_TEXT.replace("- hold", "- speed_share: 0.3\n    - hold")).rungs
    assert [rung.name for rung in rungs[-3:]] == ["speed_share 0.5", "speed_share 0.3", "hold"]


def test_rungs_are_bounded_in_number():
    steps = "".join(f"    - depth_every_calls: {calls}\n" for calls in range(2, 35))
    start = LADDER_TEXT.index("    - draft_window")
    with pytest.raises(ProfileError, match="rungs: 33 of them; allowed: 32 at most"):
        ladder_of(LADDER_TEXT[:start] + steps)


@pytest.mark.parametrize(
    ("change", "value", "fits"),
    [
        ("draft_window", 15, True),
        ("draft_window", 16, False),
        ("max_policy_hz", 4.9, True),
        ("max_policy_hz", 5.0, False),
        ("max_policy_hz", 1 / 30, False),  # actions older than max_chunk_age_s are not followed
    ],
)
def test_rung_must_give_up_something_of_what_its_board_does(change, value, fits):
    profile = with_ladder(dataclasses.replace(LADDER, rungs=(Rung(change, value),)))
    board = dataclasses.replace(profile.board, draft_window=16)
    profile = dataclasses.replace(profile, board=board)
    if fits:
        check_ladder(profile)
        return
    with pytest.raises(ProfileError, match=rf"ladder rung {change} .*; allowed: above .*, below"):
        check_ladder(profile)


@pytest.mark.parametrize(("hold_quiet_s", "fits"), [(4.0, True), (4.1, False)])
def test_hold_that_the_arm_would_end_before_the_ladder_leaves_it_is_refused(hold_quiet_s, fits):
    profile = with_ladder(dataclasses.replace(LADDER, hold_quiet_s=hold_quiet_s))
    assert profile.arm.safety.max_hold_s == 10.0
    if fits:
        check_ladder(profile)
        return
    with pytest.raises(ProfileError, match=r"hold_quiet_s 4.1 .*; allowed: 4 at most, .*max_hold"):
        check_ladder(profile)
    check_ladder(with_ladder(dataclasses.replace(profile.board.ladder, rungs=LADDER.rungs[:-1])))


@pytest.mark.parametrize(("min_count", "fits"), [(60, True), (61, False)])
def test_share_of_more_ticks_than_the_window_has_is_refused(min_count, fits):
    ladder = dataclasses.replace(LADDER, window_s=2.0, min_count=min_count)
    assert with_ladder(ladder).arm.control_hz == 30.0
    if fits:
        check_ladder(with_ladder(ladder))
        return
    with pytest.raises(ProfileError, match="min_count 61; allowed: 60 at most, the ticks of wind"):
        check_ladder(with_ladder(ladder))


def test_boards_ladder_is_read_with_its_profile_and_kept_in_a_record(tmp_path):
    text = resources.files("profiles").joinpath("boards", "sim_host.yaml").read_text("utf-8")
    assert "ladder: null\n" in text
    (tmp_path / "board.yaml").write_text(text.replace("ladder: null\n", LADDER_TEXT))
    sim = resources.files("profiles").joinpath("sim.yaml").read_text("utf-8")
    (tmp_path / "own.yaml").write_text(sim.replace("board: sim_host", "board: board.yaml"))
    profile = load_profile(tmp_path / "own.yaml")
    assert profile.board.ladder == LADDER
    assert profile_from_record(record_from_profile(profile), "run.box") == profile
    slow = LADDER_TEXT.replace("max_policy_hz: 2.0", "max_policy_hz: 5.0")
    (tmp_path / "board.yaml").write_text(text.replace("ladder: null\n", slow))
    with pytest.raises(ProfileError, match="board sim_host: ladder rung max_policy_hz 5; al"):
        load_profile(tmp_path / "own.yaml")


def test_board_file_of_the_documentation_is_one(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "ladder.md").read_text("utf-8")
    board = text.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "board.yaml").write_text(board)
    robot = resources.files("profiles").joinpath("so101.yaml").read_text("utf-8")
    name = yaml.safe_load(robot)["board"]
    (tmp_path / "own.yaml").write_text(robot.replace(f"board: {name}", "board: board.yaml"))
    ladder = load_profile(tmp_path / "own.yaml").board.ladder
    assert ladder.rungs[-1] == Rung("hold", 1.0)


def test_shipped_boards_that_are_real_have_a_ladder_and_none_holds_the_arm():
    for name in ("orin_nano_8gb_25w", "thor_t5000", "so101"):
        rungs = load_profile(name).board.ladder.rungs
        assert {rung.change for rung in rungs} == set(CHANGES) - {"hold"}
