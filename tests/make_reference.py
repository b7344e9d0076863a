"""Make a small checkpoint and record what LeRobot's MolmoAct2 returns on it.

LeRobot ships the model behind the released checkpoints. A bundle built from the checkpoint must
give the same depth codes and the same actions; the recorded intermediates tell where a difference
starts. Needs Python 3.12 with `lerobot[molmoact2]==0.6.1`; the tests need only the files.

    PYTHONPATH=. python tests/make_reference.py three_cameras tests/reference/three_cameras

writes OUT/checkpoint, OUT/cases.json (one entry per call, in order) and OUT/cases.npz (arrays named
`frame0.camera0`, `<call>.state`, `<call>.noise`, `<call>.actions`, `<call>.depth_codes`, ...). The
case `action_tokens` also has calls with discrete actions; a random checkpoint does not write any,
so its head is fitted to say what was made up for those calls (tests/steered_head.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lerobot.policies.molmoact2.modeling_molmoact2 import _strict_load_safetensors_weights
from lerobot.policies.molmoact2.molmoact2_hf_model import modeling_molmoact2 as reference
from lerobot.policies.molmoact2.processor_molmoact2 import _load_local_molmoact2_processor
from steered_head import (
    fit_action_tokenizer,
    open_action_tokenizer,
    smooth_chunk,
    steer_head,
    without_expert,
)

from training.init.init_checkpoint import init_checkpoint
from training.init.norm_stats import NORM_TAG, STATE_QUANTILES
from training.init.sizes import DepthGate, ExpertSize, ModelSize, TextSize, VisionSize

TASKS = ("Put the green cube in the bin.", "Task: open the DRAWER!", "wipe the table")
CAMERA_SIZES_PX = ((60, 80), (72, 72), (50, 90), (90, 64), (64, 100))  # height, width
# PyTorch resizes with another kernel on one thread than on several, and the two round halves
# differently. Robots' computers have several cores.
RESIZE_THREADS = 2
RECORDED = {
    "image_features": "model.vision_backbone",
    "hidden_after_block_0": "model.transformer.blocks.0",
    "hidden_final": "model.transformer.ln_f",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One checkpoint and the calls on it."""

    size: ModelSize
    frames: int
    seed: int
    dtype: str = "fp32"
    max_shard_mib: float = 4768
    n_action_steps: int | None = None  # of a chunk that are returned; None: all
    discrete: bool = False  # the same calls once more, with action tokens


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the reference, ready to be made."""

    name: str
    frame: int
    task: str
    state: np.ndarray
    noise_seed: int
    depth: bool
    actions: str
    before: str | None  # the call whose depth codes it goes on from


SMALL = ModelSize(
    name="three_cameras",
    vision=VisionSize(
        image_size_px=70,
        patch_size_px=14,
        pooling_patches=2,
        width=24,
        heads=2,
        mlp_width=40,
        layers=3,
        tap_layers=(-2,),
        adapter_width=32,
        adapter_heads=4,
        adapter_mlp_width=24,
    ),
    text=TextSize(
        width=32,
        layers=3,
        heads=4,
        kv_heads=4,
        head_dim=16,
        mlp_width=56,
        vocab_rows=3072,
        added_rows=16,
        rope_theta=10_000.0,
        max_positions=512,
    ),
    expert=ExpertSize(
        width=48,
        heads=3,
        mlp_ratio=8 / 3,
        mlp_multiple=16,
        timestep_width=16,
        max_action_dim=7,
        horizon=9,
        flow_steps=4,
    ),
    depth_grid=3,
    depth_gate=DepthGate.NONE,
    cameras=("top", "side", "wrist"),
)
FIVE_CAMERAS = dataclasses.replace(
    SMALL, name="five_cameras", cameras=("top", "left", "right", "front", "wrist")
)
DEEP = dataclasses.replace(
    SMALL,
    name="deep",
    text=dataclasses.replace(SMALL.text, layers=7, heads=6, kv_heads=1, head_dim=20),
    depth_grid=6,
    depth_gate=DepthGate.PER_LAYER,
    cameras=("front", "wrist"),
)
TILED = dataclasses.replace(
    SMALL,
    name="tiled",
    vision=dataclasses.replace(
        SMALL.vision, crop_mode="overlap-and-resize-c2", max_crops=4, overlap_patches=(1, 2)
    ),
    depth_grid=5,
    depth_gate=DepthGate.SHARED,
    cameras=("front", "wrist"),
)
ACTION_TOKENS = dataclasses.replace(
    SMALL,
    name="action_tokens",
    text=dataclasses.replace(SMALL.text, kv_heads=2),
    expert=dataclasses.replace(SMALL.expert, horizon=8),
    depth_gate=DepthGate.PER_LAYER,
    cameras=("front", "wrist"),
)

SPEAKING_CARD = """# MolmoAct2, random weights that write action tokens

