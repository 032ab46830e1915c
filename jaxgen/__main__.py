"""``python -m jaxgen`` is the command ``jaxgen``."""

import sys

from jaxgen.cli.main import main

sys.exit(main())
