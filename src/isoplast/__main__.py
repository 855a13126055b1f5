"""`python -m isoplast`: the command line where its script is not on the PATH."""

import sys

if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the current directory: a random.py that lies there is none of ours

from isoplast.cli import main

if __name__ == "__main__":
    sys.exit(main())
