"""Export a classifier to one file that needs neither this package nor its class definitions.

    python -m ssl_transfer.export RUN_FOLDER --to model.pt2|model.onnx [--model OPTION]

The exported network takes float images ``[batch, 3, size, size]``, red, green and blue in
``[0, 1]``, already resized and cropped; normalisation is part of it. It returns class scores. The
file also holds a JSON text ``ssl_transfer`` with the class names and the preprocessing. The
exported file is read again and compared with the original before it is put in place.
"""

import argparse
import dataclasses
import importlib.util
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ssl_transfer import randomness
from ssl_transfer.classifier import Classifier, load_classifier
from ssl_transfer.config.trust import FLAG
from ssl_transfer.runs.finished import only_run
from ssl_transfer.system.plain_text import printable

DESCRIPTION = "ssl_transfer"
"""Key of the description in the exported file."""
TOLERANCE = 1e-5
"""Largest difference to the original that is accepted, relative to the largest class score."""

Scoring = Callable[[Float[Tensor, "batch 3 size size"]], Float[Tensor, "batch classes"]]


def export(classifier: Classifier, target: Path) -> float:
    """Write a classifier to a file and return its largest difference to the original.

    Args:
        classifier: the classifier.
        target: a path that ends in ``.pt2`` (read by ``torch.export.load``) or ``.onnx``.

    Returns:
        Largest absolute difference of class scores, divided by the largest absolute class score
        (at least 1), on random images in batches of different sizes.

    Raises:
        ValueError: if the ending is unknown, a package is missing, the network cannot be exported,
            or the exported network differs from the original by more than ``TOLERANCE``.
        OSError: if the file cannot be written.
    """
    if target.suffix not in FORMATS:
        raise ValueError(f"`--to` must end in one of {sorted(FORMATS)}, but is `{target}`.")
    write, read = FORMATS[target.suffix]
    original = classifier.cpu()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        path = Path(folder, target.name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                write(original, path)
        except (RuntimeError, TypeError, torch.onnx.OnnxExporterError) as error:
            raise ValueError(
                f"the network must be exportable to {target.suffix}, but is not "
                f"({str(error).strip().splitlines()[0]}); try another of {sorted(FORMATS)}."
            ) from error
        difference = _difference(original, read(path))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the exported network must give the class scores of the original to {TOLERANCE}, "
                f"but differs by {difference:.2g}; no file was written. Try another of "
                f"{sorted(FORMATS)}."
            )
        path.replace(target)
    return difference


def describe(classifier: Classifier) -> str:
    """Return the JSON text that the exported file holds."""
    facts = {
        "input": "float32 [batch, 3, size, size], RGB in [0, 1]; normalisation is included",
        "output": f"{'softmax' if classifier.target == 'class' else 'sigmoid'} gives probabilities",
        "classes": list(classifier.classes),
        "preprocessing": dataclasses.asdict(classifier.preprocessing),
    }
    return json.dumps(facts)


def _example(classifier: Classifier, images: int) -> Float[Tensor, "images 3 size size"]:
    size = classifier.preprocessing.size
    with randomness.seeded(images):
        return torch.rand(images, 3, size, size)


@torch.no_grad()
def _difference(original: Classifier, exported: Scoring) -> float:
    """Return the relative difference of two networks on batches of one and of three images."""
    differences = []
    for count in (1, 3):
        images = _example(original, count)
        expected, actual = original(images), exported(images)
        same = (expected == actual) | (expected.isnan() & actual.isnan())  # infinite scores, too
        gap = torch.where(same, 0.0, (expected - actual).abs()).max()
        scale = expected[expected.isfinite()].abs().max().clamp(min=1)
        differences.append(float((gap / scale).nan_to_num(torch.inf)))
    return max(differences)


def _program(classifier: Classifier) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        return torch.export.export(
            classifier, (_example(classifier, 2),), dynamic_shapes={"images": {0: batch}}
        )


def _write_pt2(classifier: Classifier, path: Path) -> None:
    extra = {DESCRIPTION: describe(classifier)}
    torch.export.save(_program(classifier), path, extra_files=extra)


def _read_pt2(path: Path) -> Scoring:
    with warnings.catch_warnings():
        # torch 2.11 warns about the buffer that it reads the file into itself.
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        network: Scoring = torch.export.load(path).module()
    return network


def _write_onnx(classifier: Classifier, path: Path) -> None:
    missing = [
        name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)
    ]
    if missing:
        raise ValueError(
            f"an export to .onnx needs the packages onnx, onnxscript and onnxruntime, but "
            f"{', '.join(missing)} cannot be imported; run: pip install 'ssl_transfer[export]'"
        )
    import onnx

    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    program = torch.onnx.export(
        _program(classifier),
        input_names=["images"],
        output_names=["scores"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {DESCRIPTION: describe(classifier)})
    onnx.save(model, path)


def _read_onnx(path: Path) -> Scoring:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def scores(images: Tensor) -> Tensor:
        (values,) = session.run(["scores"], {"images": images.numpy()})
        return torch.from_numpy(values)

    return scores


FORMATS: dict[str, tuple[Callable[[Classifier, Path], None], Callable[[Path], Scoring]]] = {
    ".pt2": (_write_pt2, _read_pt2),
    ".onnx": (_write_onnx, _read_onnx),
}
"""Ending -> the functions that write and read such a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the classifier of a run or of a published file, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ssl_transfer.export",
        description="Write the classifier of a finished run to one file, and check that file.",
    )
    parser.add_argument("run", type=Path, nargs="+",
                        help="folder of a run, or a file of published weights")  # fmt: skip
    parser.add_argument("--to", type=Path, required=True, metavar="MODEL.pt2|MODEL.onnx")
    parser.add_argument("--model", help="for published weights: their option of conf/model")
    parser.add_argument(FLAG, action="store_true",
                        help="call any code that the run's record names")  # fmt: skip
    args = parser.parse_args(arguments)
    try:
        if args.to.suffix not in FORMATS:  # before the weights are read
            raise ValueError(f"`--to` must end in one of {sorted(FORMATS)}, but is `{args.to}`.")
        run = only_run(args.run)
        classifier = load_classifier(run, args.model, trust_targets=args.trust_targets)
        difference = export(classifier, args.to)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        return 2
    size = classifier.preprocessing.size
    sys.stdout.write(
        f"wrote {args.to}: images [batch, 3, {size}, {size}] to scores of "
        f"{len(classifier.classes)} classes; differs from the original by {difference:.1g}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
