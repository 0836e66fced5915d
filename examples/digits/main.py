"""Teach a small convolutional network to read handwritten digits, on any number of replicas.

The data are the 1,797 images that come with scikit-learn, so nothing is downloaded. Training is
elastic through AdaptDL: after any step the replicas may save a checkpoint and leave, and another
number of them go on from there.

The replica of rank 0 writes one record a line to standard output:

    step=120 epoch=5 loss=0.5113 replicas=1 batch=64 samples=7680
    epoch=5 step=136 loss=0.3669 accuracy=0.9639 replicas=1 batch=64
    done accuracy=1.0000 model=model.pt
"""

import argparse
import math
import pickle

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import TensorDataset

import adaptdl.checkpoint
import adaptdl.env
import adaptdl.torch as adl


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    option = parser.add_argument
    switch = argparse.BooleanOptionalAction
    option("--epochs", type=int, default=90)
    option("--lr", type=float, default=0.005, help="at --batch-size; AdaptDL scales it")
    option("--batch-size", type=int, default=64, help="of all replicas together, to begin with")
    option("--autoscale-bsz", action=switch, default=True, help="let AdaptDL choose the batch size")
    option("--max-batch-size", type=int, default=256, help="of all replicas together")
    option("--local-bsz-bounds", type=int, nargs=2, metavar=("MIN", "MAX"), default=(8, 96),
           help="what one replica takes at a time")
    option("--gradient-accumulation", action=switch, default=True,
           help="make up larger batches than the replicas can take at a time")
    option("--image-size", type=int, default=16, help="pixels a side, as the network sees them")
    option("--width", type=int, default=64, help="channels of the first layers; a multiple of 8")
    option("--log-every", type=int, default=10, metavar="STEPS", help="between two records")
    option("--seed", type=int, default=0, help="of the first weights and the distortions")
    return parser.parse_args()


def load_data():
    """The digits as two datasets, to train on and to validate with."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target)
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    train_images, valid_images, train_labels, valid_labels = parts
    return TensorDataset(train_images, train_labels), TensorDataset(valid_images, valid_labels)


def enlarge(images, size):
    """The images at `size` pixels a side."""
    return F.interpolate(images, size=(size, size), mode="bilinear")


def distort(images, size):
    """The same, but each one turned, scaled and moved at random."""

    def uniform(limit):
        return (torch.rand(len(images), device=images.device) * 2 - 1) * limit

    angle, scale = uniform(math.radians(20)), 1 + uniform(0.2)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    right, down = uniform(0.25), uniform(0.25)
    transform = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(transform, (len(images), 1, size, size), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def convolution(inputs, outputs):
    # Normalised over groups of channels, not over the batch: replicas take batches of any size.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(4, outputs),
        nn.ReLU(inplace=True),
    )


def stage(inputs, outputs):
    return nn.Sequential(
        convolution(inputs, outputs),
        convolution(outputs, outputs),
        convolution(outputs, outputs),
    )


def make_network(width):
    return nn.Sequential(
        stage(1, width),
        nn.MaxPool2d(2),
        stage(width, width * 3 // 2),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(width * 3 // 2 * 4 * 4, 10),
    )


class Progress(adaptdl.checkpoint.State):
    """What has been done since the very first start; it survives checkpoint-restarts."""

    def __init__(self):
        super().__init__("progress")
        self.step = 0
        self.samples = 0  # by all replicas
        self.loss = None  # moving average, over the first replica's share
        self.batch = None  # size of the last one
        adaptdl.checkpoint.load_state(self)

    def save(self, fileobj):
        pickle.dump((self.step, self.samples, self.loss, self.batch), fileobj)

    def load(self, fileobj):
        self.step, self.samples, self.loss, self.batch = pickle.load(fileobj)

    def advance(self, loss, samples, batch):
        self.step += 1
        self.samples += samples
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        self.batch = batch


def main():
    args = parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    adl.init_process_group("nccl" if cuda else "gloo")
    replicas, first = adaptdl.env.num_replicas(), adaptdl.env.replica_rank() == 0

    def report(record):
        if first:
            print(record, flush=True)

    train_data, valid_data = load_data()
    train_loader = adl.AdaptiveDataLoader(
        train_data, batch_size=args.batch_size, shuffle=True, drop_last=True
    )
    valid_loader = adl.AdaptiveDataLoader(valid_data, batch_size=128)
    if args.autoscale_bsz:
        train_loader.autoscale_batch_size(
            args.max_batch_size,
            local_bsz_bounds=tuple(args.local_bsz_bounds),
            gradient_accumulation=args.gradient_accumulation,
        )

    torch.manual_seed(args.seed)
    network = make_network(args.width).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    model = adl.AdaptiveDataParallel(network, optimizer, schedule)
    progress = Progress()
    totals = adl.Accumulator()
    # The first weights are the same everywhere; distortions differ by replica and by restart.
    torch.manual_seed(hash((args.seed, adaptdl.env.num_restarts(), adaptdl.env.replica_rank())))

    for epoch in adl.remaining_epochs_until(args.epochs):
        model.train()
        for images, labels in train_loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(distort(images, args.image_size)), labels)
            loss.backward()
            optimizer.step()

            loss = loss.item()
            totals.update(loss=loss * len(labels), trained=len(labels))
            progress.advance(loss, len(labels) * replicas, train_loader.current_batch_size)
            if progress.step % args.log_every == 0:
                report(
                    f"step={progress.step} epoch={epoch} loss={progress.loss:.4f} "
                    f"replicas={replicas} batch={progress.batch} samples={progress.samples}"
                )

        model.eval()
        for images, labels in valid_loader:
            images, labels = images.to(device), labels.to(device)
            with torch.no_grad():
                guesses = model(enlarge(images, args.image_size)).argmax(dim=1)
            totals.update(right=(guesses == labels).sum().item(), validated=len(labels))

        # Nothing below runs twice in an epoch: a restart can come only inside the two loops above.
        schedule.step()
        with totals.synchronized():
            accuracy = totals["right"] / totals["validated"]
            loss = totals["loss"] / totals["trained"]
            report(
                f"epoch={epoch} step={progress.step} loss={loss:.4f} accuracy={accuracy:.4f} "
                f"replicas={replicas} batch={progress.batch}"
            )
            totals.clear()

    if first:
        torch.save(network.state_dict(), "model.pt")
    report(f"done accuracy={accuracy:.4f} model=model.pt")


if __name__ == "__main__":
    main()
