"""Prints what AdaptDL 0.2.11 itself computes over a grid of hints, for goodput.rs to compare with.

One JSON object per line: hints as a worker sends them, and AdaptDL's answers for a placement, which are
null for hints that no AdaptDL worker can come to have. The grid is the same on every run.

usage: python goodput_grid.py        (a Python that has adaptdl 0.2.11; nothing else is needed)
"""

import itertools
import json
import random

import numpy as np

np.int = int  # goodput.py still uses it; numpy dropped it in 1.24

from adaptdl.goodput import GoodputFunction, GradParams, PerfParams  # noqa: E402
from adaptdl.sched_hints import PERF_PARAMS, SCHED_HINTS  # noqa: E402

SEED = 20261107
RANDOM_MODELS = 600
PLACEMENTS_PER_MODEL = 5

# alpha_c, beta_c, alpha_n, beta_n, alpha_r, beta_r, gamma
PERF = [
    (0.121, 0.00568, 0.0236, 0.00634, 0.0118, 0.00317, 1.14),  # a large network on several nodes
    (0.0195, 0.00043, 0.0123, 0.00456, 0.0078, 0.00091, 1.65),  # a small one, limited by its network
    (0.05, 0.002, 1e-8, 1e-8, 1e-8, 1e-8, 1.001),  # profiled on one replica: the fit's lower bounds
    (0.004, 0.00002, 0.3, 0.08, 0.02, 0.004, 10.0),  # slow links, overlap at its bound
    (1e-8, 0.01, 0.011, 0.0011, 0.01, 0.001, 1.0),  # no constant cost, no overlap
    (2.5, 0.75, 0.9, 0.1, 0.4, 0.05, 3.7),  # seconds per sample
]

# norm and var; None: not measured
GRAD = [None, (0.0021, 0.137), (1.0, 1e-6), (0.0, 1e-6), (0.0, 0.0), (3.5, 0.0), (41.0, 9.7e6)]

# initBatchSize, maxBatchSize, localBszBounds
BATCH = [
    (128, 4096, (32, 256)),
    (128, 16384, None),  # 128 · 2^7: every seventh candidate is a whole number
    (128, None, None),
    (128, 0, (None, None)),
    (128, 128, (64, 128)),  # all candidates equal
    (100, 12345, (None, 100)),
    (37, 1000, (5, None)),
    (1, 64, (1, 8)),
    (1, 1, (1, 1)),
    (256, 512, (256, 256)),  # one replica may not grow, three exceed the greatest batch
    (20, 10**6, (0, 50000)),
]

# distinct nodes, replicas
PLACEMENTS = [
    (1, 2), (2, 2), (1, 3), (2, 3), (3, 3), (1, 4), (2, 4), (4, 4), (1, 5), (3, 7), (1, 8), (2, 8),
    (8, 8), (2, 12), (1, 16), (4, 16), (16, 16), (6, 24), (4, 31), (5, 32), (8, 33), (8, 48),
    (1, 64), (16, 64), (64, 64), (13, 100), (128, 1024),
]  # fmt: skip


def main():
    np.seterr(divide="ignore", invalid="ignore")
    rng = random.Random(SEED)
    for perf, grad, batch, accumulation in models(rng):
        hints = hints_of(perf, grad, batch, accumulation, rng)
        if refused(batch):
            emit(hints, None)
            continue
        for nodes, replicas in [(1, 1), *rng.sample(PLACEMENTS, PLACEMENTS_PER_MODEL)]:
            emit(hints, answers(hints, nodes, replicas, rng))


def models(rng):
    yield from itertools.product(PERF, GRAD, BATCH, (False, True))
    for _ in range(RANDOM_MODELS):
        yield random_perf(rng), random_grad(rng), random_batch(rng), rng.random() < 0.5


def random_perf(rng):
    times = [10 ** rng.uniform(-5, 1), 10 ** rng.uniform(-6, 0)]
    times += [10 ** rng.uniform(-8, 1) for _ in range(4)]
    return (*times, rng.choice([1.0, 10.0, rng.uniform(1, 10)]))


def random_grad(rng):
    return rng.choice([None, (10 ** rng.uniform(-12, 12), 10 ** rng.uniform(-6, 12))])


