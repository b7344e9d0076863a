"""A ladder with every kind of rung, as text and as records, for tests."""

import dataclasses

from edge.config_section import section_from_yaml
from edge.ladder_profile import read_ladder
from edge.profile import load_profile

LADDER_TEXT = """ladder:
  trip_margin_c: 5.0
  clear_margin_c: 9.0
  throttled: true
  late_call_share: 0.5
  late_tick_share: 0.1
  late_tick_s: 0.02
  window_s: 10.0
  min_count: 4
  least_step_s: 5.0
  quiet_s: 20.0
  max_quiet_s: 160.0
  hold_quiet_s: 3.0
  rungs:
    - draft_window: 8
    - max_policy_hz: 2.0
    - depth_every_calls: 4
    - depth_max_cells: 25
    - flow_steps: 5
    - camera_hz: 5.0
    - speed_share: 0.5
    - hold: true
"""


def ladder_of(text=LADDER_TEXT):
    return read_ladder(section_from_yaml(text, "board.yaml"))


LADDER = ladder_of()


def with_ladder(ladder=LADDER, name="sim"):
    """A shipped profile whose board has a ladder."""
    profile = load_profile(name)
    return dataclasses.replace(profile, board=dataclasses.replace(profile.board, ladder=ladder))
