"""What an untrained MolmoAct2 needs besides randomness, written into its weights.

**The depth span ends.** After the last depth code the model must say <depth_end> by itself: it is
looked for greedily over the whole vocabulary. One dimension of the decoder's residual stream is
kept free of everything else; the embeddings of the depth codes carry a flag there, and only the
head's row of <depth_end> reads it, loud enough to beat every other row.

**Depth codes differ from cell to cell.** Queries and keys listen mostly to the rotary dimensions
that turn noticeably within a hundred tokens, so that each cell attends to other image tokens.

**Actions follow the state.** State tokens are embedded on a curve, so that near states are near,
and carry a flag that becomes one key dimension which rotary embedding does not turn; half of the
action expert's heads ask for it.

**Actions stay in range and are smooth.** The flow starts from white noise, and a random velocity
would leave it there. The action expert's first dimensions carry the noisy action through all
blocks untouched, one constant dimension keeps the norm from rescaling it, and the output layer
pulls the action towards what the blocks wrote into the remaining dimensions. Block 0 averages the
action over neighbouring steps and the output layer gives most of that average back, so that what
survives of the noise is slow motion within the chunk.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from training.init.sizes import ModelSize

# Dimensions of the decoder's residual stream that nothing else writes to.
DEPTH_FLAG = 0
STATE_FLAG = 1
FLAGS = (DEPTH_FLAG, STATE_FLAG)
FLAG_VALUE = 1.0
END_GAIN = 100.0  # of <depth_end>; other rows of the head have norm 1
STATE_KEY_GAIN = 20.0
STATE_CONTEXT_WEIGHT = 0.4
STATE_QUERY_BIAS = 5.0

OWN_SHARE = 0.1  # of a depth code's embedding that differs from that of other codes

FAST_ROTATION = 0.02  # rad per token
FAST_GAIN = 1.8
SLOW_GAIN = 0.5

CONSTANT_GAIN = 1.5  # of the constant dimension, in units of the root of the expert's width
PULL = 5.0  # per unit of flow time: ten Euler steps leave 0.5 ** 10 of white noise
KEPT_SLOW_MOTION = 0.85  # share of the average over neighbours that is given back
GOAL_GAIN = 1.7
NEIGHBOUR_BIAS = 30.0  # drowns the random part of queries and keys
FREE_SCALE = 6.0  # keeps the weights that read the goal as large as those that pull
NOISE_IN_GOAL = 0.1  # how loud the noisy action is for what the blocks compute
SCALE_SPREAD = 0.2  # of the modulation's scale of the action, against that of other dimensions
GATE_MEAN = 0.7  # of the three gates of an expert block


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Ids of the tokens whose rows have structure; `first_*` with their count."""

    first_state: int
    states: int
    first_depth_code: int
    depth_codes: int
    depth_end: int


def add_structure(name: str, values: np.ndarray, size: ModelSize, rows: TokenRows) -> None:
    """Change `values` of the tensor `name` in place where the structure asks for it."""
    if name.startswith("model.action_expert."):
        _expert(name.removeprefix("model.action_expert."), values, size)
    elif name.endswith("wte.embedding"):
        _embeddings(values, rows)
    elif name.endswith("wte.new_embedding"):
        values[:, FLAGS] = 0.0
    elif re.search(r"(attn_out|ff_out|image_projector\.w2)\.weight$", name):
        values[list(FLAGS)] = 0.0
    elif name.endswith("att_proj.weight"):
        _state_key(values, size)
    elif re.search(r"self_attn\.[qk]_norm\.weight$", name):
        _look_at_places(values, size)
    elif name == "lm_head.weight":
        values[:, FLAGS] = 0.0
        values[rows.depth_end] = 0.0
        values[rows.depth_end, DEPTH_FLAG] = END_GAIN


def _embeddings(table: np.ndarray, rows: TokenRows) -> None:
    states = slice(rows.first_state, rows.first_state + rows.states)
    first = table[states.start]  # random numbers of this table place the curve
    largest = np.abs(first).max()
    phase = first / largest
    wavelengths = 0.5 + 0.5 * np.abs(table[states.start + 1]) / largest
    steps = np.linspace(0.0, 1.0, rows.states, dtype=np.float32)[:, None]
    table[states] = largest * _triangle_wave(wavelengths * steps + phase)
    table[:, FLAGS] = 0.0
    table[states, STATE_FLAG] = FLAG_VALUE
    codes = slice(rows.first_depth_code, rows.first_depth_code + rows.depth_codes)
    common = table[codes.start].copy()
    table[codes] = common + OWN_SHARE * (table[codes] - common)
    table[codes, DEPTH_FLAG] = FLAG_VALUE


def _triangle_wave(turns: np.ndarray) -> np.ndarray:
    return 4 * np.abs(turns - np.floor(turns) - 0.5) - 1


