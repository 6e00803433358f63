"""Weights that are split over processes (FSDP 2) while they are trained, and whole before, after, and in checkpoints.

Checkpoints hold what they hold without splitting, so that they load as models and a resumed run may be split
otherwise. Gives up: FSDP 1, and weights that are too large for the memory of one machine.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedModel, Trainer

OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"  # as the Trainer names them
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_FIRST_RANK = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def give_scalars_an_axis(model: nn.Module) -> None:
    """Makes of each parameter without axes, which cannot be split, one of shape (1,)."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                setattr(module, name, nn.Parameter(parameter.detach()[None], requires_grad=parameter.requires_grad))


class ShardedWeightsMixin(Trainer):
    """Trains with FSDP 2 as with DDP; to be named ahead of a `Trainer`. Without FSDP it changes nothing."""

    model: Any
    optimizer: Any
    lr_scheduler: Any

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any):
        if self.is_fsdp_enabled:
            if (version := self.accelerator.state.fsdp_plugin.fsdp_version) != 2:
                raise ValueError(f"fsdp_version {version} is not supported: set it to 2, as in recipes/accelerate")
            if any("lora_" in name for name, _ in self.model.named_parameters()):
                raise ValueError("FSDP is for the weights of large models, LoRA trains few: leave one of them out")
            self._whole_class = type(self.model)
            give_scalars_an_axis(self.model)
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def whole_model(self) -> PreTrainedModel:
        """The trained model; every process has to call this.

        With FSDP the first process puts it together anew from the parts, on its device; the others, which have no
        use for it, get theirs with the weights it had at first.
        """
        if not self.is_fsdp_enabled:
            return self.accelerator.unwrap_model(self.model)
        model: Any = self._whole(self.accelerator.get_state_dict(self.model))
        return model.to(self.args.device)

    def _whole(self, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
        """A model with these weights, which the first process alone has."""
        model = self._whole_class._from_config(self.model.config)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        if weights:
            model.load_state_dict({name: tensor.reshape(shapes[name]) for name, tensor in weights.items()})
        model.generation_config = self.model.generation_config
        return model.eval()

    def _load_whole(self, folder: str) -> None:
        weights: dict[str, Any] = {}
        if self.is_world_process_zero():
            for path in Path(folder).glob("model*.safetensors"):
                weights |= load_file(path)
            weights = {name: tensor if tensor.ndim else tensor[None] for name, tensor in weights.items()}
            for tied, source in self.model.all_tied_weights_keys.items():
                weights.setdefault(tied, weights[source])  # a file holds them once
        set_model_state_dict(self.model, weights, options=FROM_FIRST_RANK)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=WHOLE)
        if self.args.should_save:
            torch.save(state, Path(output_dir, OPTIMIZER))
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = {}
        if self.is_world_process_zero():
            state = torch.load(Path(checkpoint, OPTIMIZER), weights_only=True)
        optimizer = self.optimizer.optimizer
        set_optimizer_state_dict(self.model, optimizer, state, options=FROM_FIRST_RANK)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, SCHEDULER), weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            self._load_whole(resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            assert self.state.best_model_checkpoint is not None
            self._load_whole(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()
