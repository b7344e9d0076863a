"""Examples of a LeRobot v3 dataset hold what LeRobot's own loader gives, in the model's terms."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot.datasets")

from conftest import REFERENCE
from tiny_dataset import TASKS, write_tiny_dataset

from training.datasets.augmentation import Augmentation
from training.datasets.mixture import Mixture, MixtureContext
from training.datasets.pictures import PictureReader
from training.datasets.question_source import QuestionSource
from training.datasets.robot_source import RobotSource
from training.datasets.settings import QuestionSettings, parse_mixture
from training.errors import TrainingError
from training.examples.collate import Collator

NANO = Path(__file__).parent.parent / "checkpoints" / "nano"
HORIZON = 30


pytestmark = pytest.mark.usefixtures("one_thread")


class CountedDepth:
    """Depth codes that tell episode, frame and kind."""

    def codes(self, episode, frame, which="buffer", interval=None):
        return np.array([episode, frame % 128, which == "fresh", interval or 0])


class RememberedActions:
    """Stands for an action tokenizer, and keeps what it was given."""

    def __init__(self):
        self.chunks = []

    def encode(self, chunk):
        self.chunks.append(chunk)
        return [5, 2]


def source(
    folder,
    *,
    annotations=None,
    depth=None,
    tokenizer=None,
    augmentation=None,
    checkpoint=NANO,
    seed=0,
    **settings,
):
    if depth is not None or annotations is not None:
        settings["depth"] = annotations or "not opened"
    mixture = parse_mixture({"arm": {"robot": str(folder), "embodiment": "so101", **settings}})
    context = MixtureContext(seed, checkpoint, checkpoint / "norm_stats.json", tokenizer)
    return RobotSource(mixture.robots[0], context, augmentation, depth)


@pytest.fixture(scope="module")
def arm(tiny_dataset):
    return source(tiny_dataset)


def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def lerobots(tiny_dataset):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset(
        "tests/tiny",
        root=tiny_dataset,
        delta_timestamps={"action": [step / 30 for step in range(HORIZON)]},
        video_backend="pyav",
        return_uint8=True,
    )


def normalised(values, stats):
    """Write the release's formula out once more, in the checkpoint's joint frame."""
    values = np.asarray(values, np.float64) * [1, -1, 1, 1, 1, 1] + [0, 90, 90, 0, 0, 0]
    low, high = np.array(stats["q01"]), np.array(stats["q99"])
    return np.clip(2 * (values - low) / (high - low) - 1, -1, 1)


@pytest.mark.parametrize("row", [0, 17, 45, 75, 76, 119])
def test_an_example_is_what_lerobots_loader_gives(arm, lerobots, row):
    item = lerobots[row]
    tags = json.loads((NANO / "norm_stats.json").read_text())["metadata_by_tag"]
    tag = tags["so100_so101_molmoact2"]
    example = arm.example_at(3, row, "act", rng())
    for image, camera in zip(example.images, ("front", "wrist"), strict=True):
        expected = item[f"observation.images.{camera}"].permute(1, 2, 0).numpy()
        assert np.array_equal(image, expected)
    np.testing.assert_array_equal(example.chunk.horizon_is_pad, item["action_is_pad"].numpy())
    np.testing.assert_allclose(
        example.chunk.actions, normalised(item["action"].numpy(), tag["action_stats"]), atol=1e-5
    )
    state = normalised(item["observation.state"].numpy(), tag["state_stats"])
    bins = "".join(f"<state_{round((value + 1) / 2 * 255)}>" for value in state)
    task = item["task"].lower().removesuffix(".")
    assert f"The task is to {task}. " in example.question
    assert f"<state_start>{bins}<state_end>" in example.question
    assert example.answer == ""
    assert (example.number, example.source) == (3, "arm")


def test_any_order_of_frames_gives_the_same_pictures(arm, tiny_dataset):
    reader = PictureReader(arm.dataset)
    forward = [reader.picture(1, frame, "observation.images.front") for frame in range(36)]
    backward = [reader.picture(1, frame, "observation.images.front") for frame in range(35, -1, -1)]
    assert all(map(np.array_equal, forward, reversed(backward)))
    assert len({picture.tobytes() for picture in forward}) > 30  # the frames do differ


def test_a_picture_past_the_end_of_a_video_is_an_error(arm):
    reader = PictureReader(arm.dataset)
    with pytest.raises(TrainingError, match=r"episode 2 frame 90: no picture \(none at"):
        reader.picture(2, 90, "observation.images.front")


def test_styles_say_depth_and_actions(tiny_dataset):
    tokenizer = RememberedActions()
    styles = {"act": 1, "depth": 1, "depth_act": 1}
    arm = source(
        tiny_dataset,
        depth=CountedDepth(),
        tokenizer=tokenizer,
        styles=styles,
        discrete=True,
        depth_interval=15,
    )
    act, depth, both = (arm.example_at(0, 81, style, rng()) for style in styles)
    actions = "<action_start><action_5><action_2><action_end>"
    codes = "<depth_start><depth_2><depth_5><depth_0><depth_15><depth_end>"
    assert act.answer == f"{actions}<|im_end|>"
    assert depth.answer == f"{codes}<|im_end|>"
    assert both.answer == f"{codes}{actions}<|im_end|>"
    assert act.question.endswith("\n<action_output>")
    assert depth.question.endswith(
        ". Given these, what is the depth map of the main image?<|im_end|>\n"
        "<|im_start|>assistant\n<depth_output>"
    )
    assert both.question.endswith("\n<depth_output><action_output>")
    assert depth.chunk is None
    assert both.depth_codes == (2, 5, 0, 15)
    assert act.depth_codes == ()
    assert np.array_equal(tokenizer.chunks[0], act.chunk.actions)


def test_styles_are_drawn_by_weight(tiny_dataset):
    arm = source(tiny_dataset, depth=CountedDepth(), styles={"act": 3, "depth_act": 1})
    drawn = [arm.example(n, np.random.default_rng(n)).answer == "" for n in range(400)]
    assert 0.68 < np.mean(drawn) < 0.82


def test_every_frame_of_the_chosen_episodes_is_drawn(tiny_dataset):
    arm = source(tiny_dataset, episodes=[1, 2])
    assert arm.frames == 36
    asked = {arm.example(n, np.random.default_rng(n)).question for n in range(40)}
    assert all(TASKS[1].lower().removesuffix(".") in question for question in asked)


def test_cameras_are_shuffled_by_episode_when_asked(tiny_dataset):
    plain, orders = source(tiny_dataset), []
    for seed in range(3):
        shuffled = source(tiny_dataset, shuffle_cameras=True, seed=seed)
        for row in (0, 20, 40, 60, 80, 100):
            expected = plain.example_at(0, row, "act", rng()).images
            images = shuffled.example_at(0, row, "act", rng()).images
            swapped = np.array_equal(images[0], expected[1])
            assert np.array_equal(images[0], expected[1 if swapped else 0])
            orders.append(swapped)
    assert orders[0::2] == orders[1::2]  # two frames of an episode
    assert len(set(orders)) == 2


def test_depth_styles_keep_the_geometry_of_the_picture_with_the_codes(tiny_dataset):
    turned = Augmentation(0.8, 20.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    settings = {"depth": CountedDepth(), "styles": {"act": 1, "depth_act": 1}}
    arm = source(tiny_dataset, augmentation=turned, **settings)
    plain = source(tiny_dataset, **settings).example_at(0, 9, "act", rng()).images
    acts, says = (arm.example_at(0, 9, style, rng()).images for style in ("act", "depth_act"))
    assert not np.array_equal(acts[0], plain[0])
    assert np.array_equal(says[0], plain[0])
    assert not np.array_equal(says[1], plain[1])


def test_annotations_of_a_dataset_are_used_and_checked(tiny_dataset, tmp_path):
    from training.depth import annotations

    def annotate(name, camera="observation.images.front", cells=25, codes=24):
        frames = [40, 36, 44]
        writer = annotations.AnnotationWriter(tmp_path / name, (1,), cells)
        for count in frames:
            values = np.full((count, cells), count % codes, np.int16)
            changed = np.ones((count, cells), bool)
            writer.add_episode({1: annotations.EpisodeCodes(values, values, changed)})
        digest = annotations.dataset_digest(tiny_dataset)
        info = ("tiny", digest, camera, "true", "0", 0.996, (1,), cells, codes, ())
        writer.close(annotations.AnnotationInfo(*info))
        return str(tmp_path / name)

    settings = {"styles": {"depth": 1}, "checkpoint": REFERENCE / "one_camera_crops/checkpoint"}
    arm = source(tiny_dataset, annotations=annotate("good"), **settings)
    assert arm.example_at(0, 50, "depth", rng()).depth_codes == (36 % 24,) * 25
    with pytest.raises(TrainingError, match="16 cells of 24 codes; the checkpoint has 25 of 24"):
        source(tiny_dataset, annotations=annotate("cells", cells=16), **settings)
    side = annotate("side", camera="observation.images.wrist")
    with pytest.raises(TrainingError, match=r"annotated from observation\.images\.wrist; the"):
        source(tiny_dataset, annotations=side, **settings)
    with pytest.raises(TrainingError, match=r"data\.arm\.depth_interval: 15; annotated: 1"):
        source(tiny_dataset, annotations=annotate("fast"), depth_interval=15, **settings)


def test_what_does_not_fit_the_checkpoint_is_refused(tiny_dataset, tmp_path):
    with pytest.raises(TrainingError, match="discrete is true and the recipe names no action_tok"):
        source(tiny_dataset, discrete=True)
    with pytest.raises(TrainingError, match=r"data\.arm\.episodes: \[2, 4\]; .* has 3"):
        source(tiny_dataset, episodes=[2, 4])
    with pytest.raises(TrainingError, match=r"norm_stats\.json: no tag widowx_bridge, which embod"):
        source(tiny_dataset, embodiment="widowx_bridge")
    turned = ["observation.images.wrist", "observation.images.front"]
    with pytest.raises(TrainingError, match=r"lists .*front, .*wrist; the recipe uses .*wrist"):
        source(tiny_dataset, cameras=turned)
    short = write_tiny_dataset(tmp_path / "short", lengths=(32, 29))
    with pytest.raises(TrainingError, match="episode 1 has 29 frames, a chunk needs 30"):
        source(short)


def test_a_source_travels_to_a_worker_process(arm):
    before = arm.example_at(0, 9, "act", rng())
    after = pickle.loads(pickle.dumps(arm)).example_at(0, 9, "act", rng())
    assert all(map(np.array_equal, before.images, after.images))


def test_examples_make_a_batch(tiny_dataset):
    mixture = parse_mixture({"arm": {"robot": str(tiny_dataset), "embodiment": "so101"}}, "full")
    drawn = Mixture(mixture, MixtureContext(0, NANO, NANO / "norm_stats.json"))
    batch = Collator(NANO)([drawn.example(number) for number in range(3)])
    assert batch.actions.shape == (3, 30, 32)
    assert batch.model_inputs["image_grids"].shape == (6, 4)
    assert (~batch.dim_is_pad).sum(1).tolist() == [6, 6, 6]


def write_questions(folder, lines):
    import cv2

    (folder / "pictures").mkdir(parents=True)
    cv2.imwrite(str(folder / "pictures/0.png"), np.full((20, 30, 3), (10, 20, 200), np.uint8))
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


ASKED = {"images": ["pictures/0.png"], "question": "Which colour?", "answer": "Red", "kind": "hue"}


def test_a_question_is_asked_as_the_model_knows_it(tmp_path):
    text = {"images": [], "question": "2 + 2?", "answer": "4", "kind": "text", "radius": 1}
    folder = write_questions(tmp_path / "q", [ASKED, text])
    asked = QuestionSource(QuestionSettings("q", folder, 1.0))
    drawn = {asked.example(n, np.random.default_rng(n)).answer: n for n in range(20)}
    assert set(drawn) == {"Red<|im_end|>", "4<|im_end|>"}
    number = drawn["Red<|im_end|>"]
    example = asked.example(number, np.random.default_rng(number))
    assert example.question == (
        "<|im_start|>user\nWhich colour?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert example.images[0].shape == (20, 30, 3)
    assert example.images[0][0, 0].tolist() == [200, 20, 10]
    assert example.chunk is None


def test_an_answer_may_go_on_where_the_question_stops(tmp_path):
    begun = {**ASKED, "question": "Take the", "answer": " red one", "goes_on": True}
    folder = write_questions(tmp_path / "q", [begun])
    example = QuestionSource(QuestionSettings("q", folder, 1.0)).example(
        0, np.random.default_rng(0)
    )
    assert example.question + example.answer == "<|im_start|>user\nTake the red one<|im_end|>"
    assert example.question.endswith("Take the")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goes_on": "yes"}, r"line 1: goes_on is 'yes'; true or false is needed"),
        ({"answer": " "}, r"line 1: answer is ' '; a text is needed"),
        ({"images": ["pictures/9.png"]}, r"line 1: images names .*9\.png, which is missing"),
        ({"images": "x"}, r"line 1: images is 'x'; a list of paths"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, change, message):
    folder = write_questions(tmp_path / "q", [{**ASKED, **change}])
    with pytest.raises(TrainingError, match=message):
        QuestionSource(QuestionSettings("q", folder, 1.0))


def test_a_folder_without_questions_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"no \*\.jsonl file; give a folder of questions"):
        QuestionSource(QuestionSettings("q", tmp_path, 1.0))
