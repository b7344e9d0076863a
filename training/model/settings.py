"""What the model side of a recipe may say: losses, flow, depth, and what is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.errors import TrainingError

TokenWeighting = Literal["root_tokens", "none"]
GateKind = Literal["none", "shared", "per-layer"]
AdaptationKind = Literal["full", "expert", "lora"]

GROUPS = ("vision", "connector", "decoder", "expert")  # each has a learning rate of its own
TOKEN_WEIGHTINGS = ("root_tokens", "none")
GATE_KINDS = ("none", "shared", "per-layer")
ADAPTATION_KINDS = ("full", "expert", "lora")


class SettingsError(TrainingError):
    """A recipe asks for something that does not exist or is out of range."""


@dataclass(frozen=True, slots=True)
class LossSettings:
    """How the losses are added up. A weight of 0 leaves the loss and its passes out."""

    language: float = 1.0
    flow: float = 1.0
    log_z: float = 1e-4  # of the squared log of the softmax's denominator; LeRobot's default
    token_weighting: TokenWeighting = "root_tokens"  # 2 / sqrt(tokens of the example)
    earlier_layers: float = 0.0  # of the language loss after decoder layers before the last

    def __post_init__(self) -> None:
        for name in ("language", "flow", "log_z", "earlier_layers"):
            _at_least_zero(f"losses.{name}", getattr(self, name))
        _one_of("losses.token_weighting", self.token_weighting, TOKEN_WEIGHTINGS)
        if self.language == 0 and self.flow == 0:
            raise SettingsError("losses.language and losses.flow are both 0: nothing to learn from")


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """Flow matching; the times are offset + scale * Beta(*beta) (MolmoAct2 release)."""

    samples: int = 4  # noises and times per example and pass (arXiv 2605.02881)
    insulation: bool = True  # the expert's gradients stop at the keys and values
    beta: tuple[float, float] = (1.0, 1.5)
    offset: float = 0.001
    scale: float = 0.999

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise SettingsError(f"flow.samples is {self.samples}; must be at least 1")
        if len(self.beta) != 2 or not all(value > 0 for value in self.beta):
            raise SettingsError(f"flow.beta is {list(self.beta)}; must be two numbers above 0")
        _at_least_zero("flow.offset", self.offset)
        if not self.scale > 0 or self.offset + self.scale > 1:
            raise SettingsError(
                f"flow.scale is {self.scale} and flow.offset {self.offset}; scale must be above 0 "
                "and their sum at most 1"
            )


@dataclass(frozen=True, slots=True)
class DepthSettings:
    """Reasoning in depth codes."""

    code_noise: float = 0.1  # share of the codes whose inputs are swapped for random ones
    gate: GateKind = "per-layer"  # scales the keys and values of depth tokens

    def __post_init__(self) -> None:
        _share("depth.code_noise", self.code_noise)
        _one_of("depth.gate", self.gate, GATE_KINDS)


@dataclass(frozen=True, slots=True)
class Adaptation:
    """Which parameters learn. Rank to expert are LoRA's (MolmoAct2 release: 64, 16, 0.05)."""

    kind: AdaptationKind = "full"
    rank: int = 64
    alpha: int = 16
    dropout: float = 0.05
    expert: bool = False  # True: the expert gets adapters too, instead of learning fully
    freeze_embeddings: bool = False  # the input rows; fine-tuning freezes them (arXiv 2605.02881)

    def __post_init__(self) -> None:
        _one_of("trainable", self.kind, ADAPTATION_KINDS)
        for name in ("rank", "alpha"):
            if getattr(self, name) < 1:
                raise SettingsError(
                    f"trainable.lora.{name} is {getattr(self, name)}; must be at least 1"
                )
        _share("trainable.lora.dropout", self.dropout)


def _at_least_zero(key: str, value: float) -> None:
    if not value >= 0:
        raise SettingsError(f"{key} is {value}; must be at least 0")


def _share(key: str, value: float) -> None:
    if not 0 <= value < 1:
        raise SettingsError(f"{key} is {value}; must be at least 0 and below 1")


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SettingsError(f"{key} is {value!r}; choose one of: {', '.join(known)}")
