"""AdaptDL's own gradient noise scale on the gradients of `programs.rs`'s `noise`: `noise.py DATA BATCH STEPS`.

STEPS has for each step the samples of each batch, whichever replica had it. A line is printed for each: the squared norm
of the gradient, and its variance. AdaptDL's class is used as it is, but for the exchange between
replicas: their gradients come one after the other.
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
    (data, steps), batch_size = (json.load(open(sys.argv[at], encoding="utf-8")) for at in (1, 3)), int(sys.argv[2])
    data = torch.tensor(data, dtype=torch.float32)
    one, other = (torch.zeros(size, requires_grad=True) for size in (5, 3))
    optimizer = torch.optim.SGD([{"params": [one]}, {"params": [other]}], lr=0.1)
    noise = GradientNoiseScale(Parallel(), optimizer, num_replicas=1, accum_scale=1.0)
    for before, batches in zip([steps[0], *steps], steps):
        scale = sum(map(len, batches)) / batch_size
        # What is left at the end of an epoch may be no more than one batch. AdaptDL, which never has less there, would
        # begin its averages anew.
        is_rest = len(batches) == 1 < len(before)
        if len({len(batch) for batch in batches}) == 1 and not is_rest:
            observe(noise, data, batches, scale, one, other)
        print(noise.sqr_avg(), noise.var_avg())


def observe(noise, data, batches, scale, one, other):
    noise.reset_accumulation()
    noise._local_sqr = torch.zeros(2, dtype=torch.float64)
    gradients = [data[batch].mean(dim=0) for batch in batches]
    for gradient in gradients:
        for group, part in enumerate(gradient.split([5, 3])):
            noise._local_sqr[group] += part.pow(2).sum(dtype=torch.float64)
    one.grad, other.grad = sum(gradients).split([5, 3])
    noise._accum_count = len(batches)
    noise._accum_scale = scale / len(batches)
    noise._final_callback()


main()
