import sys

from vitascope.cli import main

sys.exit(main(["doctor", *sys.argv[1:]]))
