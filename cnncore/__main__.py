"""`python -m cnncore` is `cnncore`."""

import sys

from .cli import main

sys.exit(main())
