"""A batch holds what LeRobot's MolmoAct2 processor makes of the same sample."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot.policies.molmoact2")

from conftest import REFERENCE
from lerobot.lerobot_types import TransitionKey
from lerobot.policies.molmoact2 import processor_molmoact2 as peer
from transformers import AutoTokenizer

from edge.prompt import clean_task, state_text
from training.errors import TrainingError
from training.examples.batch import IGNORED
from training.examples.collate import Collator
from training.examples.example import Chunk, Example
from training.examples.robot_text import robot_answer, robot_question

SETUP, CONTROL = "single so100/so101 robotic arm in molmoact2", "absolute joint pose"
TASK = "Task: put the RED cube in the bin. Then wave!"
CAMERA_SIZES_PX = ((60, 80), (90, 64), (48, 64))
CAMERAS = {"one_camera_crops": 1, "two_cameras": 2, "three_cameras": 3}
ACTION_CODES = (3, 17, 0, 5)


@pytest.fixture(autouse=True)
def _two_threads():
    """With one thread PyTorch resizes with another kernel, off by one level."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class FixedActionTokens:
    """Stands for an action tokenizer: always the same tokens."""

    def __call__(self, chunk):
        return [list(ACTION_CODES)]


def sample(folder, seed=0, dims=6):
    """Pictures, normalised state and chunk of a seeded sample."""
    rng = np.random.default_rng(seed)
    sizes = CAMERA_SIZES_PX[: CAMERAS[folder.parent.name]]
    images = tuple(rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes)
    config = json.loads((folder / "config.json").read_text())
    horizon = config["max_action_horizon"]
    state = rng.uniform(-1.2, 1.2, dims).astype(np.float32)
    actions = rng.uniform(-1, 1, (horizon, dims)).astype(np.float32)
    is_pad = np.arange(horizon) >= horizon - 2
    return images, state, actions, is_pad


def ours(folder, style="act", discrete=True, seed=0, task=TASK, depth_codes=()):
    images, state, actions, is_pad = sample(folder, seed)
    layout = Collator(folder).settings.prompt
    question = robot_question(
        style, clean_task(task), state_text(state, layout.state_bins), SETUP, CONTROL, layout
    )
    answer = robot_answer(style, depth_codes, ACTION_CODES if discrete else None)
    return Example(seed, "arm", images, question, answer, Chunk(actions, is_pad), depth_codes)


def lerobots(folder, discrete, monkeypatch, seed=0):
    monkeypatch.setattr(
        peer.UniversalActionProcessor, "from_pretrained_local", lambda *_: FixedActionTokens()
    )
    # Two of the checkpoints have a tokenizer of another class than the release's.
    monkeypatch.setattr(peer, "Qwen2Tokenizer", AutoTokenizer)
    images, state, actions, is_pad = sample(folder, seed)
    config = json.loads((folder / "config.json").read_text())
    keys = [f"observation.images.{index}" for index in range(len(images))]
    step = peer.MolmoAct2PackInputsProcessorStep(
        checkpoint_path=str(folder),
        action_mode="both" if discrete else "continuous",
        image_keys=keys,
        setup_type=SETUP,
        control_mode=CONTROL,
        num_state_tokens=config["num_state_tokens"],
        max_sequence_length=4096,
        max_action_dim=config["max_action_dim"],
    )
    transition = {
        TransitionKey.OBSERVATION: {
            "observation.state": torch.from_numpy(state)[None],
            **{key: torch.from_numpy(image)[None] for key, image in zip(keys, images, strict=True)},
        },
        TransitionKey.ACTION: torch.from_numpy(actions)[None],
        TransitionKey.COMPLEMENTARY_DATA: {
            "task": [TASK],
            "action_is_pad": torch.from_numpy(is_pad)[None],
        },
    }
    packed = step(transition)
    return packed[TransitionKey.COMPLEMENTARY_DATA], packed[TransitionKey.ACTION]


def test_a_batch_is_filled_up_to_a_length_with_what_nobody_sees():
    folder = REFERENCE / "two_cameras" / "checkpoint"
    example = ours(folder)
    plain, filled = Collator(folder)([example]), Collator(folder, lengths=16)([example])
    tokens = plain.model_inputs["input_ids"].shape[1]
    length = filled.model_inputs["input_ids"].shape[1]
    assert length % 16 == 0
    assert tokens % 16 != 0, "nothing would be filled up"
    assert tokens < length < tokens + 16
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(filled.model_inputs[name][:, :tokens], plain.model_inputs[name])
    assert not filled.model_inputs["attention_mask"][:, tokens:].any()
    assert (filled.labels[:, tokens:] == IGNORED).all()


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("model", ["two_cameras", "one_camera_crops", "three_cameras"])
def test_a_batch_is_lerobots(model, discrete, monkeypatch):
    folder = REFERENCE / model / "checkpoint"
    expected, actions = lerobots(folder, discrete, monkeypatch)
    batch = Collator(folder)([ours(folder, discrete=discrete)])
    names = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "image_grids")
    for name in (*names, "image_token_pooling", "image_num_crops"):
        found = batch.model_inputs[name]
        assert torch.equal(found.to(expected[name].dtype), expected[name]), name
        assert found.dtype == expected[name].dtype, name
    if discrete:
        assert torch.equal(batch.labels, expected["labels"])
    else:
        assert (batch.labels == -100).all()
    assert torch.equal(batch.actions, actions)
    assert torch.equal(batch.dim_is_pad, expected["action_dim_is_pad"])
    assert torch.equal(batch.horizon_is_pad, expected["action_horizon_is_pad"])
    assert batch.has_actions.tolist() == [True]