Weights that nobody trained, but for the head: its rows of some action tokens are fitted to the
calls beside this folder. Made by tests/make_reference.py; it knows nothing.
"""

CASES = {
    "three_cameras": Case(SMALL, frames=3, seed=1, dtype="bf16", max_shard_mib=0.5),
    "five_cameras": Case(FIVE_CAMERAS, frames=3, seed=2),
    "deep": Case(DEEP, frames=4, seed=3),
    "tiled": Case(TILED, frames=3, seed=4),
    "action_tokens": Case(ACTION_TOKENS, frames=3, seed=5, n_action_steps=6, discrete=True),
}


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=tuple(CASES))
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Write the checkpoint, run the reference on it, record."""
    args = build_parser().parse_args(argv)
    case = CASES[args.case]
    args.out.mkdir(parents=True)
    init_checkpoint(
        args.out / "checkpoint",
        case.size,
        seed=case.seed,
        dtype=case.dtype,
        max_shard_mib=case.max_shard_mib,
    )
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(RESIZE_THREADS)
    checkpoint = args.out / "checkpoint"
    if case.n_action_steps is not None:
        stats = json.loads((checkpoint / "norm_stats.json").read_text())
        stats["metadata_by_tag"][NORM_TAG]["n_action_steps"] = case.n_action_steps
        (checkpoint / "norm_stats.json").write_text(json.dumps(stats, indent=2) + "\n")
    rng = np.random.default_rng(case.seed)
    frames = moving_scene(rng, len(case.size.cameras), case.frames)
    calls = plan_calls(case, rng)
    if case.discrete:
        speak(checkpoint, case, frames, [call for call in calls if call.actions == "discrete"])
    entries, arrays = record_calls(case, checkpoint, frames, calls)
    content = {"case": args.case, "seed": case.seed, "cases": entries}
    (args.out / "cases.json").write_text(json.dumps(content, indent=1) + "\n")
    np.savez_compressed(args.out / "cases.npz", **arrays)
    return 0


def load_reference(checkpoint: Path) -> tuple[torch.nn.Module, object]:
    """Load model (float32) and processor as LeRobot's policy does.

    transformers 5 draws new weights after reading them, because the model's own initialisation does
    not heed its marks; LeRobot therefore loads a second time, strictly, and so do we.
    """
    model = reference.MolmoAct2ForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32
    )
    _strict_load_safetensors_weights(model, str(checkpoint))
    return model.eval(), _load_local_molmoact2_processor(str(checkpoint))


def plan_calls(case: Case, rng: np.random.Generator) -> list[Call]:
    """One call without depth, then frame by frame with depth kept in between; tokens likewise."""
    calls = []
    for actions in ("continuous", "discrete") if case.discrete else ("continuous",):
        prefix, before = "" if actions == "continuous" else "tokens_", None
        for number in range(case.frames + 1):
            frame, depth = max(0, number - 1), number > 0
            name = f"{prefix}depth_{frame}" if depth else f"{prefix}plain"
            state = rng.uniform(*(STATE_QUANTILES[q] for q in ("q01", "q99"))).astype(np.float32)
            seed = int(rng.integers(1 << 31))
            task = TASKS[number % len(TASKS)]
            calls.append(Call(name, frame, task, state, seed, depth, actions, before))
            before = name if depth else None
    return calls


