import sys

from vitascope.cli import main

sys.exit(main(["caption", *sys.argv[1:]]))
