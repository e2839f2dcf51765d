import sys

from vitascope.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
