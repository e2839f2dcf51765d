import sys

from vitascope.cli import main

sys.exit(main(["encode", *sys.argv[1:]]))
