"""`python -m vidcap` is `vidcap`."""

import sys

from .cli import main

sys.exit(main())
