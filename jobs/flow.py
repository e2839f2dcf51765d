import sys

from vitascope.cli import main

sys.exit(main(["flow", *sys.argv[1:]]))
