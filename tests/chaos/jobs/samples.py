"""A job that knows of every sample how often it was trained on, in each epoch, whatever happened to it.

What a replica has seen is merged over all of them whenever AdaptDL saves. The size of the data set can be divided by
that of the batch, and that by the number of replicas, so AdaptDL never pads: once is what is right, and what is not
right is written to `verdict.json`.
"""

import argparse
import json
import os
import pickle
import time
from collections import Counter

import adaptdl.checkpoint
import adaptdl.collective
import adaptdl.env
import adaptdl.torch
import torch
from torch.utils.data import TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--until", help="end after the epoch in which this file exists")
parser.add_argument("--samples", type=int, default=960)
parser.add_argument("--batch", type=int, default=48)
parser.add_argument("--step", type=float, default=0.03, help="seconds a step, at least")
options = parser.parse_args()


class Seen(adaptdl.checkpoint.State):
    """How often each sample was trained on, by epoch: by all replicas up to the last save, and here since."""

    def __init__(self):
        super().__init__("seen")
        self.merged, self.mine, self.steps = {}, Counter(), 0

    def sync(self):
        everybodys = adaptdl.collective.allreduce(self.mine, lambda one, other: one + other)
        for (epoch, sample), times in everybodys.items():
            self.merged.setdefault(epoch, [0] * options.samples)[sample] += times
        self.mine = Counter()

    def save(self, file):
        pickle.dump((self.merged, self.steps), file)

    def load(self, file):
        self.merged, self.steps = pickle.load(file)

    def verdict(self, epochs):
        wrong = {
            epoch: dict(Counter(self.merged.get(epoch, [0])))
            for epoch in range(epochs)
            if self.merged.get(epoch) != [1] * options.samples
        }
        return {"epochs": epochs, "steps": self.steps, "wrong": wrong}


torch.manual_seed(0)
inputs = torch.randn(options.samples, 8)
numbers = torch.arange(options.samples)
adaptdl.torch.init_process_group("gloo")
data = TensorDataset(inputs, inputs.sum(1, keepdim=True), numbers)
loader = adaptdl.torch.AdaptiveDataLoader(data, batch_size=options.batch, shuffle=True)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
model = adaptdl.torch.AdaptiveDataParallel(model, optimizer)
seen = Seen()
adaptdl.checkpoint.load_state(seen)
first = adaptdl.env.replica_rank() == 0
print(f"begin step={seen.steps} replicas={adaptdl.env.num_replicas()}", flush=True)

for epoch in adaptdl.torch.remaining_epochs_until(1_000_000):
    for batch, wanted, samples in loader:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(batch), wanted).backward()
        time.sleep(options.step)
        optimizer.step()
        seen.mine.update((epoch, sample) for sample in samples.tolist())
        seen.steps += 1
    seen.sync()
    if adaptdl.collective.broadcast(os.path.exists(options.until)):
        verdict = seen.verdict(epoch + 1)
        if first:
            with open("verdict.json", "w", encoding="utf-8") as file:
                json.dump(verdict, file)
        print("verdict", json.dumps(verdict), flush=True)
        raise SystemExit(0)
