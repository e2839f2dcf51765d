import sys

from vitascope.cli import main

sys.exit(main(["data", *sys.argv[1:]]))
