"""Say whether the stages under runs/nano learned, and whether what came out acts alike everywhere.

    python scripts/check_chain.py runs/nano data/demos

Every stage's loss must have fallen; the last checkpoint must load in LeRobot's MolmoAct2 class and,
as an fp32 bundle, give the same depth codes and actions on recorded frames. A model of few steps
may say no chunk, or no end of its codes: such an answer is counted and not compared, but the expert
has to act on every frame. Exits 1 otherwise.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.molmoact2.molmoact2_hf_model.action_tokenizer import UniversalActionProcessor
from lerobot.policies.molmoact2.processor_molmoact2 import _load_local_molmoact2_processor

from edge.errors import UndecodableActionsError
from edge.normalization import choose_tag
from edge.policy import Policy
from quantization.build import build_bundle
from training.model.load import load_model

STAGES = ("general", "specialise", "rehearse", "discrete", "expert", "depth")
WAYS = ("flow", "depth", "discrete")
_OURS = {"flow": {}, "depth": {"depth": "full"}, "discrete": {"actions": "discrete"}}
FRAMES = 4
SHARE_OF_RANGE = 0.002  # of a joint's q01..q99


def main(runs: Path, dataset: Path) -> int:
    """Print a line a stage and a line a way of acting; 0 when all is well."""
    fell = [_loss_fell(runs / stage) for stage in STAGES]
    return 0 if all([*fell, _acts_alike(runs / "depth" / "checkpoint", dataset)]) else 1


def _loss_fell(run: Path) -> bool:
    losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
    part = max(1, len(losses) // 10)
    first, last = np.mean(losses[:part]), np.mean(losses[-part:])
    print(f"{run.name:<12} {len(losses):>6} steps   loss {first:8.4f} -> {last:8.4f}")
    return bool(last < first)


def _acts_alike(checkpoint: Path, dataset: Path) -> bool:
    torch.set_num_threads(2)  # one thread resizes pictures with another kernel
    public = PublicModel(checkpoint)
    recorded = LeRobotDataset(dataset.name, root=dataset, video_backend="pyav")
    with tempfile.TemporaryDirectory() as folder:
        build_bundle(checkpoint, Path(folder) / "bundle", "fp32")
        policy = Policy.open(Path(folder) / "bundle")
        tag = choose_tag(policy.bundle.tags, None)
        extent = np.abs(tag.action.unnormalize(np.ones(6)) - tag.action.unnormalize(-np.ones(6)))
        shape = (1, tag.action_horizon, policy.bundle.manifest.model.max_action_dim)
        apart, same_codes = {way: [] for way in WAYS}, True
        for seed, index in enumerate(np.linspace(0, len(recorded) - 1, FRAMES).astype(int)):
            frame = recorded[int(index)]
            state = tag.state.unnormalize(np.full(tag.state.dim, 0.1 * seed)).astype(np.float32)
            given = (_pictures(frame, tag.cameras), frame["task"], state, tag.name)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()
            for way in WAYS:
                policy.reset()
                try:
                    ours = policy.act(*given, **_OURS[way], noise=noise)
                    actions, codes = public.act(*given, way=way, seed=seed)
                except (UndecodableActionsError, RuntimeError) as error:
                    print(f"frame {index}, {way}: {error}")
                    continue
                apart[way].append(float((np.abs(ours.actions - actions) / extent).max()))
                if way == "depth":
                    same_codes &= bool(np.array_equal(ours.depth_codes, codes))
    for way, shares in apart.items():
        most = f"at most {100 * max(shares):.4f} % of range apart" if shares else "not compared"
        print(f"LeRobot and the fp32 bundle, {way:<9} {len(shares)} of {FRAMES} frames, {most}")
    print(f"depth codes equal: {same_codes}")
    close = all(share <= SHARE_OF_RANGE for shares in apart.values() for share in shares)
    return same_codes and close and len(apart["flow"]) == FRAMES


def _pictures(frame: dict[str, torch.Tensor], cameras: tuple[str, ...]) -> list[np.ndarray]:
    pictures = ((frame[key] * 255).round().byte().numpy() for key in cameras)
    return [np.ascontiguousarray(picture.transpose(1, 2, 0)) for picture in pictures]


class PublicModel:
    """LeRobot's MolmoAct2 with its own processor and action tokenizer."""

    def __init__(self, checkpoint: Path) -> None:
        self._model = load_model(checkpoint, fast_attention=False).eval()
        self._processor = _load_local_molmoact2_processor(str(checkpoint))
        folder = str(checkpoint / "action_tokenizer")
        self._tokenizer = UniversalActionProcessor.from_pretrained_local(folder)

    def act(
        self,
        images: list[np.ndarray],
        task: str,
        state: np.ndarray,
        tag: str,
        *,
        way: str,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return actions (n_action_steps, action_dim) and, with depth, its codes."""
        result = self._model.predict_action(
            processor=self._processor,
            images=images,
            task=task,
            state=state,
            norm_tag=tag,
            inference_action_mode="discrete" if way == "discrete" else "continuous",
            action_tokenizer=self._tokenizer,
            enable_depth_reasoning=way == "depth",
            enable_cuda_graph=False,
            generator=torch.Generator().manual_seed(seed),
        )
        codes = result.depth_bins[0].numpy() if way == "depth" else None
        return result.actions[0].numpy(), codes


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
