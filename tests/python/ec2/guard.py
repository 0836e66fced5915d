"""Ends what a region started, when the region itself is gone, however it ended.

    python -m ec2.guard REGION DIRECTORY

Its standard input is a pipe whose other end only the region holds. It also holds the region's lock, so that no
other region takes the same addresses before all of this one is gone.
"""

import shutil
import signal
import sys

from ec2 import marks


def main():
    region, directory = sys.argv[1:]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    marks.end(marks.REGION, region)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
