"""One pass over a batch: the language loss and the flow loss, as shares of a step's loss.

Everything is normalised by the totals of the whole optimiser step, over all its passes and
processes, so the losses and gradients do not depend on how a step is cut up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from lerobot.policies.molmoact2.molmoact2_hf_model.configuration_molmoact2 import MolmoAct2Config
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    MolmoAct2ForConditionalGeneration,
    MolmoAct2Model,
    MolmoAct2VisionBackbone,
)
from torch import nn

from training.examples.batch import IGNORED, PICTURE_INPUTS, Batch
from training.model.draws import code_draw, flow_draw
from training.model.flow_loss import FlowTargets, KeysValues, flow_losses
from training.model.language_loss import language_loss, next_labels, token_weights
from training.model.settings import (
    DepthSettings,
    FlowSettings,
    LossSettings,
    SettingsError,
    TokenWeighting,
)


@dataclass(frozen=True, slots=True)
class StepTotals:
    """What a whole optimiser step holds, over all passes and processes."""

    token_weight: float  # of all tokens to learn
    chunks: float  # examples with actions


@dataclass(slots=True)
class StepLosses:
    """One pass's shares; added up over passes and processes they give the step's figures."""

    loss: torch.Tensor  # (), the sum to go backwards through
    language: torch.Tensor  # (), cross-entropy, detached
    flow: torch.Tensor  # (), detached
    log_z: torch.Tensor  # (), the auxiliary loss with its factor, detached


def step_totals(
    batches: Iterable[Batch], token_weighting: TokenWeighting = "root_tokens"
) -> StepTotals:
    """Count one process's batches of a step; `token_weighting` is that of the LossSettings."""
    weight, chunks = 0.0, 0.0
    for batch in batches:
        weight += float(token_weights(next_labels(batch.labels), token_weighting).sum())
        chunks += float(batch.has_actions.sum())
    return StepTotals(weight, chunks)


