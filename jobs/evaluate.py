import sys

from vitascope.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
