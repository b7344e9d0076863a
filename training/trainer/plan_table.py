"""A plan as text."""

from __future__ import annotations

from collections.abc import Iterator

from training.trainer.memory import GIB
from training.trainer.plan import PUBLISHED_RUNS, USABLE_SHARE, Plan, PublishedRun
from training.trainer.recipe import Recipe

SECONDS_PER_HOUR = 3600


def plan_table(plan: Plan, recipe: Recipe, *, memory_gib: float, peak_tflops: float) -> str:
    """Return the plan as the command prints it: parameters, bytes, work, speeds needed."""
    return "\n".join(
        (*_groups(plan), "", *_memory(plan, memory_gib), "", *_work(plan, recipe, peak_tflops))
    )


def _groups(plan: Plan) -> Iterator[str]:
    yield f"{'group':<12}{'parameters':>16}{'trainable':>16}"
    for name, (count, trainable) in plan.groups.items():
        yield f"{name:<12}{count:>16,}{trainable:>16,}"
    count, trainable = (sum(pair[i] for pair in plan.groups.values()) for i in (0, 1))
    yield f"{'all':<12}{count:>16,}{trainable:>16,}"


def _memory(plan: Plan, memory_gib: float) -> Iterator[str]:
    passes = plan.passes
    again = ", computed again in the backward pass" if passes.recompute else ""
    yield (
        f"memory of one device of {passes.devices}, estimated ({passes.precision},"
        f" {passes.examples} examples a pass{again})"
    )
    for name in plan.bytes.__slots__:
        yield f"  {name:<14}{getattr(plan.bytes, name) / GIB:>8.2f} GiB"
    usable = memory_gib * USABLE_SHARE
    yield f"  {'all':<14}{plan.gib:>8.2f} GiB of {usable:.1f} usable ({memory_gib:g} GiB a device)"


def _work(plan: Plan, recipe: Recipe, peak_tflops: float) -> Iterator[str]:
    load = plan.load
    yield (
        f"a step: {recipe.batch_size} examples, about {plan.step_tokens:,.0f} tokens"
        f" ({load.tokens:.0f} an example, {load.learnt:.0f} of them learnt,"
        f" {load.pictures:.1f} pictures), {plan.step_flops / 1e12:,.1f} TFLOP"
    )
    yield f"{recipe.steps:,} steps in the device hours of a published run (arXiv 2605.02881):"
    for run in PUBLISHED_RUNS:
        yield _pace(plan, recipe, run, peak_tflops)


def _pace(plan: Plan, recipe: Recipe, run: PublishedRun, peak_tflops: float) -> str:
    devices = plan.passes.devices
    hours = run.device_hours / devices
    steps_per_s = recipe.steps / (hours * SECONDS_PER_HOUR)
    share = plan.step_flops * steps_per_s / (devices * peak_tflops * 1e12)
    note = " - cannot be reached" if share > 1 else ""
    return (
        f"  {run.name:<14}{run.device_hours:>6,.0f} h: {hours:>7.1f} h on {_devices(devices)},"
        f" {steps_per_s:.3f} steps/s, {share:.1%} of {peak_tflops:g} TFLOP/s a device{note}"
    )


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"
