"""Entry point of `python -m kvpress_video.cli`."""

import sys

from . import main

sys.exit(main())
