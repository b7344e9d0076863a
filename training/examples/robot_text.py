"""What a robot example says: the question of its style, and the answer that the model learns.

The words are the MolmoAct2 release's: act and depth-then-act as the robot asks for them
(`edge.prompt`), and depth alone, which is asked for in training only.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge.prompt import PromptFormat, robot_text

ACT, DEPTH, DEPTH_ACT = "act", "depth", "depth_act"
STYLES = (ACT, DEPTH, DEPTH_ACT)
END_OF_TURN = "<|im_end|>"
_DEPTH_QUESTION = "what is the depth map of the main image?"
_CLOSING = " Given these, "


def robot_question(
    style: str, task: str, state: str, setup: str, control: str, layout: PromptFormat
) -> str:
    """Write the prompt behind the pictures; `task` is cleaned, `state` is from `state_text`."""
    text = robot_text(task, state, setup, control, [], style != ACT, layout)
    if style != DEPTH:
        return text
    fields = text.rpartition(_CLOSING)[0]
    return (
        f"{fields}{_CLOSING}{_DEPTH_QUESTION}{END_OF_TURN}\n<|im_start|>assistant\n<depth_output>"
    )


def robot_answer(
    style: str, depth_codes: Sequence[int] = (), action_tokens: Sequence[int] | None = None
) -> str:
    """Write the answer, end of turn included; "" where only the expert has something to learn.

    `action_tokens` is None where the actions are not said as tokens.
    """
    text = "" if style == ACT else _span("depth", depth_codes)
    if style != DEPTH and action_tokens is not None:
        text += _span("action", action_tokens)
    return text + END_OF_TURN if text else ""


def _span(name: str, codes: Sequence[int]) -> str:
    return f"<{name}_start>{''.join(f'<{name}_{code}>' for code in codes)}<{name}_end>"
