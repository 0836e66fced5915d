"""A job with a state of any size, and a record of every step in a file that outlives its workers.

    group=0 replicas=1 step=7 at=1764072000.123456
"""

import argparse
import os
import pickle
import time

import adaptdl.checkpoint
import adaptdl.env
import adaptdl.torch
import torch
from torch.utils.data import TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--megabytes", type=float, default=1, help="of state that does not change")
parser.add_argument("--step", type=float, default=0.005, help="seconds a step, at least")
parser.add_argument("--trace", help="the file to which steps are written")
options = parser.parse_args()


class Made(adaptdl.checkpoint.State):
    """How many steps were made, over all groups."""

    steps = 0

    def save(self, file):
        pickle.dump(self.steps, file)

    def load(self, file):
        self.steps = pickle.load(file)


class Model(torch.nn.Module):
    """A small layer that learns, and a large one that is only kept."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)
        self.register_buffer("kept", torch.full((int(options.megabytes * 250_000),), 0.5))

    def forward(self, batch):
        return self.layer(batch)


torch.manual_seed(0)
inputs = torch.randn(4096, 8)
adaptdl.torch.init_process_group("gloo")
loader = adaptdl.torch.AdaptiveDataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=16)
model = Model()
optimizer = torch.optim.SGD(model.layer.parameters(), lr=0.001)
model = adaptdl.torch.AdaptiveDataParallel(model, optimizer, broadcast_buffers=False)
made = Made("made")
adaptdl.checkpoint.load_state(made)
who = f"group={adaptdl.env.num_restarts()} replicas={adaptdl.env.num_replicas()}"
trace = open(options.trace, "a", buffering=1) if options.trace and adaptdl.env.replica_rank() == 0 else None

for epoch in adaptdl.torch.remaining_epochs_until(1_000_000):
    for batch, wanted in loader:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(batch), wanted).backward()
        time.sleep(options.step)
        optimizer.step()
        made.steps += 1
        if trace:
            trace.write(f"{who} step={made.steps} at={time.time():.6f}\n")
