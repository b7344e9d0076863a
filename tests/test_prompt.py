"""The prompt, character for character."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.images import ImagePatches
from edge.prompt import PromptFormat, clean_task, image_text, robot_text, state_text

PLAIN = PromptFormat(True, True, False, True, True, 256)


def cut(overview=(1, 2), detail=(0, 0)):
    return ImagePatches(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), int), overview, detail)


@pytest.mark.parametrize(
    ("task", "cleaned"),
    [
        ("Pick up the red block.", "pick up the red block"),
        ("  Task:  please put the spoon in the BOWL! ", "please put the spoon in the bowl"),
        ('"The task is to open the drawer."', "open the drawer"),
        ("Open it. Then close it!", "open it; then close it"),
        ("instruction - goal: stack (the cubes)", "stack (the cubes"),
        ("...", ""),
    ],
)
def test_tasks_are_reduced_to_the_form_seen_in_training(task, cleaned):
    assert clean_task(task) == cleaned


@settings(max_examples=300)
@given(
    st.text(alphabet="aB .!?;:,'\"()[]{}`“”‘’…\n-", max_size=20),
    st.sampled_from(["", "Task: ", "your task is to ", "Goal -", "language instruction:"]),
)
def test_task_clean_up_is_the_references(text, label):
    reference = pytest.importorskip(
        "lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2"
    )
    assert clean_task(label + text) == reference._normalize_question_text(label + text)


def test_state_becomes_one_token_a_dimension_clipped_to_the_bins():
    text = state_text(np.array([-1.0, 1.0, 0.0, 7.0, -7.0]), 256)
    assert text == ("<state_start><state_0><state_255><state_128><state_255><state_0><state_end>")


def test_whole_prompt_for_two_cameras_with_depth():
    text = robot_text("lift", "<s>", "one arm", "joints", [cut(), cut()], True, PLAIN)
    assert text == (
        "Image 1<im_start><im_patch><im_patch><im_end>Image 2<im_start><im_patch><im_patch><im_end>"
        "<|im_start|>user\nThe task is to lift. The setup is <setup_start>one arm<setup_end>. "
        "The current state of the robot is <s>. The expected control mode is "
        "<control_start>joints<control_end>. Given these, first predict the depth map of the main "
        "image and then predict the action the robot should take to complete the task?<|im_end|>\n"
        "<|im_start|>assistant\n<depth_output><action_output>"
    )


def test_one_camera_has_no_number():
    text = robot_text("lift", "<s>", "", "", [cut()], False, PLAIN)
    assert text.startswith("<im_start><im_patch><im_patch><im_end><|im_start|>user\n")
    assert text.endswith(
        "what action should the robot take to complete the task?<|im_end|>\n"
        "<|im_start|>assistant\n<action_output>"
    )


def test_detail_crops_follow_a_low_resolution_overview():
    assert image_text(cut((1, 1), (2, 1)), PLAIN) == (
        "<low_res_im_start><im_patch><im_end><im_start><im_patch><im_col><im_patch><im_col><im_end>"
    )
