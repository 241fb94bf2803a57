"""The runs of a sweep, as its ``sweep.json`` lists them."""

import json
from pathlib import Path
from typing import Any

from results.errors import ResultsError, unknown


def find_sweep(outputs: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Return a sweep's folder and the content of its ``sweep.json``.

    Raises:
        ResultsError: if there is no such sweep; the message lists the newest five.
    """
    known = sorted(path.parent.name for path in outputs.glob("sweeps/*/sweep.json"))
    if name == "latest" and known:
        name = known[-1]
    for folder in (outputs / "sweeps" / name, Path(name), Path(name).parent):
        if (folder / "sweep.json").is_file():
            return folder, _load_sweep(folder / "sweep.json")
    raise unknown("`--sweep`", name, ["latest", *reversed(known[-5:])] if known else [])


def _load_sweep(path: Path) -> dict[str, Any]:
    try:
        sweep = dict(json.loads(path.read_bytes()))
        lists, reasons = (sweep["runs"], sweep["folders"]), sweep.get("failures") or {}
        if len(lists[0]) != len(lists[1]):
            raise ValueError("the numbers of folders and runs differ")
        if not all(isinstance(item, str) for item in (*lists[0], *lists[1], *reasons.values())):
            raise ValueError("a run, folder or reason is not text")
        for place in sweep["folders"]:
            # A file must not make this process read outside of the outputs.
            if Path(place).is_absolute() or ".." in Path(place).parts:
                raise ValueError("it names a folder outside of the outputs")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise ResultsError(
            f"`{path}` must list runs and folders, but is damaged ({error})."
        ) from error
    return sweep
