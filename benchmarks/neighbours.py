"""kNN for every odd k up to 101, against the bare product of the two matrices of features.

    python benchmarks/neighbours.py [--queries 10000] [--bank 50000] [--dim 512] [--classes 100]

They are measured in turns in one process; the ratio is that of the fastest rounds. The third line
is what a user would write: ``topk`` of each chunk of similarities and a vote for each k.
"""

import argparse
import time
from collections.abc import Callable

import torch

from ssl_transfer.estimators.neighbours import nearest, votes

CHUNK = 512


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("queries", 10_000), ("bank", 50_000), ("dim", 512), ("classes", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=3)
    sizes = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(sizes.queries, sizes.dim, generator=generator)
    bank = torch.randn(sizes.bank, sizes.dim, generator=generator)
    labels = torch.randint(sizes.classes, (sizes.bank,), generator=generator)
    ks = range(1, 102, 2)

    def product() -> None:
        for chunk in queries.split(CHUNK):
            chunk @ bank.T

    def ours() -> list[torch.Tensor]:
        similarity, rows = nearest(queries, bank, k=101)
        shares = votes(similarity, rows, labels, k=ks, temperature=0.07, classes=sizes.classes)
        return [share.argmax(1) for share in shares]

    def literal() -> list[list[torch.Tensor]]:
        unit = torch.nn.functional.normalize(bank)
        predictions = []
        for chunk in torch.nn.functional.normalize(queries).split(CHUNK):
            similarity, rows = (chunk @ unit.T).topk(101)
            weights, known = (similarity / 0.07).exp(), labels[rows]
            empty = torch.zeros(len(chunk), sizes.classes)
            predictions.append(
                [empty.scatter_add(1, known[:, :k], weights[:, :k]).argmax(1) for k in ks]
            )
        return predictions

    assert torch.equal(torch.cat([chunk[10] for chunk in literal()]), ours()[10])
    times = {"bare product": product, "ours": ours, "topk and votes": literal}
    best = dict.fromkeys(times, float("inf"))
    for _ in range(sizes.rounds):
        for name, work in times.items():
            best[name] = min(best[name], seconds(work))
    for name, value in best.items():
        print(f"{name:16}{value:8.2f} s{value / best['bare product']:8.2f} of the bare product")


if __name__ == "__main__":
    main()
