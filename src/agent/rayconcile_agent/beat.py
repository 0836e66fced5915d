"""Shows the machine that a job of ours works: an instance that nobody needs ends itself (`provider/aws/boot.sh`).

The agent tells an instance as much, but it can be dead. A slot with a live worker, and on the head a bridge with one
anywhere, write into a file that the node's environment names, as long as that is so. What is written does not matter,
only that it changes: whoever reads it compares no clocks.
"""

import os
import time

# The variable with the file's path. Where it is not set nobody looks.
VARIABLE = "RAYCONCILE_BEAT"
# How often it is written. It is looked at every half minute, and an instance lives on for at least a minute.
PERIOD_S = 5.0


class Beat:
    """One who writes. The file is made by whoever reads it, for all to write."""

    def __init__(self):
        self.path = os.environ.get(VARIABLE)
        self.due = 0.0

    def give(self):
        """Show it, if that is due. While the agent lives nothing depends on it: if it cannot be, nobody is told."""
        now = time.monotonic()
        if not self.path or now < self.due:
            return
        self.due = now + PERIOD_S
        try:
            # Not made longer, nor empty for a moment: a reader finds a whole number.
            with open(self.path, "r+", encoding="ascii") as file:
                file.write(f"{time.monotonic_ns():020d}\n")
        except OSError:
            pass
