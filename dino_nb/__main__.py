"""``python -m dino_nb VERB`` is ``dino-nb VERB``."""

import sys

from dino_nb.cli import main

sys.exit(main())
