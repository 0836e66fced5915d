"""Prints what AdaptDL 0.2.11 itself fits to step times that jobs could have measured, for goodput_fits.rs to compare.

One JSON object per line: how noisy the measurements are, these, and the parameters that AdaptDL fits to them; with "judge", what AdaptDL's own
objective makes of parameters that come the same way on standard input. The jobs are the same on every run.

usage: python goodput_fits.py [judge]        (a Python that has adaptdl 0.2.11; nothing else is needed)
"""

import json
import random
import sys
import warnings

import numpy as np

np.int = int  # goodput.py still uses it; numpy dropped it in 1.24

from adaptdl import goodput  # noqa: E402

SEED = 20261128
JOBS = 200
NOISES = [0.0, 0.0, 1e-3, 0.02, 0.1, 0.5]  # standard deviation of a measured time's logarithm


def main():
    warnings.simplefilter("ignore")  # autograd does things that numpy would like to be done in other ways
    if sys.argv[1:] == ["judge"]:
        for line in sys.stdin:
            fit = json.loads(line)
            print(json.dumps(objective(fit["fitted"], fit["measurements"])))
        return
    rng = random.Random(SEED)
    for _ in range(JOBS):
        noise = rng.choice(NOISES)
        measured = measurements(random_params(rng), random_shapes(rng), noise, rng)
        fitted = goodput.fit_perf_params(*columns(measured))
        print(json.dumps({"noise": noise, "measurements": measured, "fitted": fitted}))


def random_params(rng):
    alpha_c, beta_c = 10 ** rng.uniform(-4, 0), 10 ** rng.uniform(-6, -1)
    alpha_r = 10 ** rng.uniform(-4, 0)
    alpha_n = alpha_r * 10 ** rng.uniform(-0.5, 1.5)
    beta_r, beta_n = alpha_r * rng.uniform(0, 0.5), alpha_n * rng.uniform(0, 0.5)
    gamma = rng.choice([1.0, rng.uniform(1, 10), rng.uniform(1, 3)])
    return goodput.PerfParams(alpha_c, beta_c, alpha_n, beta_n, alpha_r, beta_r, gamma)


def random_shapes(rng):
    """Distinct (nodes, replicas, atomic batch size), as `state.profile` of adaptdl/torch/_metrics.py has them."""
    most_nodes, per_node = rng.choice([(1, 1), (1, 2), (1, 8), (2, 1), (2, 2), (4, 4), (16, 1), (16, 8)])
    sizes = [round(10 ** rng.uniform(0, 3.5)) for _ in range(rng.choice([1, 2, 3, 10]))]
    shapes = set()
    for _ in range(rng.choice([1, 2, 3, 5, 10, 30])):
        nodes = rng.randint(1, most_nodes)
        shapes.add((nodes, rng.randint(nodes, nodes * per_node), rng.choice(sizes)))
    return sorted(shapes)


def measurements(params, shapes, noise, rng):
    """(nodes, replicas, atomic batch size, accumulation step, optimizer step), times in seconds."""
    measured = []
    for nodes, replicas, atomic in shapes:
        accum = goodput._predict_accum_time(params, atomic)
        network = goodput._predict_network_time(params, np.array(nodes), np.array(replicas))
        optim = float(np.exp(goodput._predict_log_optim_time(params, accum, network)))
        accum, optim = (time * np.exp(rng.gauss(0, noise)) for time in (accum, optim))
        measured.append((nodes, replicas, atomic, float(accum), float(optim)))
    return measured


def columns(measured):
    return [np.array(column) for column in zip(*measured)]


def objective(fitted, measured):
    """`_obj_fn` of what was fitted: links between nodes that nobody used are raised only after that."""
    params = goodput.PerfParams(*fitted)
    if not any(nodes > 1 for nodes, *_ in measured):
        params = params._replace(alpha_n=1e-8, beta_n=1e-8)
    return float(goodput._obj_fn(params, *columns(measured)))


if __name__ == "__main__":
    main()
