"""A backbone that fuses itself on a CPU: the same features, new weights heeded, hooks not passed by."""

import copy

import pytest
import torch
from torch import nn

from modeling_vidcap.fused_vidcap import fuse
from modeling_vidcap.pretrained.backbones import load_backbone
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def backbone():
    made = tiny_model(**load_backbone("efficientnet_lite0", grid=2).settings).backbone
    generator = torch.Generator().manual_seed(0)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                values.data.uniform_(0.5, 1.5, generator=generator)
    return made


def clip(size: tuple[int, int], frames: int = 2) -> torch.Tensor:
    return torch.rand(1, frames, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def plain_features(backbone: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Those of a network with a hook, which is not fused."""
    other = copy.deepcopy(backbone)
    other.net.register_forward_hook(lambda *_: None)
    found = other(pixels)
    assert other._fused._made == (None, None)
    return found


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (75, 96)])  # even and odd: paddings differ
@torch.no_grad()
def test_the_features_are_the_same(backbone, size) -> None:
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    torch.testing.assert_close(backbone(clip(size)), plain_features(backbone, clip(size)), rtol=1e-4, atol=1e-4)
    fused, mirrored = backbone._fused._made[1]
    assert mirrored and not any(isinstance(each, nn.BatchNorm2d) for each in fused.modules())
    assert not any(isinstance(each, nn.Conv2d) for each in fused.modules())
    assert backbone.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@torch.no_grad()
def test_new_weights_are_heeded(backbone) -> None:
    changing = copy.deepcopy(backbone)
    changing(clip((64, 64)))
    for change in (lambda weight: weight.mul_(0.5), lambda weight: setattr(weight, "data", weight * 3)):
        change(changing.net._backbone.conv_stem.weight)
        torch.testing.assert_close(
            changing(clip((64, 64))), plain_features(changing, clip((64, 64))), rtol=1e-4, atol=1e-4
        )


def test_gradients_flow_through_a_backbone_that_is_trained() -> None:
    settings = load_backbone("efficientnet_lite0", grid=2, frozen=False).settings
    trained = tiny_model(**settings).backbone
    trained(clip((64, 64))).sum().backward()
    assert trained.net._backbone.conv_stem.weight.grad.abs().sum() > 0
    assert trained._fused._made == (None, None)


def test_a_batch_norm_that_only_stands_behind_a_convolution_is_not_folded_into_it() -> None:
    class NormFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)
            self.norm = nn.BatchNorm2d(3)
            self.norm.running_mean.fill_(2.0)

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return self.conv(self.norm(frames))

    net = NormFirst().eval()
    assert fuse(net, torch.rand(1, 3, 8, 8), lambda net, frames: [net(frames)]) == (net, False)
