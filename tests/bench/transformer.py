"""examples/transformer_tch.rs in Python: the same text, network, first weights and optimizer, for comparison.

`--with torch` trains as a PyTorch script does, with DistributedDataParallel over gloo where there are several replicas;
`--with adaptdl` with AdaptDL's AdaptiveDataParallel. Which replica this is, AdaptDL's variables say. It prints what the
Rust program prints at every so many steps, and goes on until it is ended.
"""

import argparse
import math
import os
import pathlib
import random

import torch
import torch.nn.functional as F
from torch import nn

TEXT = pathlib.Path(__file__).parents[2] / "examples/data/pride_and_prejudice.txt"
HELD_BACK, WARM_UP = 0.1, 0.05


def parse_args():
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    option = parser.add_argument
    option("--with", dest="how", choices=["torch", "adaptdl"], default="torch")
    option("--epochs", type=int, default=14)
    option("--lr", type=float, default=0.005)
    option("--batch-size", type=int, default=16, help="of all replicas together")
    option("--context", type=int, default=64)
    option("--width", type=int, default=64)
    option("--layers", type=int, default=4)
    option("--heads", type=int, default=4)
    option("--log-every", type=int, default=10)
    option("--seed", type=int, default=0)
    option("--fused", action="store_true", help="have the optimizer's steps in one kernel")
    return parser.parse_args()


def load_data(context):
    """Windows to train on and to validate with, each with one character more, and how many characters there are."""
    text = TEXT.read_text()
    alphabet = sorted(set(text))
    number = {character: at for at, character in enumerate(alphabet)}
    numbers = torch.tensor([number[character] for character in text])
    held_back = int(len(numbers) * HELD_BACK)
    parts = numbers.split([len(numbers) - held_back, held_back])
    train, valid = (part.unfold(0, context + 1, context).contiguous() for part in parts)
    return train, valid, len(alphabet)


def linear(inputs, outputs, deviation):
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=deviation)
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    def __init__(self, width, layers, heads):
        super().__init__()
        added = 0.02 / math.sqrt(2 * layers)
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attend = linear(width, 3 * width, 0.02)
        self.join = linear(width, width, added)
        self.norm2 = nn.LayerNorm(width)
        self.widen = linear(width, 4 * width, 0.02)
        self.narrow = linear(4 * width, width, added)

    def attention(self, stream):
        batch, length, width = stream.shape
        three = self.attend(self.norm1(stream))
        query, key, value = three.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.join(seen.transpose(1, 2).reshape(batch, length, width))

    def forward(self, stream):
        stream = stream + self.attention(stream)
        return stream + self.narrow(F.gelu(self.widen(self.norm2(stream))))


class Transformer(nn.Module):
    def __init__(self, letters, context, width, layers, heads):
        super().__init__()
        self.tokens = nn.Embedding(letters, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.positions = nn.Parameter(torch.empty(context, width).normal_(std=0.02))
        self.blocks = nn.Sequential(*(Block(width, layers, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = linear(width, letters, 0.02)

    def forward(self, numbers):
        stream = self.tokens(numbers) + self.positions[: numbers.shape[1]]
        return self.head(self.norm(self.blocks(stream)))


def loss_of(network, windows):
    logits = network(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].reshape(-1))


def validate(network, valid, rank, replicas):
    """The mean loss over the windows that are not trained with, over all replicas."""
    network = getattr(network, "module", network)
    share = valid.tensor_split(replicas)[rank]
    with torch.no_grad():
        total = sum(loss_of(network, windows).item() * len(windows) for windows in share.split(16))
    sums = torch.tensor([total, len(share)])
    if replicas > 1:
        torch.distributed.all_reduce(sums)
    return (sums[0] / sums[1]).item()


def rate(args, done):
    """The learning rate: up along a line, and down to a tenth along a cosine."""
    falling = min(max((done - WARM_UP) / (1 - WARM_UP), 0), 1)
    cosine = 0.55 + 0.45 * math.cos(math.pi * falling)
    return args.lr * cosine * min((done + 0.001) / WARM_UP, 1)


def batches(train, args, rank, replicas):
    """This replica's part of the batches of one pass after another."""
    share = args.batch_size // replicas
    order, epoch = list(range(len(train))), 0
    while True:
        random.Random(args.seed + epoch).shuffle(order)
        for start in range(0, len(order) - args.batch_size + 1, args.batch_size):
            mine = start + rank * share
            yield epoch, train[torch.tensor(order[mine : mine + share])]
        epoch += 1


def adaptdl_batches(train, args):
    import adaptdl.torch as adl

    loader = adl.AdaptiveDataLoader(train, batch_size=args.batch_size, shuffle=True, drop_last=True)
    for epoch in adl.remaining_epochs_until(1 << 30):
        for windows in loader:
            yield epoch, windows


def main():
    args = parse_args()
    rank = int(os.environ.get("ADAPTDL_REPLICA_RANK", 0))
    replicas = int(os.environ.get("ADAPTDL_NUM_REPLICAS", 1))
    train, valid, letters = load_data(args.context)
    torch.manual_seed(args.seed)
    network = Transformer(letters, args.context, args.width, args.layers, args.heads)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.1, fused=args.fused or None
    )
    if args.how == "adaptdl":
        import adaptdl.torch as adl

        adl.init_process_group("gloo")
        network = adl.AdaptiveDataParallel(network, optimizer)
        samples = adaptdl_batches(train, args)
    else:
        if replicas > 1:
            address, port = os.environ["ADAPTDL_MASTER_ADDR"], os.environ["ADAPTDL_MASTER_PORT"]
            torch.distributed.init_process_group("gloo", f"tcp://{address}:{port}", rank=rank, world_size=replicas)
            network = nn.parallel.DistributedDataParallel(network)
        samples = batches(train, args, rank, replicas)

    goal = args.epochs * len(train) / args.batch_size
    average, last = None, 0
    for step, (epoch, windows) in enumerate(samples, start=1):
        if epoch != last:
            loss, last = validate(network, valid, rank, replicas), epoch
            if rank == 0:
                print(f"epoch={epoch - 1} step={step - 1} validation={loss:.4f} replicas={replicas}", flush=True)
        for group in optimizer.param_groups:
            group["lr"] = rate(args, (step - 1) / goal)
        optimizer.zero_grad()
        loss = loss_of(network, windows)
        loss.backward()
        optimizer.step()

        loss = loss.item()
        average = loss if average is None else 0.95 * average + 0.05 * loss
        if rank == 0 and step % args.log_every == 0:
            print(
                f"step={step} epoch={epoch} loss={average:.4f} replicas={replicas} batch={args.batch_size} "
                f"samples={step * args.batch_size}",
                flush=True,
            )


if __name__ == "__main__":
    main()
