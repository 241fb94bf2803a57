"""Runs that take a fraction of a second, for tests of what surrounds the work."""

from pathlib import Path
from typing import Any

from launchers import sweep
from ssl_transfer.config import compose, plain
from ssl_transfer.runs import Run
from ssl_transfer.system.files import write_json

DATA = ["dataset.labels_per_class=4", "dataset.test_per_class=2"]
MODEL = ["model.width=4", "model.preprocessing.size=16"]
TUNING = ["protocol.epochs=1", "protocol.batch_size=20", "protocol.grid.lr=[0.1]"]
METHOD = ["method=supervised", "method.epochs=1", "method.warmup_epochs=0"]
METHOD += ["dataset@method.pretrain_on=digits", "method.pretrain_on.labels_per_class=4"]
METHOD += ["method.pretrain_on.test_per_class=2", "method.batch_size=16"]


def tiny(outputs: Path, *overrides: str, tuned: bool = True, data: bool = True) -> Run:
    """Return a run of a few images and steps that leaves everything below ``outputs``."""
    shared = [f"paths.outputs={outputs}", "trainer.progress_bar=false", "trainer.device=cpu"]
    fixed = [*shared, *MODEL, *(DATA if data else []), *(TUNING if tuned else [])]
    axes = [o for o in overrides if "=" in o and "." not in o.partition("=")[0]]
    keys = [o for o in overrides if o not in axes]
    return Run(plain(compose([*axes, *fixed, *keys])))


def run_all(*asked: Run) -> sweep.Outcome:
    """Execute runs as every launcher does."""
    return sweep.execute_all(asked)


def pretend_finished(run: Run, **facts: Any) -> None:
    """Leave what says that a run is finished, without computing anything."""
    run.folder.mkdir(parents=True, exist_ok=True)
    if run.is_pretraining:
        (run.folder / "encoder.safetensors").touch()
    record = {**run.identify(), "status": "finished", "reason": None, "scores": [],
              "encoder": {"id": None, "label": run.label}, "duration_s": 0.0}  # fmt: skip
    write_json(run.folder / "record.json", {**record, **facts})
