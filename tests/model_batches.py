"""Batches of random examples in the shape that the nano model takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    MolmoAct2ForConditionalGeneration,
)

from training.examples.batch import Batch

SIDE, PATCHES_SIDE = 7, 13  # of a picture: tokens, patches; the last tokens pool fewer patches
POOLED = SIDE**2
PICTURES = {"text": 0, "question": 1}  # by kind of example; others have two


def a_batch(
    model: MolmoAct2ForConditionalGeneration, kinds: Sequence[str], first_number: int = 0
) -> Batch:
    """Make examples of the given kinds: `act`, `depth_act`, `discrete`, `question`, `text`."""
    config, rng = model.config, np.random.default_rng(first_number)
    rows, labels, pictures = [], [], 0
    for kind in kinds:
        images = PICTURES.get(kind, 2)
        pictures += images
        one = [config.image_start_token_id, *[config.image_patch_id] * POOLED]
        prompt = [*one, config.image_end_token_id] * images + rng.integers(10, 200, 20).tolist()
        answer = []
        if kind == "depth_act":
            codes = config.depth_token_start_id + rng.integers(0, 128, 100)
            answer += [config.depth_start_token_id, *codes, config.depth_end_token_id]
        if kind == "discrete":
            words = config.action_token_start_id + rng.integers(0, 2048, 12)
            answer += [config.action_start_token_id, *words, config.action_end_token_id]
        if kind in ("question", "text"):
            answer += rng.integers(10, 200, 5).tolist()
        answer += [config.eos_token_id] if kind != "act" else []
        rows.append(prompt + answer)
        labels.append([-100] * len(prompt) + answer)
    width, count = max(map(len, rows)), len(rows)
    ids, targets = torch.zeros(count, width).long(), torch.full((count, width), -100)
    mask = torch.zeros(count, width).long()
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        ids[index, : len(row)], targets[index, : len(row)] = torch.tensor(row), torch.tensor(label)
        mask[index, : len(row)] = 1
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": (ids == config.image_patch_id).long(),
    }
    if pictures:
        pooling = np.full((POOLED, 4), -1)
        for token in range(POOLED):
            y, x = divmod(token, SIDE)
            near = [(2 * y + dy, 2 * x + dx) for dy in (0, 1) for dx in (0, 1)]
            there = [at for at in near if max(at) < PATCHES_SIDE]
            inside = [row * PATCHES_SIDE + column for row, column in there]
            pooling[token, : len(inside)] = inside
        pixels = rng.uniform(-1, 1, (pictures, PATCHES_SIDE**2, 588)).astype(np.float32)
        inputs["pixel_values"] = torch.from_numpy(pixels)
        inputs["image_token_pooling"] = torch.from_numpy(pooling).repeat(pictures, 1)
        inputs["image_grids"] = torch.tensor([[SIDE, SIDE, 0, 0]]).repeat(pictures, 1)
        inputs["image_num_crops"] = torch.ones(pictures).long()
    moves = torch.tensor([kind in ("act", "depth_act", "discrete") for kind in kinds])
    dims, late = torch.arange(32)[None] >= 6, torch.arange(30)[None] >= 25
    actions = rng.uniform(-1, 1, (count, 30, 32)).astype(np.float32)
    return Batch(
        model_inputs=inputs,
        labels=targets,
        actions=torch.from_numpy(actions) * ~dims * moves[:, None, None],
        dim_is_pad=dims.repeat(count, 1),
        horizon_is_pad=late.repeat(count, 1),
        has_actions=moves,
        numbers=torch.arange(first_number, first_number + count),
        sources=tuple(kinds),
    )


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Cut rows out of a batch; every picture stays with its example."""
    count = [PICTURES.get(kind, 2) for kind in batch.sources]
    start = np.cumsum([0, *count])
    inputs = {}
    for name, value in batch.model_inputs.items():
        if name in ("input_ids", "attention_mask", "token_type_ids"):
            inputs[name] = value[rows]
            continue
        size = POOLED if name == "image_token_pooling" else 1
        kept = [i for r in rows for i in range(start[r] * size, start[r + 1] * size)]
        if kept:
            inputs[name] = value[kept]
    return dataclasses.replace(
        batch,
        model_inputs=inputs,
        sources=tuple(batch.sources[r] for r in rows),
        **{
            name: getattr(batch, name)[rows]
            for name in (
                "labels",
                "actions",
                "dim_is_pad",
                "horizon_is_pad",
                "has_actions",
                "numbers",
            )
        },
    )
