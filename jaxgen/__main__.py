"""``python -m jaxgen`` is the command ``jaxgen``."""

import sys

from jaxgen.cli import main

sys.exit(main())
