"""Saves what the test looks into, and prints what torch says of it as JSON.

    saved.py files DIR     files of torch.save, in both formats
    saved.py adaptdl DIR   a checkpoint of AdaptDL's, after SIGTERM: it ends with 143
"""

import json
import os
import pickle
import signal
import sys

import numpy
import torch
from torch import nn


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def told(name, value, out):
    if isinstance(value, torch.Tensor):
        parts = torch.view_as_real(value) if value.is_complex() else value
        numbers = parts.detach().double()
        each = numbers if not value.is_complex() else numbers.sum(-1)
        out[name] = {
            "type": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "norm": numbers[torch.isfinite(numbers)].norm().item(),
            "nan": int(each.isnan().sum()),
            "inf": int(each.isinf().sum()),
        }
    elif isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            told(f"{name}.{key}" if name else str(key), item, out)


def files(directory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.Linear(30, 3))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for optimizer in (sgd, adam):
        optimizer.zero_grad()
        model(torch.randn(8, 20)).pow(2).sum().backward()
        optimizer.step()
    grid = torch.randn(50, 40)
    odd = torch.arange(12.0)
    odd[3], odd[5], odd[6] = float("nan"), float("inf"), float("-inf")
    saved = {
        "model": model.state_dict(),
        "parameter": model[0].weight,
        "sgd": sgd.state_dict(),
        "adam": adam.state_dict(),
        "views": {
            "transposed": grid.t(),
            "stepped": grid[::2, 3:17:3],
            "column": grid[:, 7:8],
            "expanded": torch.ones(1, 5).expand(4, 5),
            "permuted": torch.randn(64, 64).view(8, 8, 64).permute(2, 0, 1),
            "overlapping": torch.arange(10.0).unfold(0, 4, 1),
        },
        "odd": odd,
        "none": torch.zeros(0, 3),
        "one": torch.tensor(3.5),
        "types": [torch.randn(10).to(dtype) for dtype in (
            torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)],
        "whole": [torch.arange(10).to(dtype) for dtype in (
            torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.bool)],
        "eight": torch.randn(4).to(torch.float8_e4m3fn),
        "array": numpy.arange(3.0),
        "number": numpy.float64(2.5),
        "epoch": 5,
    }
    torch.save(saved, f"{directory}/all.pt")
    torch.save(saved, f"{directory}/old.pth", _use_new_zipfile_serialization=False)
    torch.save({"weight": odd, "call": Hostile(f"{directory}/ran")}, f"{directory}/hostile.pt")
    with open(f"{directory}/hostile.pkl.pt", "wb") as file:
        pickle.dump([Hostile(f"{directory}/ran")], file)
    out = {}
    told("", saved, out)
    print(json.dumps(out))

    saved["model"]["0.weight"] = saved["model"]["0.weight"] + 0.5
    saved["views"]["transposed"] = (grid.t() + 0.25).contiguous()
    saved["one"] = torch.zeros(3)
    saved["new"] = saved.pop("none")
    saved["epoch"] = 6
    torch.save(saved, f"{directory}/other.pt")


def adaptdl(directory):
    os.environ.update(ADAPTDL_CHECKPOINT_PATH=directory, ADAPTDL_NUM_RESTARTS="4")
    import adaptdl.torch as adl

    torch.manual_seed(0)
    adl.init_process_group("gloo")
    data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125, momentum=0.9)
    loader = adl.AdaptiveDataLoader(data, batch_size=8, shuffle=True)
    model = adl.AdaptiveDataParallel(model, optimizer)
    losses = adl.Accumulator()
    for epoch in adl.remaining_epochs_until(10):
        for step, (inputs, targets) in enumerate(loader):
            optimizer.zero_grad()
            loss = (model(inputs) - targets).pow(2).mean()
            loss.backward()
            optimizer.step()
            losses["sum"] += loss.item()
            if epoch == 2 and step == 3:
                os.kill(os.getpid(), signal.SIGTERM)


{"files": files, "adaptdl": adaptdl}[sys.argv[1]](sys.argv[2])
