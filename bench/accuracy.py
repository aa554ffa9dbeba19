"""Does training with algorithm "auto" reach what "direct" does? `python bench/accuracy.py lenet --seed 0`.

Trains one network on the embedded digits from one seed, with either algorithm in every convolution: the same initial
weights, order and shifts. Prints a line of the test errors. Figures of several seeds:
docs/kernels/winograd.md.
"""

from __future__ import annotations

import argparse
import json

from cnncore import data, models
from cnncore.layers.conv import Conv
from cnncore.optim import Adam, CosineLR
from cnncore.train import Trainer, accuracy


def test_error(model: str, algorithm: str, seed: int, images: int, epochs: int) -> float:
    """Percent of the 2,000 test digits that the network gets wrong after training on the first `images`."""
    (x, y), test = data.mnist10k()
    net = getattr(models, model)(**models.DIGITS[model], dropout=0.0, seed=seed)  # with it NIN learns for longer
    for _, layer in net.walk():
        if isinstance(layer, Conv):
            layer.attrs["algorithm"] = algorithm
    trainer = Trainer(net, Adam(net, lr=0.0003), CosineLR(epochs), seed=seed, quiet=True)
    trainer.fit((x[:images], y[:images]), epochs=epochs, batch_size=16, augment=data.shift(2))
    return 100 * (1 - accuracy(net, *test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=models.DIGITS)
    parser.add_argument("--algorithms", nargs="+", default=["auto", "direct"])
    for name, default in (("--seed", 0), ("--images", 4000), ("--epochs", 3)):
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
    for algorithm in args.algorithms:
        error = test_error(args.model, algorithm, args.seed, args.images, args.epochs)
        print(json.dumps({**vars(args), "algorithms": algorithm, "error": round(error, 2)}), flush=True)


if __name__ == "__main__":
    main()
