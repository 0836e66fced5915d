"""What the Python twins of the examples make of their data, as one safetensors file each: `python twins.py DIRECTORY`."""

import importlib.util
import json
import pathlib
import struct
import sys

import torch

REPOSITORY = pathlib.Path(__file__).parents[2]


def load(path):
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, REPOSITORY / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(tensors, path):
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.detach().contiguous().numpy().tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


def digits():
    twin = load("examples/digits/main.py")
    train, valid = twin.load_data()
    torch.manual_seed(1)
    network = twin.make_network(64)
    outputs = network(twin.enlarge(valid.tensors[0], 16))
    torch.manual_seed(2)
    distorted = twin.distort(valid.tensors[0], 16)
    return network.state_dict() | {
        "of.train": train.tensors[0],
        "of.train.labels": train.tensors[1],
        "of.valid": valid.tensors[0],
        "of.valid.labels": valid.tensors[1],
        "of.outputs": outputs,
        "of.distorted": distorted,
    }


def transformer():
    twin = load("tests/bench/transformer.py")
    train, valid, letters = twin.load_data(64)
    torch.manual_seed(1)
    network = twin.Transformer(letters, 64, 64, 4, 4)
    return network.state_dict() | {
        "of.train": train,
        "of.valid": valid,
        "of.outputs": network(valid[:8, :-1]),
        "of.loss": twin.loss_of(network, valid[:8]),
    }


def main():
    directory = pathlib.Path(sys.argv[1])
    save(digits(), directory / "digits.safetensors")
    save(transformer(), directory / "transformer.safetensors")


if __name__ == "__main__":
    main()
