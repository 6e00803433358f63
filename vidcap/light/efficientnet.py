"""EfficientNet-Lite (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) without timm.

timm takes seconds to import. Modules have the same names as in timm's network, so that its weights load here.
Limitations: no training, and no other output strides.
"""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

# Per stage: blocks, kernel size, stride of the first block, expansion and channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32  # channels
# Factors of the channels and of the blocks in STAGES.
VARIANTS = {
    "tf_efficientnet_lite0": (1.0, 1.0),
    "tf_efficientnet_lite1": (1.0, 1.1),
    "tf_efficientnet_lite2": (1.1, 1.2),
}
OUTPUTS = (0, 1, 2, 4, 6)  # stages that timm counts as outputs: the last one of each resolution


class Conv2dSame(nn.Conv2d):
    """A strided convolution with TensorFlow's SAME padding: the output has 1 / stride of the size, rounded up.

    `fused_vidcap.py` recognises this padding by the name of the class, which is the same in timm.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        rows, columns = (self._missing(size) for size in maps.shape[-2:])
        return super().forward(F.pad(maps, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)))

    def _missing(self, size: int) -> int:
        """Number of rows or columns of padding."""
        stride = self.stride[0]
        return max((math.ceil(size / stride) - 1) * stride + self.kernel_size[0] - size, 0)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution with SAME padding, which with stride 1 is symmetric, whatever the size."""
    if stride > 1:
        return Conv2dSame(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


class NormAct(nn.BatchNorm2d):
    """A batch norm and the activation after it."""

    def __init__(self, channels: int, *, activation: bool = True):
        super().__init__(channels, eps=1e-3)
        self.act: nn.Module = nn.ReLU6(inplace=True) if activation else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.act(super().forward(maps))


class DepthwiseBlock(nn.Module):
    """A block without expansion."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__()
        self.conv_dw = convolution(inputs, inputs, kernel, stride, groups=inputs)
        self.bn1 = NormAct(inputs)
        self.conv_pw = convolution(inputs, outputs, 1)
        self.bn2 = NormAct(outputs, activation=False)
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        outputs = self.bn2(self.conv_pw(self.bn1(self.conv_dw(maps))))
        return outputs + maps if self.has_skip else outputs


class InvertedResidual(nn.Module):
    """A block that expands its channels, convolves each separately, and projects them back."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inside = _multiple_of_eight(inputs * expansion)
        self.conv_pw = convolution(inputs, inside, 1)
        self.bn1 = NormAct(inside)
        self.conv_dw = convolution(inside, inside, kernel, stride, groups=inside)
        self.bn2 = NormAct(inside)
        self.conv_pwl = convolution(inside, outputs, 1)
        self.bn3 = NormAct(outputs, activation=False)
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        expanded = self.bn1(self.conv_pw(maps))
        outputs = self.bn3(self.conv_pwl(self.bn2(self.conv_dw(expanded))))
        return outputs + maps if self.has_skip else outputs


class EfficientNetLite(nn.Module):
    """The network without its head.

    Args:
        variant: One of `VARIANTS`.
        outputs: Indices of the `OUTPUTS` to return, in ascending order.
    """

    def __init__(self, variant: str, outputs: list[int] | tuple[int, ...]):
        super().__init__()
        width, depth = VARIANTS[variant]
        self.outputs = [OUTPUTS[index] for index in outputs]
        self.conv_stem = convolution(3, STEM, 3, 2)
        self.bn1 = NormAct(STEM)
        stages, inputs = [], STEM
        for stage, (count, kernel, stride, expansion, channels) in enumerate(STAGES):
            if stage not in (0, len(STAGES) - 1):
                count = math.ceil(count * depth)
            channels = _multiple_of_eight(channels * width)
            blocks: list[nn.Module] = []
            for index in range(count):
                shape = (inputs, channels, kernel, 1 if index else stride)
                blocks.append(DepthwiseBlock(*shape) if expansion == 1 else InvertedResidual(*shape, expansion))
                inputs = channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Maps, each `(F, C_i, h_i, w_i)`, of frames `(F, 3, H, W)`."""
        maps = self.bn1(self.conv_stem(frames))
        outputs = []
        for index, stage in enumerate(self.blocks):
            maps = stage(maps)
            if index in self.outputs:
                outputs.append(maps)
        return outputs


class LiteBackbone(nn.Module):
    """The network with the interface and the attribute name of transformers' `TimmBackbone`."""

    def __init__(self, variant: str, outputs: list[int] | tuple[int, ...]):
        super().__init__()
        self._backbone = EfficientNetLite(variant, outputs)

    def forward(self, frames: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(feature_maps=self._backbone(frames))


def _multiple_of_eight(channels: float) -> int:
    """The nearest multiple of 8 that is at most a tenth smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
