"""AdaptDL's own gradient noise scale on the gradients of `programs.rs`'s `noise`: `noise.py DATA REPLICAS BATCH EPOCHS`.

A line for each step: the squared norm of the gradient, its variance, the progress. AdaptDL's class is used as it is, but
for the exchange between replicas: their gradients come one after the other, as if they were batches on one.
"""

import json
import sys

import numpy as np

# Aliases that AdaptDL uses and numpy has no more.
np.int, np.float = int, float

import torch  # noqa: E402
from adaptdl.torch.gradient_noise_scale import GradientNoiseScale  # noqa: E402


class Parallel:
    require_backward_grad_sync = True


def main():
    path, replicas, batch, epochs = sys.argv[1], *map(int, sys.argv[2:])
    with open(path, encoding="utf-8") as file:
        data = torch.tensor(json.load(file), dtype=torch.float32)
    one, other = (torch.zeros(size, requires_grad=True) for size in (5, 3))
    optimizer = torch.optim.SGD([{"params": [one]}, {"params": [other]}], lr=0.1)
    noise = GradientNoiseScale(Parallel(), optimizer, num_replicas=1, accum_scale=1.0)
    noise._num_replicas = replicas
    noise._accum_scale = 1.0
    for begin in list(range(0, len(data), batch)) * epochs:
        noise.reset_accumulation()
        noise._local_sqr = torch.zeros(2, dtype=torch.float64)
        gradients = [part.mean(dim=0) for part in data[begin : begin + batch].split(batch // replicas)]
        for gradient in gradients:
            for group, part in enumerate(gradient.split([5, 3])):
                noise._local_sqr[group] += part.pow(2).sum(dtype=torch.float64)
        one.grad, other.grad = sum(gradients).div(replicas).split([5, 3])
        noise._accum_count = 1
        # Nobody is waited for: the sum is there.
        noise._async_op = type("Done", (), {"wait": staticmethod(lambda: None)})
        noise._final_callback()
        noise.set_progress(noise.get_progress() + noise.gain(1.0))
        print(float(noise.sqr_avg()), float(noise.var_avg()), float(noise.get_progress()))


main()
