"""Make a random checkpoint write action tokens: an OpenFAST tokenizer, and a head that is fitted.

The network stays random. Only the head's rows of the tokens wanted are fitted, to the hidden states
that the reference has behind each prompt and each token wanted before, until greedy decoding says
them with a margin that no rounding can turn.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from lerobot.policies.molmoact2.molmoact2_hf_model.action_tokenizer import UniversalActionProcessor

from training.init.norm_stats import JOINTS

_SCALE, _VOCABULARY, _FITTED_CHUNKS = 10, 160, 2000
_MARGIN, _MOST_STEPS = 3.0, 5000  # of logits; of the fit


def smooth_chunk(rng: np.random.Generator, horizon: int) -> np.ndarray:
    """Blend two random poses by minimum jerk; (horizon, joints) float32 within [-1, 1]."""
    t = np.linspace(0, 1, horizon)[:, None]
    start, stop = rng.uniform(-0.9, 0.9, (2, 1, len(JOINTS)))
    chunk = start + (stop - start) * (10 * t**3 - 15 * t**4 + 6 * t**5)
    return np.clip(chunk + rng.normal(0, 0.02, chunk.shape), -1, 1).astype(np.float32)


def fit_action_tokenizer(folder: Path, horizon: int, seed: int) -> None:
    """Fit OpenFAST with the public code; write it as released tokenizers are laid out."""
    rng = np.random.default_rng(seed)
    fitted = UniversalActionProcessor.fit(
        [smooth_chunk(rng, horizon) for _ in range(_FITTED_CHUNKS)],
        scale=_SCALE,
        vocab_size=_VOCABULARY,
        time_horizon=horizon,
        action_dim=len(JOINTS),
    )
    fitted.bpe_tokenizer.save_pretrained(folder)
    config = {
        "scale": fitted.scale,
        "vocab_size": fitted.vocab_size,
        "min_token": int(fitted.min_token),
        "time_horizon": horizon,
        "action_dim": len(JOINTS),
    }
    (folder / "processor_config.json").write_text(json.dumps(config, indent=1) + "\n")


def open_action_tokenizer(folder: Path) -> UniversalActionProcessor:
    """Open a fitted tokenizer with the public code."""
    return UniversalActionProcessor.from_pretrained_local(str(folder))


def steer_head(
    model: torch.nn.Module, texts: list[list[int]], say_all: Callable, checkpoint: Path
) -> None:
    """Fit the head so that the calls of `say_all`, in order, write `texts`; save it.

    `texts` are action codes. The tokens around them are added here.
    """
    config = model.config
    states, wanted, last = [], [], []
    hook = model.model.transformer.ln_f.register_forward_hook(
        lambda _module, _inputs, output: last.append(output.detach()[0, -1])
    )
    queue = [
        [
            config.action_start_token_id,
            *(config.action_token_start_id + code for code in text),
            config.action_end_token_id,
            config.eos_token_id,
        ]
        for text in texts
    ]

    def follow(
        _output: object, *, past_key_values: object, attention_mask: object, **_limits: object
    ) -> torch.Tensor:
        text = queue.pop(0)
        if len(last) > 1:  # a depth span was written: its end must stay what comes after it
            states.append(last[-2])
            wanted.append(config.depth_end_token_id)
        for token in text:
            states.append(last[-1])
            wanted.append(token)
            output, attention_mask = model._consume_generation_tokens(
                torch.tensor([token]),
                past_key_values=past_key_values,
                attention_mask=attention_mask,
            )
            past_key_values = output.past_key_values
        last.clear()
        return torch.tensor([text])

    model._continue_discrete_generation_from_output = follow
    say_all()
    hook.remove()
    wanted = torch.tensor(wanted)
    rows = torch.unique(wanted[wanted != config.depth_end_token_id])
    head = _fit(model.lm_head.weight.detach(), rows, torch.stack(states), wanted)
    file = checkpoint / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["lm_head.weight"] = head
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def _fit(
    head: torch.Tensor, rows: torch.Tensor, states: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Change some rows of `head` until `states` (n, width) say `wanted` (n,) by a clear margin."""
    free = head[rows].clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.05)
    for _ in range(_MOST_STEPS):
        logits = states @ head.index_copy(0, rows, free).T
        right = logits.gather(1, wanted[:, None])
        others = logits.scatter(1, wanted[:, None], -torch.inf).amax(dim=1, keepdim=True)
        if (right - others).min() > _MARGIN:
            return head.index_copy(0, rows, free.detach())
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise RuntimeError(f"margin {(right - others).min():.2f} after {_MOST_STEPS} steps")


def without_expert(checkpoint: Path, out: Path) -> Path:
    """Copy a checkpoint as one that was trained on tokens only: no action expert, no depth gate."""
    shutil.copytree(checkpoint, out)
    tensors = safetensors.torch.load_file(out / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "action_expert" not in name}
    safetensors.torch.save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    config |= {"add_action_expert": False, "action_mode": "discrete"}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return out