def speak(checkpoint: Path, case: Case, frames: list, calls: list[Call]) -> None:
    """Fit an action tokenizer, then the head, so that each call says a smooth chunk of its own.

    Checks that the checkpoint without its expert says the same where no depth is asked for; with
    depth the reference needs an expert, though it does not use it then.
    """
    fit_action_tokenizer(checkpoint / "action_tokenizer", case.size.expert.horizon, case.seed)
    tokenizer = open_action_tokenizer(checkpoint / "action_tokenizer")
    rng = np.random.default_rng(case.seed)
    chunks = [smooth_chunk(rng, case.size.expert.horizon) for _ in calls]
    model, processor = load_reference(checkpoint)
    texts = [tokenizer(chunk)[0] for chunk in chunks]

    def say(model: torch.nn.Module, processor: object, calls: list[Call]) -> list:
        caches, results = {None: None}, []
        for call in calls:
            result = act(model, processor, frames, call, caches[call.before], tokenizer)
            caches[call.name] = result.depth_cache
            results.append(result)
        return results

    (checkpoint / "README.md").write_text(SPEAKING_CARD)
    steer_head(model, texts, lambda: say(model, processor, calls), checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        bare = without_expert(checkpoint, Path(folder) / "checkpoint")
        plain = [call for call in calls if not call.depth]
        whole, part = (say(*load_reference(path), plain) for path in (checkpoint, bare))
    for ours, theirs in zip(whole, part, strict=True):
        assert torch.equal(ours.generated_token_ids, theirs.generated_token_ids)
        assert torch.equal(ours.actions, theirs.actions)


def act(
    model: torch.nn.Module,
    processor: object,
    frames: list,
    call: Call,
    cache: object,
    action_tokenizer: object = None,
) -> reference.MolmoAct2ActionOutput:
    """Call the reference as LeRobot's policy does."""
    return model.predict_action(
        processor=processor,
        images=frames[call.frame],
        task=call.task,
        state=call.state,
        norm_tag=NORM_TAG,
        inference_action_mode=call.actions,
        enable_depth_reasoning=call.depth,
        depth_cache=cache,
        action_tokenizer=action_tokenizer,
        enable_cuda_graph=False,
        generator=torch.Generator().manual_seed(call.noise_seed),
    )


def record_calls(
    case: Case, checkpoint: Path, frames: list, calls: list[Call]
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Make the calls and keep what goes in and what comes out."""
    model, processor = load_reference(checkpoint)
    tokenizer = open_action_tokenizer(checkpoint / "action_tokenizer") if case.discrete else None
    arrays = {
        f"frame{f}.camera{c}": image
        for f, views in enumerate(frames)
        for c, image in enumerate(views)
    }
    entries: list[dict] = []
    caches, shown = {None: None}, {call.name: call.frame for call in calls}
    for call in calls:
        kept, hooks = _record_modules(model)
        result = act(model, processor, frames, call, caches[call.before], tokenizer)
        for hook in hooks:
            hook.remove()
        outputs = {"state": call.state, "actions": result.actions.numpy()}
        if call.actions == "continuous":
            outputs |= {"noise": _noise(case, call.noise_seed), **kept}
        if result.generated_token_ids is not None:
            outputs["generated_token_ids"] = result.generated_token_ids.numpy()
        if call.depth:
            outputs["depth_codes"] = result.depth_bins.numpy()
        if call.before is not None:
            outputs["changed_cells"] = reference._compute_depth_update_mask(
                frames[call.frame][0],
                frames[shown[call.before]][0],
                num_depth_codes=case.size.depth_grid**2,
            )
        arrays.update({f"{call.name}.{key}": value for key, value in outputs.items()})
        entries.append(
            {
                "name": call.name,
                "frame": call.frame,
                "images": [f"frame{call.frame}.camera{c}" for c in range(len(case.size.cameras))],
                "task": call.task,
                "norm_tag": NORM_TAG,
                "depth_reasoning": call.depth,
                "adaptive_depth": call.depth,
                "depth_cache_from": call.before,
                "actions": call.actions,
            }
        )
        caches[call.name] = result.depth_cache
    return entries, arrays


def moving_scene(rng: np.random.Generator, cameras: int, frames: int) -> list[list[np.ndarray]]:
    """Paint smooth pictures in which one square moves a little further in every frame."""
    pictures = []
    for height, width in CAMERA_SIZES_PX[:cameras]:
        y, x = np.mgrid[0:height, 0:width]
        waves = [
            np.sin(x / rng.uniform(8, 30) + rng.uniform(0, 6)) * np.cos(y / rng.uniform(8, 30))
            for _ in range(3)
        ]
        pictures.append(128 + 90 * np.stack(waves, axis=-1))
    scene = []
    for frame in range(frames):
        views = []
        for picture in pictures:
            view = picture + rng.normal(0, 0.7, picture.shape)
            top, left = 6 + 9 * frame, 8 + 11 * frame
            view[top : top + 16, left : left + 16] = (220, 60, 30)
            views.append(np.clip(view, 0, 255).astype(np.uint8))
        scene.append(views)
    return scene


def _record_modules(model: torch.nn.Module) -> tuple[dict[str, np.ndarray], list]:
    kept: dict[str, np.ndarray] = {}

    def keep(name: str):
        def hook(_module, _inputs, output):
            value = output[0] if isinstance(output, tuple) else output
            kept.setdefault(name, value.detach().numpy())  # the first pass, which is the prefill

        return hook

    modules = dict(model.named_modules())
    return kept, [
        modules[path].register_forward_hook(keep(name)) for name, path in RECORDED.items()
    ]


def _noise(case: Case, seed: int) -> np.ndarray:
    shape = (1, case.size.expert.horizon, case.size.expert.max_action_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()


if __name__ == "__main__":
    sys.exit(main())
