import sys

from dino_nb.cli import main

sys.exit(main())
