"""The dry run: what a recipe needs, computed without weights, and whether it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from training.init.sizes import ModelSize
from training.model.groups import parameter_groups
from training.model.load import empty_model
from training.model.settings import Adaptation, GateKind
from training.trainer.example_load import ExampleLoad, largest_load, mean_load
from training.trainer.memory import GIB, DeviceBytes, Learning, Passes, device_bytes
from training.trainer.model_shape import Shape, meta_model, shape_of
from training.trainer.recipe import Recipe
from training.trainer.stage import WITHOUT_DEPTH, make_trainable, planned_expert
from training.trainer.work import example_flops

# The CUDA context, the allocator's gaps and NCCL's buffers take the rest.
USABLE_SHARE = 0.92
MOST_DEVICES = 512


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """A training run of the paper (arXiv 2605.02881)."""

    name: str
    steps: int
    device_hours: float  # of H100
    devices: int


PUBLISHED_RUNS = (
    PublishedRun("pre-training", 200_000, 5760, 64),
    PublishedRun("post-training", 100_000, 2304, 64),
    PublishedRun("fine-tuning", 100_000, 1152, 32),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe needs on given devices."""

    groups: dict[str, tuple[int, int]]  # parameters, trainable ones
    passes: Passes
    bytes: DeviceBytes
    load: ExampleLoad  # the mean example
    step_flops: float  # over all devices
    step_tokens: float

    @property
    def gib(self) -> float:
        """Return a device's memory."""
        return self.bytes.total / GIB


@dataclass(frozen=True, slots=True)
class Planner:
    """Makes plans of one recipe and one model size, or checkpoint, with variations."""

    recipe: Recipe
    model: ModelSize | Path

    def plan(self, devices: int, *, recompute: bool) -> Plan:
        """Compute what the recipe needs on `devices` devices."""
        recipe = self.recipe
        share = recipe.batch_size // devices
        passes = Passes(
            devices=devices,
            examples=max(1, min(recipe.micro_batch_size, share)),
            precision=recipe.precision,
            recompute=recompute,
            flow_samples=recipe.flow.samples if recipe.flow else 0,
            averaged=recipe.ema is not None,
        )
        shape, groups = _built(
            self.model,
            recipe.flow is not None,
            (recipe.depth or WITHOUT_DEPTH).gate,
            recipe.trainable,
        )
        learning = _learning(recipe, groups)
        load = mean_load(recipe, shape)
        per_example = example_flops(
            shape,
            {name: count for name, (count, _) in groups.items()},
            {name: trainable for name, (_, trainable) in groups.items()},
            learning,
            passes,
            load,
        )
        return Plan(
            groups=groups,
            passes=passes,
            bytes=device_bytes(shape, learning, passes, largest_load(recipe, shape)),
            load=load,
            step_flops=recipe.batch_size * per_example,
            step_tokens=recipe.batch_size * load.tokens,
        )

    def remedies(self, devices: int, recompute: bool, memory_gib: float) -> Iterator[str]:
        """Say what would fit into `memory_gib` a device, the smallest change first."""
        same = list(self._fitting(devices, memory_gib, "--checkpoint-activations"))
        if same and not recompute:
            yield from same
        else:
            yield from self._larger(devices, memory_gib)
        if self.recipe.trainable.kind != "full" or self.recipe.flow is None:
            return
        for name, kind in (("LoRA", "lora"), ("expert only", "expert")):
            other = dataclasses.replace(self.recipe, trainable=Adaptation(kind))
            yield from Planner(other, self.model)._fitting(
                devices, memory_gib, f"{name} (trainable) with --checkpoint-activations"
            )

    def _larger(self, devices: int, memory_gib: float) -> Iterator[str]:
        """Say which smaller passes and which number of devices would fit."""
        smaller = Planner(dataclasses.replace(self.recipe, micro_batch_size=1), self.model)
        yield from smaller._fitting(
            devices, memory_gib, "--set micro_batch_size=1 --checkpoint-activations"
        )
        more = devices * 2
        while more <= min(MOST_DEVICES, self.recipe.batch_size):
            name = f"{more} devices with --checkpoint-activations"
            found = list(self._fitting(more, memory_gib, name))
            if found:
                yield found[0]
                break
            more *= 2

    def _fitting(self, devices: int, memory_gib: float, name: str) -> Iterator[str]:
        plan = self.plan(devices, recompute=True)
        if plan.gib <= memory_gib * USABLE_SHARE:
            yield f"{name} ({plan.gib:.1f} GiB)"


def fits(plan: Plan, memory_gib: float) -> bool:
    """Say whether a device of `memory_gib` holds the plan."""
    return plan.gib <= memory_gib * USABLE_SHARE


def _learning(recipe: Recipe, groups: dict[str, tuple[int, int]]) -> Learning:
    trainable = {name: count for name, (_, count) in groups.items()}
    vision = trainable["vision"] + trainable["connector"] > 0
    decoder = trainable["decoder"] > 0
    expert_reaches = recipe.flow is not None and not recipe.flow.insulation
    return Learning(
        parameters=sum(count for count, _ in groups.values()),
        trainable=sum(trainable.values()),
        through_vision=vision,
        through_decoder=vision or (decoder and (recipe.losses.language > 0 or expert_reaches)),
        through_expert=recipe.flow is not None,
    )


@lru_cache(maxsize=8)
def _built(
    size: ModelSize | Path, with_expert: bool, gate: GateKind, adaptation: Adaptation
) -> tuple[Shape, dict[str, tuple[int, int]]]:
    """Give the shape of a model, and (parameters, trainable ones) by group."""
    model = meta_model(size) if isinstance(size, ModelSize) else empty_model(size)
    make_trainable(
        model,
        with_expert=with_expert,
        gate=gate,
        adaptation=adaptation,
        expert_shape=None if isinstance(size, ModelSize) else planned_expert(size),
    )
    groups = {
        name: (
            sum(parameter.numel() for parameter in parameters),
            sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        )
        for name, parameters in parameter_groups(model).items()
    }
    return shape_of(model), groups