def test_short_rows_are_padded_behind_and_the_padding_is_masked():
    """LeRobot 0.6.1 unmasks padding when it inserts the first token; the expert would see it."""
    folder = REFERENCE / "three_cameras" / "checkpoint"
    collator = Collator(folder)
    short, long = (
        ours(folder, discrete=False),
        ours(folder, task="sort all cubes by colour", seed=1),
    )
    alone = [collator([example]) for example in (short, long)]
    batch = collator([short, long])
    lengths = [one.model_inputs["input_ids"].shape[1] for one in alone]
    assert lengths[0] < lengths[1] == batch.model_inputs["input_ids"].shape[1]
    assert batch.model_inputs["attention_mask"].sum(1).tolist() == lengths
    for index, (one, length) in enumerate(zip(alone, lengths, strict=True)):
        for name in ("input_ids", "token_type_ids"):
            whole = batch.model_inputs[name][index]
            assert torch.equal(whole[:length], one.model_inputs[name][0])
        assert torch.equal(batch.labels[index, :length], one.labels[0])
        assert (batch.labels[index, length:] == -100).all()
    assert torch.equal(
        batch.model_inputs["pixel_values"],
        torch.cat([one.model_inputs["pixel_values"] for one in alone]),
    )
    assert batch.numbers.tolist() == [0, 1]


@pytest.mark.parametrize("style", ["depth", "depth_act"])
def test_the_depth_answer_is_learnt_token_by_token(style):
    folder = REFERENCE / "two_cameras" / "checkpoint"
    example = ours(folder, style, discrete=style == "depth_act", depth_codes=(4, 0, 7))
    batch = Collator(folder)([example])
    config = json.loads((folder / "config.json").read_text())
    depth = [config["depth_token_start_id"] + code for code in (4, 0, 7)]
    expected = [config["depth_start_token_id"], *depth, config["depth_end_token_id"]]
    if style == "depth_act":
        action = [config["action_token_start_id"] + code for code in ACTION_CODES]
        expected += [config["action_start_token_id"], *action, config["action_end_token_id"]]
    expected += [config["eos_token_id"]]
    assert batch.labels[batch.labels >= 0].tolist() == expected
    triggers = [config["depth_output_token_id"], config["action_output_token_id"]]
    tokens = batch.model_inputs["input_ids"][0].tolist()
    before = tokens[: -len(expected)]
    asked = triggers if style == "depth_act" else triggers[:1]
    assert before[-len(asked) :] == asked
    question = example.question
    assert ("predict the action" in question) == (style == "depth_act")


def test_a_question_without_pictures_or_chunk_makes_a_batch():
    folder = REFERENCE / "two_cameras" / "checkpoint"
    question = "<|im_start|>user\nwhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    batch = Collator(folder)([Example(5, "text", (), question, "4<|im_end|>", None)])
    assert "pixel_values" not in batch.model_inputs
    assert batch.has_actions.tolist() == [False]
    assert batch.dim_is_pad.all()
    assert batch.horizon_is_pad.all()
    assert int((batch.labels >= 0).sum()) == 2


def test_a_chunk_that_the_checkpoint_has_no_room_for_is_refused():
    folder = REFERENCE / "one_camera_crops" / "checkpoint"  # 7 steps x 8 dims
    chunk = Chunk(np.zeros((9, 6), np.float32), np.zeros(9, bool))
    with pytest.raises(TrainingError, match="example 3 of arm has a chunk of 9 steps x 6 dims"):
        Collator(folder)([Example(3, "arm", (), "?", "", chunk)])


def test_a_short_chunk_is_filled_up_to_the_checkpoints_horizon():
    folder = REFERENCE / "one_camera_crops" / "checkpoint"
    chunk = Chunk(np.ones((5, 6), np.float32), np.array([0, 0, 0, 0, 1], bool))
    batch = Collator(folder)([Example(3, "arm", (), "?", "", chunk)])
    assert batch.actions.shape == (1, 7, 8)
    assert batch.horizon_is_pad.tolist() == [[False] * 4 + [True] * 3]
    assert batch.actions[0].sum() == 30


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"config\.json: missing; give a folder in the rel"):
        Collator(tmp_path)
