"""A small job that uses AdaptDL as its documentation says, and writes down every step it makes.

Its work is sleeping, so that it is quick to import and easy on the machine; what two replicas gain or lose is set by
arguments: `--work` is what a sample costs, `--talk` what an exchange between replicas costs.
"""

import argparse
import os
import pickle
import time

import adaptdl.checkpoint
import adaptdl.env
import adaptdl.torch
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.utils.data import TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200, help="how many to make in all")
parser.add_argument("--until", help="end when this file exists instead; for one replica")
parser.add_argument("--work", type=float, default=0.001, help="seconds a sample")
parser.add_argument("--talk", type=float, default=0.0, help="seconds a step, with more than one replica")
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--max-batch", type=int, default=256)
parser.add_argument("--min-local", type=int, default=8)
parser.add_argument("--tag", default="")
parser.add_argument("--record", help="where the first replica writes down its group and every step")
options = parser.parse_args()


class Made(adaptdl.checkpoint.State):
    """How many steps were made, over all groups."""

    steps = 0

    def save(self, file):
        pickle.dump(self.steps, file)

    def load(self, file):
        self.steps = pickle.load(file)


torch.manual_seed(0)
inputs = torch.randn(4096, 8)
targets = inputs.sum(1, keepdim=True) * 0.1 + torch.randn(4096, 1)
adaptdl.torch.init_process_group("gloo")
loader = adaptdl.torch.AdaptiveDataLoader(TensorDataset(inputs, targets), batch_size=options.batch, shuffle=True)
loader.autoscale_batch_size(
    options.max_batch, local_bsz_bounds=(options.min_local, options.max_batch), gradient_accumulation=True
)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
model = adaptdl.torch.AdaptiveDataParallel(model, optimizer)
if options.talk:
    # Where AdaptDL measures how long the replicas exchange gradients.
    def slow_exchange(state, bucket):
        time.sleep(options.talk)
        return allreduce_hook(state, bucket)

    model.register_comm_hook(None, slow_exchange)
made = Made("made")
adaptdl.checkpoint.load_state(made)
rank, replicas = adaptdl.env.replica_rank(), adaptdl.env.num_replicas()
print(f"begin step={made.steps} rank={rank} replicas={replicas} tag={options.tag} pid={os.getpid()}", flush=True)

for epoch in adaptdl.torch.remaining_epochs_until(1000000):
    for batch, wanted in loader:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(batch), wanted)
        time.sleep(options.work * len(batch))
        loss.backward()
        optimizer.step()
        made.steps += 1
        if options.record and rank == 0:
            with open(options.record, "a") as record:
                record.write(f"{adaptdl.env.num_restarts()} {made.steps}\n")
        print(f"step={made.steps} epoch={epoch} loss={loss.item():.4f} replicas={replicas}", flush=True)
        if os.path.exists(options.until) if options.until else made.steps >= options.steps:
            torch.save(model.state_dict(), "model.pt")
            print("done", flush=True)
            raise SystemExit(0)
