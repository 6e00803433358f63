"""`train_hf.py` with weights split over processes that have CPUs alone, where accelerate would leave FSDP out.

accelerate reads the settings of FSDP only where it counts several GPUs; here several processes count as such. All
else is as on GPUs, but for the device: torch splits, gathers and reduces on CPUs as well.
"""

import sys

sys.path.pop(0)  # this folder, in which `vidcap` holds tests

from accelerate.state import PartialState  # noqa: E402
from accelerate.utils import DistributedType  # noqa: E402

import train_hf  # noqa: E402

start = PartialState.__init__


def start_as_on_gpus(self, *args, **kwargs) -> None:
    start(self, *args, **kwargs)
    if self._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


PartialState.__init__ = start_as_on_gpus  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(train_hf.main())
