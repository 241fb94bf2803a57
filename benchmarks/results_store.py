"""Reading of many records: plain ``json`` and pandas against ``results.load``, cold and again.

    python benchmarks/results_store.py [--records 100000] [--folder FOLDER]

The records have about 10 KB and the form that runs write: 50 encoders x 15 data sets x 8 protocols,
of which four in eight have two settings of a hyper-parameter, the rest of the number being seeds.
"Plain" reads each file with ``json`` and gives pandas one flat row per score, without checksums,
labels or any other examination. Every line is a fresh process; memory is the largest resident set
of the process and of its helper.
"""

import argparse
import copy
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent
ENCODERS, DATA_SETS = 50, 15
PROTOCOLS = ("linear_probe", "knn", "bn_tune", "finetune", "logme", "few_shot", "parc", "nleep")
PLAIN = """
import json, pathlib, pandas
rows = []
for path in pathlib.Path(FOLDER).glob("*/*/record.json"):
    record = json.loads(path.read_bytes())
    parts = {k: record["config"][k] for k in ("model", "method", "dataset", "protocol")}
    flat = {"run_id": record["run_id"], "seed": record["seed"], **{
        f"{axis}.{key}": str(value) for axis, part in parts.items() for key, value in part.items()}}
    rows += [{**flat, **score} for score in record["scores"]]
table = pandas.DataFrame(rows)
"""
LOAD = "import results\ntable = results.load(FOLDER)\n"
READ = "import results\ntable = results.read(FOLDER).rows\n"
TABLE = """
import results
from results.tables.wide import wide
table = wide(results.read(FOLDER))
"""
WHERE = """
import results
from results.records.query import where
table = where(results.read(FOLDER), 'protocol.epochs == 100 and dataset.name == "set_3"').rows
"""
MEASURED = """
import resource, sys, time
FOLDER = sys.argv[1]
began, cpu = time.perf_counter(), time.process_time()
{code}
seconds = time.perf_counter() - began
sizes = [resource.getrusage(who).ru_maxrss / 1024 for who in
         (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print("MEASURED", seconds, time.process_time() - cpu, *sizes, len(table))
"""


class Text:
    """A value as indented text at a level of nesting, and as the text of which checksums are."""

    known: ClassVar[dict[tuple[int, int], "Text"]] = {}

    def __init__(self, value: Any, level: int) -> None:
        self.value = value  # keeps the id of a shared value
        self.shown = json.dumps(value, indent=1).replace("\n", "\n" + " " * level)
        self.canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))

    @classmethod
    def of(cls, value: Any, level: int, *, shared: bool) -> "Text":
        """Return the texts of a value, computed once for shared ones."""
        if not shared:
            return cls(value, level)
        key = (id(value), level)
        if key not in cls.known:
            cls.known[key] = cls(value, level)
        return cls.known[key]


def composed(parts: dict[str, Any], level: int, shared: set[str]) -> tuple[str, str]:
    """Return an object as indented and as canonical text."""
    texts = {
        key: one if isinstance(one, tuple) else Text.of(one, level, shared=key in shared)
        for key, one in parts.items()
    }
    pairs = {k: t if isinstance(t, tuple) else (t.shown, t.canonical) for k, t in texts.items()}
    gap = "\n" + " " * level
    shown = f",{gap}".join(f'"{key}": {pair[0]}' for key, pair in pairs.items())
    canonical = ",".join(f'"{key}":{pairs[key][1]}' for key in sorted(pairs))
    return f"{{{gap}{shown}\n{' ' * (level - 1)}}}", f"{{{canonical}}}"