def random_batch(rng):
    """Mostly limits that contain the initial batch, as a worker has them, and some that do not."""
    init = round(10 ** rng.uniform(0, 3.5))
    if rng.random() < 0.1:
        return init, round(init * rng.uniform(0.5, 4)), (round(init * rng.uniform(0.3, 1.5)), round(init * 1.2))
    most = round(init * 10 ** rng.uniform(0, 2.5))
    low = rng.choice([None, round(init * rng.uniform(0, 1))])
    high = rng.choice([None, round(init * 10 ** rng.uniform(0, 1))])
    return init, rng.choice([None, most, most]), rng.choice([None, (low, high)])


def hints_of(perf, grad, batch, accumulation, rng):
    """As `_report_sched_hints` of adaptdl/torch/_metrics.py fills them in."""
    init, most, bounds = batch
    return {
        **SCHED_HINTS,
        "initBatchSize": init,
        "maxBatchSize": most,
        "localBszBounds": bounds,
        "gradientAccumulation": accumulation,
        "maxProfiledReplicas": rng.choice([0, 1, 2, 3, 8, 40]),
        "gradParams": grad and {"norm": grad[0], "var": grad[1]},
        "perfParams": dict(zip(PERF_PARAMS, perf)),
    }


def refused(batch):
    """What `autoscale_batch_size` of adaptdl/torch/data.py raises ValueError for."""
    init, most, bounds = batch
    low, high = bounds or (None, None)
    return bool((most and most < init) or (low and low > init) or (high and high < init))


def answers(hints, nodes, replicas, rng):
    """What AdaptDL's allocator would make of the hints (`_get_job_info`), and its goodput function say."""
    init, bounds = hints["initBatchSize"], hints["localBszBounds"]
    most = hints["maxBatchSize"] or init
    grad = hints["gradParams"] or {"norm": 0.0, "var": 1.0}
    # numpy's floats, because plain ones raise where AdaptDL divides zero by zero before it looks.
    grad = GradParams(np.float64(grad["norm"]), np.float64(grad["var"]))
    goodput_fn = GoodputFunction(PerfParams(*hints["perfParams"].values()), grad, init)

    def optimize(*placement):
        return goodput_fn.optimize(
            *placement,
            max_batch_size=most,
            atomic_bsz_range=bounds,
            accumulation=hints["gradientAccumulation"],
        )

    goodput, atomic_bsz, accum_steps = optimize(nodes, replicas)
    return {
        "nodes": nodes,
        "replicas": replicas,
        "optimum": {"goodput": goodput, "atomicBsz": atomic_bsz, "accumSteps": accum_steps},
        # adaptdl_sched/policy/speedup.py divides by the same.
        "speedup": goodput / optimize(1, 1)[0],
        "probe": probe(goodput_fn, nodes, replicas, init, rng),
        "maxReplicas": max_replicas(hints, most),
    }


def probe(goodput_fn, nodes, replicas, init, rng):
    """The functions by themselves, for a batch that need not be one of the candidates."""
    atomic_bsz, accum_steps = rng.randint(1, 2 * init), rng.choice([0, 0, 1, 2, 5, 17])
    batch_size = replicas * atomic_bsz * (accum_steps + 1)
    feasible = batch_size >= init
    return {
        "atomicBsz": atomic_bsz,
        "accumSteps": accum_steps,
        "throughput": float(goodput_fn.throughput(nodes, replicas, atomic_bsz, accum_steps)),
        # AdaptDL asserts that the batch is feasible; rayconcile calls any other worthless.
        "efficiency": float(goodput_fn.efficiency(batch_size)) if feasible else 0.0,
        "goodput": float(goodput_fn.evaluate(nodes, replicas, atomic_bsz, accum_steps)) if feasible else 0.0,
    }


def max_replicas(hints, most):
    """`_get_job_info` of adaptdl_sched/allocator.py, without the manifest's own limits."""
    cap = max(2 * hints["maxProfiledReplicas"], 1)
    if hints["localBszBounds"]:
        least = hints["localBszBounds"][0] or 1
        if most < least * cap:
            cap = int(most / least)
    return cap


def emit(hints, answers):
    print(json.dumps({"hints": hints, "answers": answers}))


if __name__ == "__main__":
    main()
