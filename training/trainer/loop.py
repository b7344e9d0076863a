"""The training loop: examples in, one optimiser step after the other.

Every stage runs this loop; what differs is in the recipe. It runs in one process or in several
(`accelerate launch`) with the same losses: examples are drawn by number, losses are normalised by
the totals of the whole step, and a step's gradients are summed over its passes and processes.
"""

from __future__ import annotations

import gc
import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from training.errors import TrainingError
from training.examples.batch import Batch
from training.model.cpu_attention import cpu_attention
from training.model.objective import StepTotals, step_totals
from training.trainer.optimizer import clip_gradients, set_rates
from training.trainer.recipe import Recipe
from training.trainer.run_log import StepFigures
from training.trainer.schedule import rate_share
from training.trainer.state import Trained

SEED_STRIDE = 1_000_003  # a prime, far above the number of processes
MOST_SEEDS = 1 << 63  # torch takes no more
SHOWN_EXAMPLES = 8
GIB = 1 << 30


def train(
    recipe: Recipe,
    trained: Trained,
    batches: Iterator[list[Batch]],
    accelerator: Accelerator,
    *,
    steps_done: int,
    after_step: Callable[[StepFigures], None],
) -> None:
    """Do the steps that are left; `batches` begins with those of step `steps_done`.

    `after_step` is called with each step's figures, by every process. Raises TrainingError when a
    loss or a gradient is not a number; the parameters are then those of the step before.
    """
    model, optimizer = trained.model, trained.optimizer
    on_cpu = accelerator.device.type == "cpu" and recipe.precision == "bf16"
    with collector_at_rest(), cpu_attention() if on_cpu else nullcontext():
        for step in range(steps_done, recipe.steps):
            began = time.monotonic()
            passes = next(batches)
            wait_s = time.monotonic() - began

            share = rate_share(step, recipe.steps, recipe.optimizer)
            rates = set_rates(optimizer, recipe.optimizer, share)
            totals = totals_of_all(passes, recipe, accelerator)
            seed_step(recipe.seed, step, accelerator.process_index)

            losses = []
            for index, batch in enumerate(passes):
                last = index == len(passes) - 1
                with nullcontext() if last else accelerator.no_sync(model):
                    with accelerator.autocast():  # sharded models are not wrapped in it
                        part = model(batch.to(accelerator.device), totals)
                    # Gradients are averaged over processes; shares are to be summed.
                    accelerator.backward(part.loss * accelerator.num_processes)
                losses.append(
                    torch.stack([part.loss.detach(), part.language, part.flow, part.log_z])
                )
            norms = clip_gradients(optimizer, recipe.optimizer.clip_norm)

            figures = _figures(step, passes, losses, norms, rates, recipe, accelerator)
            refuse_not_a_number(figures, passes, losses, accelerator)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            if trained.ema is not None:
                trained.ema.update(step)

            after_step(_timed(figures, wait_s, time.monotonic() - began, recipe, accelerator))


def totals_of_all(passes: Sequence[Batch], recipe: Recipe, accelerator: Accelerator) -> StepTotals:
    """Count what the step's examples hold, over all processes."""
    own = step_totals(passes, recipe.losses.token_weighting)
    both = torch.tensor([own.token_weight, own.chunks], dtype=torch.float64)
    weight, chunks = accelerator.reduce(both.to(accelerator.device), "sum").tolist()
    return StepTotals(weight, chunks)


def seed_step(seed: int, step: int, process: int) -> None:
    """Seed what the model itself draws (dropout), so that a resumed step draws the same."""
    torch.manual_seed(((seed * SEED_STRIDE + step) * SEED_STRIDE + process) % MOST_SEEDS)


def refuse_not_a_number(
    figures: StepFigures,
    passes: Sequence[Batch],
    losses: Sequence[torch.Tensor],
    accelerator: Accelerator,
) -> None:
    """Raise TrainingError, naming step and examples, when a loss or a norm is not finite."""
    if math.isfinite(figures.loss) and all(map(math.isfinite, figures.grad_norms.values())):
        return
    blamed = [
        f"{number} ({source})"
        for batch, loss in zip(passes, losses, strict=True)
        if not torch.isfinite(loss).all() or math.isfinite(figures.loss)
        for number, source in zip(batch.numbers.tolist(), batch.sources, strict=True)
    ]
    blamed = gather_object(blamed)
    more = f" and {len(blamed) - SHOWN_EXAMPLES} more" if len(blamed) > SHOWN_EXAMPLES else ""
    norms = ", ".join(f"{name} {norm:g}" for name, norm in figures.grad_norms.items())
    raise TrainingError(
        f"step {figures.step}: loss {figures.loss:g}, gradient norms {norms}: not a number;"
        f" its examples: {', '.join(blamed[:SHOWN_EXAMPLES])}{more}."
        " Look at their data, or lower the learning rate; the states before are whole"
    )


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Keep Python's garbage collector out of the steps.

    Its full collections walk over millions of objects that stay for the whole run, and each process
    does so at another moment, so every step would wait for one of them. Tensors need no collector:
    nothing that a step makes is cyclic.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _figures(
    step: int,
    passes: Sequence[Batch],
    losses: Sequence[torch.Tensor],
    norms: dict[str, torch.Tensor],
    rates: dict[str, float],
    recipe: Recipe,
    accelerator: Accelerator,
) -> StepFigures:
    names = list(recipe.mixture.shares)
    drawn = [source for batch in passes for source in batch.sources]
    tokens = sum(int(batch.model_inputs["attention_mask"].sum()) for batch in passes)
    counts = torch.tensor([tokens, *map(drawn.count, names)], dtype=torch.float64)
    own = torch.cat([torch.stack(losses).double().sum(0), counts.to(accelerator.device)])
    loss, language, flow, log_z, tokens, *counts = accelerator.reduce(own, "sum").tolist()
    return StepFigures(
        step=step + 1,
        loss=loss,
        language=language,
        flow=flow,
        log_z=log_z,
        tokens=int(tokens),
        sources={name: int(count) for name, count in zip(names, counts, strict=True)},
        rates=rates,
        grad_norms={name: float(norm) for name, norm in norms.items()},
    )


def _timed(
    figures: StepFigures, wait_s: float, step_s: float, recipe: Recipe, accelerator: Accelerator
) -> StepFigures:
    figures.wait_s = wait_s
    figures.step_s = step_s
    figures.examples_per_s = recipe.batch_size / step_s
    figures.tokens_per_s = figures.tokens / step_s
    if accelerator.device.type == "cuda":
        figures.memory_gib = torch.cuda.max_memory_allocated() / GIB
    else:
        figures.memory_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    return figures
