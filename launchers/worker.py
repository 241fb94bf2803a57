"""The process of a slot: reads frozen configurations as JSON lines and answers with the results."""

import json
import logging
import os
import sys
from typing import Any

from ssl_transfer.runs import Run
from ssl_transfer.system import signals
from ssl_transfer.system.files import let_group_write
from ssl_transfer.system.plain_text import Formatter


def main() -> None:
    """Execute runs until the input ends.

    Raises:
        Interrupted: after SIGTERM or SIGUSR2, when the run has saved its state.
    """
    # The output of runs goes to the log; the pipe carries only answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Formatter("%(message)s"))
    with signals.stoppable():
        for line in sys.stdin:
            answer = _serve(Run(json.loads(line)))
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _serve(run: Run) -> dict[str, Any]:
    from launchers import sweep
    from launchers.run_in_job import run_one

    let_group_write(run.config["paths"])
    sweep.say(run.describe())
    failure = run_one(run, packed=True)
    scores = None if failure else sweep.describe_scores(run.record())
    return {"failure": failure, "said": scores}


if __name__ == "__main__":
    main()
