"""The size of the frames that a new model sees, fitted to its clips."""

import logging
import math
from typing import Any

import datasets

from processing import decode_video
from processing.video_frames_vidcap import VideoDecodeError

logger = logging.getLogger(__name__)
SQUARE = (160, 160)  # where the clips do not determine the size
MAX_PIXELS = 320 * 192  # larger frames cost more than they tell on filmed clips (docs/log.md)
MULTIPLE = 32  # of pixels: the stride of the last stage of most backbones
WIDEST = 21 / 9
LOOKED_AT = 16  # clips


def fitting_frame_size(rows: datasets.Dataset) -> tuple[int, int]:
    """Height and width of frames in the shape of these clips, hardly larger than they are.

    In a square, a wide frame would leave half of the pixels black. Clips of different shapes get a size between them.

    Args:
        rows: Clips, of which a few are opened; those that cannot be read are reported elsewhere.
    """
    logs, pixels = [], []
    for index in range(0, len(rows), max(1, len(rows) // LOOKED_AT)):
        video: Any = rows[index]["video"]
        try:
            height, width = decode_video(video, num_frames=1).frames.shape[-2:]
        except VideoDecodeError as error:
            logger.debug("%s", error)
            continue
        logs.append(math.log(width / height))
        pixels.append(height * width)
    if not logs:
        return SQUARE
    aspect = min(max(math.exp(sum(logs) / len(logs)), 1 / WIDEST), WIDEST)
    area = min(MAX_PIXELS, sum(pixels) / len(pixels))
    height, width = (
        max(MULTIPLE, MULTIPLE * round(side / MULTIPLE)) for side in ((area / aspect) ** 0.5, (area * aspect) ** 0.5)
    )
    return height, width
