import sys

from vitascope.cli import main

sys.exit(main(["clips", *sys.argv[1:]]))
