import sys

from vitascope.cli import main

sys.exit(main(["generate", *sys.argv[1:]]))