def _state_key(projection: np.ndarray, size: ModelSize) -> None:
    """Turn the state flag into the slowest rotary dimension of the first key head."""
    text = size.text
    for head in range(text.heads):
        projection[(head + 1) * text.head_dim - 1] = 0.0
    key = text.heads * text.head_dim + text.head_dim - 1
    projection[key] = 0.0
    projection[key, STATE_FLAG] = STATE_KEY_GAIN


def _look_at_places(norm_weight: np.ndarray, size: ModelSize) -> None:
    half = size.text.head_dim // 2
    for i in range(half):
        fast = size.text.rope_theta ** (-i / half) >= FAST_ROTATION
        norm_weight[[i, half + i]] *= np.float32(FAST_GAIN if fast else SLOW_GAIN)


def _expert(name: str, values: np.ndarray, size: ModelSize) -> None:
    width, actions = size.expert.width, size.expert.max_action_dim
    constant = actions
    average = slice(actions + 1, 2 * actions + 1)
    reserved, free = slice(0, 2 * actions + 1), slice(2 * actions + 1, None)
    rms = CONSTANT_GAIN  # of the hidden state, which the constant dimension dominates
    if name == "action_embed.weight":
        values[reserved] = 0.0
        values[free] /= np.float32(FREE_SCALE)
        np.fill_diagonal(values[:actions], 1.0)
    elif name == "action_embed.bias":
        values[:] = 0.0
        values[constant] = CONSTANT_GAIN * math.sqrt(width)
    elif name == "context_k_proj.weight":
        values[:, size.text.head_dim - 1] = STATE_CONTEXT_WEIGHT
    elif name.endswith("cross_attn.q_proj.bias"):
        values[: width // 2] = STATE_QUERY_BIAS
    elif re.search(r"(out_proj|down_proj)\.(weight|bias)$", name):
        values[reserved] = 0.0
        values[free] /= np.float32(FREE_SCALE)
        if name == "blocks.0.self_attn.out_proj.weight":
            np.fill_diagonal(values[average], rms)
    elif re.search(r"(qkv|q_proj|up_proj|gate_proj)\.weight$", name):
        values[:, reserved] *= np.float32(NOISE_IN_GOAL)
        values[:, free] *= np.float32(FREE_SCALE)
        values[:, constant] = 0.0
        if name == "blocks.0.self_attn.qkv.weight":
            values[2 * width : 2 * width + actions] = 0.0
            np.fill_diagonal(values[2 * width : 2 * width + actions], 1.0)
    elif name == "blocks.0.self_attn.qkv.bias":
        _attend_to_neighbours(values, size)
    elif ".modulation.linear." in name:
        _modulation(name, values, size)
    elif name == "final_layer.linear.weight":
        reading = width / (width - free.start) / size.text.layers
        values *= np.float32(FREE_SCALE * GOAL_GAIN * math.sqrt(reading))
        values[:, reserved] = 0.0
        np.fill_diagonal(values[:, :actions], -PULL * rms)
        np.fill_diagonal(values[:, average], PULL * KEPT_SLOW_MOTION * rms)


def _modulation(name: str, values: np.ndarray, size: ModelSize) -> None:
    """Open the gates, and keep shifts away from the action where they would add up to a bias."""
    width, reserved = size.expert.width, 2 * size.expert.max_action_dim + 1
    if name.startswith(("blocks.0.", "final_layer.")):
        values[:reserved] = 0.0  # shift before self-attention, or before the output layer
        values[width : width + reserved] *= np.float32(SCALE_SPREAD)
    for shift in (0,) if name.startswith("final_layer.") else (0, 3, 6):
        values[shift * width + reserved : (shift + 1) * width] /= np.float32(FREE_SCALE)
    if name.startswith("blocks.") and name.endswith("bias"):
        for gate in (2, 5, 8):  # of self-attention, cross-attention and MLP
            values[gate * width : (gate + 1) * width] += np.float32(GATE_MEAN)
    if name.startswith("blocks.0."):
        values[2 * width : 2 * width + reserved] = 1.0 if name.endswith("bias") else 0.0


def _attend_to_neighbours(qkv_bias: np.ndarray, size: ModelSize) -> None:
    """Point queries and keys of the heads that carry actions at one rotary frequency.

    Frequency m of a head turns by 10000 ** (-2 m / head_dim) per step; a quarter of the way down
    that is 0.1 rad, which makes attention a bell of about five steps.
    """
    width, head_dim = size.expert.width, size.expert.width // size.expert.heads
    for head in range(-(-size.expert.max_action_dim // head_dim)):
        dim = head * head_dim + head_dim // 8
        qkv_bias[dim] = NEIGHBOUR_BIAS
        qkv_bias[width + dim] = NEIGHBOUR_BIAS
    qkv_bias[2 * width : 2 * width + size.expert.max_action_dim] = 0.0