def models() -> list[dict[str, Any]]:
    """Return the configurations of encoders."""
    preprocessing = {"size": 224, "resize": 256, "interpolation": "bicubic",
                     "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # fmt: skip
    return [
        {"weights": {"layout": "auto", "path": f"weights/encoder_{n}.pth"}, "width": 64 + n % 3,
         "_target_": "ssl_transfer.models.resnet.resnet50", "name": "resnet50", "blocks": 3,
         "preprocessing": preprocessing}
        for n in range(ENCODERS)
    ]  # fmt: skip


def protocols() -> list[dict[str, Any]]:
    """Return the configurations of protocols, of which every second has two settings."""
    base = {
        "views": [{"count": 2, "crop_scale": [0.2, 1.0], "hue": 0.1, "blur_sigma": [0.1, 2.0]}],
        "batch_size": 256,
        "warmup_epochs": 0,
        "weight_decays": [1e-06, 1e-05, 1e-04],
        "lrs": [0.001, 0.003, 0.01, 0.03],
        "selection": "val",
        "optimizer": {"name": "sgd"},
    }
    return [
        {"_target_": f"ssl_transfer.protocols.{name}.Protocol", "name": name, **base, "epochs": e}
        for place, name in enumerate(PROTOCOLS)
        for e in ((50, 100) if place % 2 else (100,))
    ]  # fmt: skip


def data_sets() -> list[dict[str, Any]]:
    """Return the configurations of data sets."""
    return [
        {"val_fraction": 0.2, "split_seed": 0, "flip": True, "on_corrupt": "error",
         "name": f"set_{n}", "_target_": "ssl_transfer.datasets.folder.image_folder",
         "root": f"set_{n}", "test_folder": "val", "test_fraction": 0.2}
        for n in range(DATA_SETS)
    ]  # fmt: skip


def records(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield the place and the text of records."""
    chance = random.Random(0)
    method = {"name": "as_is", "seed": 0}
    nodes = models()
    encoders = [
        {"id": f"{n:016x}", "label": f"encoder_{n}", "preprocessing": node["preprocessing"],
         "parameters": 23_508_032 + n}
        for n, node in enumerate(nodes)
    ]  # fmt: skip
    data = [
        {"fingerprint": f"{n:064x}", "classes": [f"n{n:02}{c:06}" for c in range(380)],
         "sizes": {"train": 2400, "val": 600, "test": 1000}, "num_classes": 380, "corrupt": 0}
        for n in range(DATA_SETS)
    ]  # fmt: skip
    hashes = [f"{n:064x}" for n in range(ENCODERS)]
    trainer = {"device": "auto", "workers": 8, "batch_size_eval": 256, "compile": False,
               "checkpoint_every_minutes": 5, "decode_once": "auto", "monitor": {
                   "every_steps": 100, "every_epochs": 20, "samples": 10000, "k": 200,
                   "temperature": 0.07, "metric": "cosine", "probe_lr": 0.1}}  # fmt: skip
    paths = {"outputs": "outputs", "data": "data", "weights": "weights", "stage": None}
    versions = dict.fromkeys(("python", "torch", "torchvision", "timm", "numpy"), "1.2.3")
    code = {"revision": "0" * 40, "dirty": False, "fingerprint": "0" * 16}
    full = {id(node): {**node, "image_size": None, "resources": {}} for node in protocols()}
    settings = [(copy.deepcopy(p), p) for p in protocols()]
    full = {id(p): {**p, "image_size": None, "resources": {}, "preprocessing": None}
            for _, p in settings}  # fmt: skip
    wider = [{**d, "groups": None, "metric": None, "value_range": None} for d in data_sets()]
    axes = list(itertools.product(range(ENCODERS), settings, enumerate(data_sets())))
    shared = {"model", "method", "dataset", "protocol", "trainer", "paths", "encoder", "data",
              "versions", "code"}  # fmt: skip
    for number in range(count):
        seed, place = divmod(number, len(axes))
        n, (_, protocol), (d, data_set) = axes[place]
        identity = {"model": nodes[n], "method": method, "precision": "fp32", "dataset": data_set,
                    "protocol": protocol, "seed": seed}  # fmt: skip
        config = {"model": nodes[n], "method": method, "dataset": wider[d],
                  "protocol": full[id(protocol)], "trainer": trainer, "paths": paths, "seed": seed,
                  "precision": "fp32", "debug": False, "force": False}  # fmt: skip
        scores = [
            {"metric": metric, "value": chance.random(), "split": split, "unit": "fraction",
             "higher_is_better": metric != "ece", "primary": metric == "top1"}
            for metric, split in (("top1", "test"), ("ece", "test"), ("top1", "val"))
        ]  # fmt: skip
        run_id = f"{number:016x}"
        parts = {
            "schema": 1, "run_id": run_id, "model": "resnet50", "method": "as_is",
            "protocol": protocol["name"], "dataset": data_set["name"], "seed": seed,
            "precision": "fp32", "identity": composed(identity, 2, shared), "status": "finished",
            "reason": None, "encoder": encoders[n], "scores": scores, "weights_sha256": hashes[n],
            "data": data[d], "duration_s": round(chance.random() * 900, 3), "device": "cuda",
            "processes": 1, "config": composed(config, 2, shared), "requires": [],
            "started": f"2026-01-{1 + number % 28:02}T00:00:00+00:00", "versions": versions,
            "code": code, "files": {"test_predictions.npz": f"{number:064x}"},
        }  # fmt: skip
        shown, canonical = composed(parts, 1, shared)
        checksum = hashlib.sha256(canonical.encode()).hexdigest()
        text = f'{shown[:-2]},\n "checksum": "{checksum}"\n}}'
        seal = hashlib.sha256(text.encode()).hexdigest()
        text = f'{text[:-2]},\n "seal": "{seal}"\n}}'
        yield f"{protocol['name']}/encoder_{n}_{data_set['name']}_{run_id}", text.encode()


def generate(outputs: Path, count: int) -> float:
    """Write records and return their mean size in bytes."""
    for name in PROTOCOLS:
        (outputs / name).mkdir(parents=True)
    size = 0
    for place, text in records(count):
        os.mkdir(f"{outputs}/{place}")  # noqa: PTH102 - Path costs more than the call
        with open(f"{outputs}/{place}/record.json", "wb") as file:  # noqa: PTH123
            size += file.write(text)
    return size / count


def measure(label: str, code: str, outputs: Path) -> None:
    """Print the time and memory of a piece of code in a fresh process."""
    command = [sys.executable, "-c", MEASURED.format(code=code), str(outputs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, cpu, own, helper, rows = map(float, done.stdout.rpartition("MEASURED")[2].split())
    print(f"{label:44}{seconds:8.2f}{cpu:8.2f}{own:8.0f}{helper:8.0f}{rows:10.0f}", flush=True)


def main() -> None:
    """Generate the records and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keep the records there, and use those there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        outputs = (arguments.folder or Path(temporary)) / "outputs"
        if not outputs.is_dir():
            began = time.perf_counter()
            size = generate(outputs, arguments.records)
            print(f"{arguments.records} records of {size:.0f} bytes written in "
                  f"{time.perf_counter() - began:.0f} s")  # fmt: skip
        cache = outputs / ".runs.cache"
        cache.unlink(missing_ok=True)
        print(
            f"{os.cpu_count()} cores{'':37}{'s':>8}{'CPU s':>8}{'MB':>8}{'MB 2nd':>8}{'rows':>10}"
        )
        measure("plain json and pandas", PLAIN, outputs)
        measure("results.load, cold", LOAD, outputs)
        measure("results.load, again", LOAD, outputs)
        cache.unlink(missing_ok=True)
        measure("results.read, cold", READ, outputs)
        measure("results.read, again", READ, outputs)
        measure("results.read and tables, again", TABLE, outputs)
        measure("results.read and --where, again", WHERE, outputs)


if __name__ == "__main__":
    main()
