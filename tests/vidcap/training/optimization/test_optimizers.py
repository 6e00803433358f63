"""Muon beside AdamW: what each of them trains, one schedule for both, checkpoints, and what is refused."""

import pytest
import torch
from torch import nn

from tests.tiny import tiny_model
from vidcap.training.arguments.training_arguments import VideoCaptionTrainingArguments
from vidcap.training.optimization import optimizers
from vidcap.training.optimization.optimizers import RATE, Muon, MuonAdamW, muon_groups, orthogonalize
from vidcap.training.trainer import VideoCaptionTrainer


def layer_and_optimizer(**rates: float) -> tuple[nn.Linear, MuonAdamW]:
    torch.manual_seed(0)
    layer = nn.Linear(4, 8)
    groups = [
        {"params": [layer.weight], "weight_decay": 0.1, "lr": 0.5, **rates},
        {"params": [layer.bias], "weight_decay": 0.0, "lr": 0.5, **rates},
    ]
    return layer, MuonAdamW(muon_groups(groups, excluded=set()), betas=(0.9, 0.98))


def step(layer: nn.Linear, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_matrices_move_in_all_directions_alike_and_the_rest_as_by_adamw() -> None:
    layer, optimizer = layer_and_optimizer()
    weight, bias = layer.weight.detach().clone(), nn.Parameter(layer.bias.detach().clone())
    step(layer, optimizer, seed=1)
    moved = (layer.weight - weight * (1 - 0.5 * 0.1)) / 0.5  # less weight decay
    singular = torch.linalg.svdvals(moved.detach()) / (RATE * 0.2 * 8**0.5)  # AdamW's size, as the paper has it
    assert (singular > 0.3).all() and (singular < 1.3).all()
    bias.grad = layer.bias.grad.clone()
    torch.optim.AdamW([bias], lr=0.5, betas=(0.9, 0.98), weight_decay=0.0).step()
    torch.testing.assert_close(layer.bias, bias)


def test_orthogonal_matrices_keep_their_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    # Singular values from 1 down to .01 of the largest, of which the norm leaves .01 and more; two matrices at once.
    for rows, columns in ((24, 24), (24, 100)):
        left, _ = torch.linalg.qr(torch.randn(2, rows, rows, generator=generator))
        right, _ = torch.linalg.qr(torch.randn(2, columns, rows, generator=generator))
        values = torch.linspace(1, 0.02, rows)
        found = orthogonalize(left * values @ right.mT)
        turned = left.mT @ found @ right  # diagonal, if the directions stay
        diagonal = turned.diagonal(dim1=1, dim2=2)
        assert (turned - torch.diag_embed(diagonal)).abs().max() < 1e-4
        large = values / values.norm() > 0.01
        assert (diagonal[:, large] > 0.72).all() and (diagonal[:, large] < 1.28).all()


@pytest.mark.parametrize(("in_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_momentum_is_an_average_of_gradients_looked_at_a_step_ahead(monkeypatch, in_bf16, dtype) -> None:
    monkeypatch.setattr(optimizers, "computes_in_bf16", lambda device: in_bf16)
    matrix = nn.Parameter(torch.zeros(4, 6))
    optimizer = Muon([{"params": [matrix], "lr": 0.5, "weight_decay": 0.0}])
    gradients = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    average, expected = torch.zeros(4, 6), torch.zeros(4, 6)
    for gradient in gradients:
        matrix.grad = gradient.clone()
        optimizer.step()
        average = 0.95 * average + 0.05 * gradient
        ahead = 0.95 * average + 0.05 * gradient
        expected -= 0.5 * 0.2 * 6**0.5 * orthogonalize(ahead.to(dtype)[None])[0].float()
    torch.testing.assert_close(matrix.detach(), expected, rtol=0, atol=0.02 if in_bf16 else 1e-5)


def test_many_matrices_at_once_move_as_each_alone() -> None:
    def moved(together: bool) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = [(6, 9), (9, 6), (6, 6), (6, 9)]
        matrices = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        optimizers = [Muon([{"params": group}]) for group in ([matrices] if together else [[m] for m in matrices])]
        for _ in range(3):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=generator)
            matrices[2].grad = None  # of what takes no part in a step nothing changes
            for optimizer in optimizers:
                optimizer.step()
        return [matrix.detach() for matrix in matrices]

    for one, other in zip(moved(True), moved(False), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_one_schedule_sets_the_rates_of_both_and_a_checkpoint_holds_both(tmp_path) -> None:
    runs = []
    for stop in (False, True):
        layer, optimizer = layer_and_optimizer()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 / (1 + done))
        for seed in range(2):
            step(layer, optimizer, seed)
            schedule.step()
        if stop:
            torch.save((optimizer.state_dict(), schedule.state_dict()), tmp_path / "state.pt")
            weights = layer.state_dict()
            layer, optimizer = layer_and_optimizer()
            layer.load_state_dict(weights)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 / (1 + done))
            states = torch.load(tmp_path / "state.pt", weights_only=True)
            optimizer.load_state_dict(states[0])
            schedule.load_state_dict(states[1])
        for seed in range(2, 4):
            step(layer, optimizer, seed)
            schedule.step()
        rates = [group["lr"] for part in optimizer.parts for group in part.param_groups]
        assert rates == [pytest.approx(0.1 * RATE), 0.1]
        runs.append(layer)
    assert torch.equal(runs[0].weight, runs[1].weight) and torch.equal(runs[0].bias, runs[1].bias)


def make_trainer(tmp_path, **options) -> VideoCaptionTrainer:
    values = {"report_to": "none", "use_cpu": True, "eval_strategy": "no", "save_strategy": "no"}
    args = VideoCaptionTrainingArguments(output_dir=str(tmp_path), load_best_model_at_end=False, **(values | options))
    return VideoCaptionTrainer(model=tiny_model(), args=args, score=dict, score_clips=dict)


@pytest.mark.parametrize("weight_decay", [0.1, 0.0])
def test_the_trainer_gives_muon_the_matrices_inside_the_network(tmp_path, weight_decay) -> None:
    trainer = make_trainer(tmp_path, muon=True, backbone_learning_rate=1e-5, weight_decay=weight_decay)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, MuonAdamW) and trainer.create_optimizer() is optimizer
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    by_muon, by_adamw = ({names[id(p)] for g in part.param_groups for p in g["params"]} for part in optimizer.parts)
    assert by_muon | by_adamw == set(names.values()) and not by_muon & by_adamw
    assert {"model.encoder.projection.weight", "model.decoder.text_layers.0.mlp.0.weight"} < by_muon
    assert not any("backbone" in name or "embed" in name or "norm" in name or "bias" in name for name in by_muon)
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    wanted = {name: RATE * 1e-3 if name in by_muon else 1e-5 if ".backbone." in name else 1e-3 for name in rates}
    assert rates == wanted
    assert not isinstance(make_trainer(tmp_path, muon=False).create_optimizer(), MuonAdamW)
    assert isinstance(make_trainer(tmp_path).create_optimizer(), MuonAdamW)
    assert not isinstance(make_trainer(tmp_path, optim="sgd").create_optimizer(), MuonAdamW)
    with pytest.raises(ValueError, match="--muon .* --optim is sgd"):
        make_trainer(tmp_path, muon=True, optim="sgd")
