import sys

from vitascope.cli import main

sys.exit(main(["demo", *sys.argv[1:]]))
