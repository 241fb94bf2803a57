import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder


@pytest.fixture
def write(outputs: Path) -> Write:
    """Write one record (or failure, if ``error`` is given) and return its folder."""
    count = 0

    def write_one(
        encoder: str = "a" * 16,
        *,
        model: str = "small_resnet",
        method: str = "simclr",
        protocol: str = "linear_probe",
        dataset: str | None = "digits",
        seed: int = 0,
        value: float = 0.5,
        unit: str = "fraction",
        higher_is_better: bool = True,
        error: str | None = None,
        config: dict[str, Any] | None = None,
        parameters: int | None = None,
        feature_dim: int | None = None,
        encoder_label: str | None = None,
        **changes: Any,
    ) -> Path:
        nonlocal count
        count += 1
        run_id = f"{count:08x}{0:08x}"
        document: dict[str, Any] = {
            "schema": 1,
            "run_id": run_id,
            "model": model,
            "method": method,
            "dataset": dataset,
            "protocol": protocol,
            "seed": seed,
            "encoder": {
                "id": encoder,
                "label": encoder_label or f"{model}-{method}",
                "parameters": parameters,
                "feature_dim": feature_dim,
            },
        }
        score = {
            "metric": "top1",
            "split": "test",
            "value": value,
            "unit": unit,
            "higher_is_better": higher_is_better,
            "primary": True,
        }
        if error is not None:
            document["error"] = error
        else:
            base = {
                "model": {"name": model},
                "method": {"name": method},
                "protocol": {"name": protocol, "epochs": 10},
                "dataset": {"name": dataset},
                "precision": "fp32",
            }
            for axis, keys in (config or {}).items():
                base[axis] = {**base[axis], **keys}  # type: ignore[dict-item]
            document |= {
                "status": "finished",
                "reason": None,
                "scores": [score],
                "config": base,
                "requires": ["x"],
            }
        document |= changes
        folder = outputs / protocol / f"{model}-{method}_{dataset}_{run_id[:8]}"
        folder.mkdir(parents=True)
        name = "failure.json" if error is not None else "record.json"
        (folder / name).write_text(json.dumps(document))
        return folder

    return write_one


@pytest.fixture
def zoo(write: Write) -> Write:
    """Write a zoo of encoders that three protocols judge on two datasets."""

    def write_zoo(encoders: int = 7) -> Path:
        folder = Path()
        for number in range(encoders):
            for dataset in ("digits", "textures"):
                for protocol, wobble in (("linear_probe", 2), ("bn_tune", 1), ("finetune", 0)):
                    shift = 0.03 * ((number * 3 + wobble * 2) % 4) * wobble
                    folder = write(
                        f"{number}" * 16,
                        protocol=protocol,
                        dataset=dataset,
                        value=min(1.0, 0.4 + 0.05 * number + shift),
                        config={"method": {"epochs": number}},
                    )
        return folder

    return write_zoo