class Objective(nn.Module):
    """The model with its losses; call it with a batch.

    `seed` and an example's number alone decide its flow noise, times and code noise. With
    `recompute`, activations are computed again in the backward pass. With `every_part`, vision and
    the expert run even where nothing counts: processes that gather or reduce parameters together
    (DDP, FSDP) need the same modules in each of their passes.
    """

    def __init__(
        self,
        model: MolmoAct2ForConditionalGeneration,
        losses: LossSettings,
        flow: FlowSettings,
        depth: DepthSettings,
        seed: int,
        *,
        recompute: bool = False,
        every_part: bool = False,
    ) -> None:
        super().__init__()
        if losses.flow > 0 and model.model.action_expert is None:
            raise SettingsError(
                f"losses.flow is {losses.flow}, but the checkpoint has no action expert; graft one "
                "or set losses.flow to 0"
            )
        self.model, self.losses, self.flow, self.depth = model, losses, flow, depth
        self.seed, self.recompute, self.every_part = seed, recompute, every_part
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            if model.vision_backbone is not None:
                model.vision_backbone.gradient_checkpointing = True
        self.train()

    def train(self, mode: bool = True) -> Objective:
        """Set training mode; a frozen half of the model stays as when it acts, without dropout."""
        super().train(mode)
        for part in (self.model.model.transformer, self.model.model.vision_backbone):
            if part is not None and not any(p.requires_grad for p in part.parameters()):
                part.eval()
        return self

    def forward(self, batch: Batch, totals: StepTotals) -> StepLosses:
        """Give this pass's shares of the step whose totals are given."""
        zero = batch.actions.new_zeros(())
        speaks = self.losses.language > 0 and bool((batch.labels[:, 1:] != IGNORED).any())
        rows = batch.has_actions.nonzero().squeeze(1)
        moves = self.losses.flow > 0 and len(rows) > 0
        if not (speaks or moves or self.every_part):
            return StepLosses(zero.clone().requires_grad_(), zero, zero, zero)
        cross_entropy = log_z = flow = zero
        layers, keys_values = self._read(batch, with_keys_values=self.losses.flow > 0)
        hidden = layers[-1]
        if speaks:
            cross_entropy, log_z = self._language_losses(batch, layers, totals)
        if moves:
            flow = self._flow_losses(batch, rows, keys_values).sum() / totals.chunks
        loss = self.losses.language * (cross_entropy + log_z) + self.losses.flow * flow
        if self.every_part:
            loss = loss + 0 * self._left_out(batch, hidden, keys_values, speaks, moves)
        if torch.is_grad_enabled() and not loss.requires_grad:
            loss = loss.requires_grad_()  # what this batch has to teach reaches frozen parts only
        return StepLosses(loss, cross_entropy.detach(), flow.detach(), log_z.detach())

    def _read(
        self, batch: Batch, *, with_keys_values: bool
    ) -> tuple[list[torch.Tensor], KeysValues | None]:
        """Run vision and decoder; give hidden states (B, T, width), keys and values a layer.

        Hidden states are the last one and, where the earlier layers' loss is asked for, before it
        those after each layer from the middle on, through the last norm.
        """
        inputs, backbone = batch.model_inputs, self.model.model
        embeddings = self._embeddings(backbone, self._noisy_ids(batch), inputs)
        mask = backbone._build_native_attention_bias(
            inputs_embeds=embeddings,
            attention_mask=inputs.get("attention_mask"),
            token_type_ids=inputs.get("token_type_ids"),
            past_key_values=None,
        )
        outputs = backbone.transformer(
            inputs_embeds=embeddings,
            attention_mask=mask,
            use_cache=False,
            collect_layer_kv_states=with_keys_values,
            output_hidden_states=self.losses.earlier_layers > 0,
        )
        earlier: Sequence[torch.Tensor] = ()
        if outputs.hidden_states is not None:  # (input, after layer 1, ..., after the last)
            middle = len(outputs.hidden_states) // 2
            earlier = outputs.hidden_states[middle:-1]
        hidden = [backbone.transformer.ln_f(states) for states in earlier]
        return [*hidden, outputs.last_hidden_state], outputs.past_key_values

    def _language_losses(
        self, batch: Batch, layers: list[torch.Tensor], totals: StepTotals
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give cross-entropy and log_z loss; the earlier layers' mean comes on top of the last's.

        What an action expert reads in a layer is what the layers before it have found out, so what
        only the last layer finds never reaches it.
        """
        sums = [
            torch.stack(
                language_loss(self.model.lm_head, hidden, batch.labels, self.losses.token_weighting)
            )
            for hidden in layers
        ]
        total = sums[-1]
        if len(sums) > 1:
            total = total + self.losses.earlier_layers * torch.stack(sums[:-1]).mean(0)
        cross_entropy, log_z = total / totals.token_weight
        return cross_entropy, self.losses.log_z * log_z

    def _embeddings(
        self, backbone: MolmoAct2Model, ids: torch.Tensor, inputs: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Embed tokens and pictures. Each picture is an example of its own to the image encoder.

        LeRobot's way pads every example to as many pictures as the fullest has, and takes no batch
        with an example that has none.
        """
        pictures = {name: inputs[name] for name in PICTURE_INPUTS if name in inputs}
        images = pooling = None
        if pictures:
            alone = ids.new_full((len(inputs["image_grids"]), 1), self._config.image_end_token_id)
            images, pooling = backbone.merge_visual_inputs(input_ids=alone, **pictures)
        embeddings = backbone.build_input_embeddings(ids, images, pooling)[0]
        if self.every_part and not pictures and backbone.vision_backbone is not None:
            # Here and not later: processes that gather parameters must do so in one order.
            embeddings = embeddings + 0 * _blank_picture(backbone.vision_backbone).sum()
        return embeddings

    def _noisy_ids(self, batch: Batch) -> torch.Tensor:
        """Swap some depth codes to be learnt for random ones (MolmoAct2 release, 10 %)."""
        ids, config = batch.model_inputs["input_ids"], self._config
        share, first = self.depth.code_noise, config.depth_token_start_id
        if not (self.training and share > 0 and first is not None):
            return ids
        codes = int(config.num_depth_tokens)
        learnt = (ids >= first) & (ids < first + codes) & (batch.labels != IGNORED)
        draws = [code_draw(self.seed, n, share, ids.shape[1], codes) for n in _ints(batch.numbers)]
        swapped, chosen = (torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True))
        return torch.where(learnt & swapped.to(ids.device), first + chosen.to(ids), ids)

    def _flow_losses(
        self, batch: Batch, rows: torch.Tensor, keys_values: KeysValues
    ) -> torch.Tensor:
        ids, backbone = batch.model_inputs["input_ids"][rows], self.model.model
        visible = self._visible(batch, rows)
        chosen = []
        for keys, values in keys_values:
            pair = (backbone._cache_to_sequence(part[rows]) for part in (keys, values))
            chosen.append(tuple(part.detach() if self.flow.insulation else part for part in pair))
        gate, depth_mask = backbone._depth_gate_from_condition(
            input_ids=ids, encoder_attention_mask=visible, layer_kv_states=chosen
        )
        chosen = backbone._apply_depth_gate_to_layer_kv_states(chosen, depth_mask, gate)
        return flow_losses(
            backbone.action_expert,
            chosen,
            visible,
            self._targets(batch, rows),
            mask_dims=self._config.mask_action_dim_padding,
            recompute=self.recompute,
        )

    def _visible(self, batch: Batch, rows: torch.Tensor) -> torch.Tensor:
        """Say which tokens the expert may look at, (R, T) bool: as when it acts.

        Discrete actions and the end of the answer come after it has acted, so it never sees them.
        """
        config, backbone = self._config, self.model.model
        ids = batch.model_inputs["input_ids"][rows]
        attended = batch.model_inputs.get("attention_mask")
        attended = torch.ones_like(ids) if attended is None else attended[rows]
        visible = backbone._get_encoder_attention_mask(ids, attended)
        visible &= (ids != config.eos_token_id) | (batch.labels[rows] == IGNORED)
        for row_ids, row in zip(ids, visible, strict=True):
            backbone._mask_discrete_output_span(
                row_ids, row, config.action_start_token_id, config.action_end_token_id
            )
        return visible

    def _targets(self, batch: Batch, rows: torch.Tensor) -> FlowTargets:
        actions = batch.actions[rows]
        shape = tuple(actions.shape[1:])
        draws = [flow_draw(self.seed, n, self.flow, shape) for n in _ints(batch.numbers[rows])]
        noise, times = (torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True))
        return FlowTargets(
            actions,
            noise.to(actions.device),
            times.to(actions.device),
            batch.dim_is_pad[rows],
            batch.horizon_is_pad[rows],
        )

    def _left_out(
        self,
        batch: Batch,
        hidden: torch.Tensor,
        keys_values: KeysValues | None,
        speaks: bool,
        moves: bool,
    ) -> torch.Tensor:
        """Run the head and the expert where this batch has no use for them."""
        touched = hidden.new_zeros(())
        if self.losses.language > 0 and not speaks:
            touched = touched + self.model.lm_head(hidden[:1, 0]).float().sum()
        if self.losses.flow > 0 and not moves:
            first, whole = batch.numbers.new_zeros(1), torch.zeros_like(batch.horizon_is_pad)
            chunk = replace(batch, horizon_is_pad=whole)  # attending to nothing would give NaN
            touched = touched + self._flow_losses(chunk, first, keys_values).sum()
        return touched

    @property
    def _config(self) -> MolmoAct2Config:
        return self.model.config


def _blank_picture(vision: MolmoAct2VisionBackbone) -> torch.Tensor:
    vit = vision.image_vit.config
    rows, columns = vit.image_num_patch
    pixels = torch.zeros((1, 1, rows * columns, vit.image_patch_size**2 * 3), device=vision.device)
    return vision(pixels, torch.zeros((1, 1, 1), dtype=torch.long, device=vision.device))


def _ints(numbers: torch.Tensor) -> list[int]:
    return [int(number) for number in numbers]
