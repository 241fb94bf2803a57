"""Shows the states, failures and logs of sweeps; retries, cancels or cleans up their runs.

python -m launchers status [--watch]
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from launchers import status
from launchers.status import RunStatus
from launchers.sweep import SweepRefused, count
from launchers.sweep_folder import SweepFolder
from ssl_transfer.config.trust import FLAG
from ssl_transfer.system.files import let_group_write
from ssl_transfer.system.plain_text import printable

DESCRIPTION = """\
examples:
  python -m launchers status                 the latest sweep's runs
  python -m launchers status --watch         … until no run waits or runs
  python -m launchers logs 3f2a              the log of a run (the beginning of its id or folder)
  python -m launchers logs --failed          the reasons and logs of failed and lost runs
  python -m launchers retry                  send failed and lost runs again, configured as before
  python -m launchers cancel                 cancel waiting and running jobs
  python -m launchers clean                  what no run needs any more; --yes removes it
"""


def _folder(text: str) -> Path:
    return Path(text).expanduser()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launchers", description=__doc__.splitlines()[0] if __doc__ else "",
        epilog=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True)
    texts = {
        "status": "the state of each run",
        "retry": "send failed and lost runs again",
        "cancel": "cancel waiting and running jobs",
        "logs": "the output of runs, and why they failed",
    }
    for verb, text in texts.items():
        sub = verbs.add_parser(verb, help=text, description=text)
        sub.add_argument("--sweep", default="latest", help="folder or name (default: the latest)")
        default = os.environ.get("SSL_TRANSFER_OUTPUTS", "outputs")
        sub.add_argument(
            "--outputs", type=_folder, default=_folder(default), help="folder of all runs"
        )
        if verb == "status":
            sub.add_argument(
                "--watch", action="store_true", help="repeat until no run waits or runs"
            )
            sub.add_argument("--all", action="store_true", help="show all runs, not only 40")
            sub.add_argument("--every", type=float, default=10.0, help="seconds between updates")
        else:
            sub.add_argument("runs", nargs="*", help="beginnings of run ids, or parts of folders")
        if verb == "retry":
            sub.add_argument(
                FLAG, action="store_true", help="trust all that another user's sweep names"
            )
        if verb == "logs":
            sub.add_argument("--failed", action="store_true", help="all failed and lost runs")
            sub.add_argument("--lines", type=int, default=40, help="last lines to show of each log")
            sub.add_argument(
                "--follow", "-f", action="store_true", help="print new lines as they are written"
            )
    text = "what no run needs any more, with sizes; --yes removes it"
    cleaning = verbs.add_parser("clean", help=text, description=text)
    default = os.environ.get("SSL_TRANSFER_OUTPUTS", "outputs")
    cleaning.add_argument(
        "place", nargs="?", type=_folder, metavar="OUTPUTS", help="folder of all runs"
    )
    cleaning.add_argument(
        "--outputs", type=_folder, default=_folder(default), help="the same, as for other verbs"
    )
    cleaning.add_argument("--yes", action="store_true", help="remove it")
    return parser


def show(*lines: str, file: TextIO | None = None) -> None:
    """Print lines with control characters escaped, because some lines come from files."""
    print(*map(printable, lines), sep="\n", file=file or sys.stdout)


def _chosen(runs: Sequence[RunStatus], names: Sequence[str]) -> list[RunStatus]:
    """Return the runs that the names select; all runs if there are no names.

    Raises:
        SweepRefused: for a name that matches no run.
    """
    for name in names:
        if not any(run.id.startswith(name) or name in run.place for run in runs):
            raise SweepRefused(
                [f"`{name}` must begin a run's id or be part of its folder, but fits none of the "
                 f"sweep's {len(runs)} runs; `python -m launchers status` lists them."]
            )  # fmt: skip
    return [
        run
        for run in runs
        if not names or any(run.id.startswith(name) or name in run.place for name in names)
    ]


def _status(sweep_folder: SweepFolder, options: argparse.Namespace) -> int:
    if options.watch:
        status.watch(sweep_folder, every_seconds=options.every)
    runs = status.survey(sweep_folder)
    if not any(run.state in status.UNFINISHED for run in runs):
        sweep_folder.tidy()
    show(f"{sweep_folder.folder}: {sweep_folder.about['command']}")
    show(*status.table(runs, rows=None if options.all else 40))
    return 0


def _logs(sweep_folder: SweepFolder, options: argparse.Namespace) -> int:
    runs = _chosen(status.survey(sweep_folder), options.runs)
    if options.failed or not options.runs:
        states = ("failed", "lost") if options.failed else ("failed", "lost", "running")
        runs = [run for run in runs if run.state in states]
    if options.follow and len(runs) == 1 and runs[0].log:
        os.execvp("tail", ["tail", "-n", str(options.lines), "-F", runs[0].log])
    for run in runs:
        show(f"== {run.state}: {run.place}  {run.owner}\n   {run.detail}")
        failure = status.read_failure(sweep_folder.outputs / run.place)
        if failure and failure.get("traceback"):
            show(failure["traceback"].rstrip())
        log = run.log or status.find_log(sweep_folder, run)
        if log:
            show(f"-- {log}", *status.last_lines(log, options.lines))
    if not runs:
        show(f"nothing to show; logs are in {sweep_folder.jobs}")
    return 0


def _cancel(sweep_folder: SweepFolder, options: argparse.Namespace) -> int:
    from ssl_transfer.system import slurm

    runs = status.survey(sweep_folder)
    unfinished = [run for run in runs if run.state in status.UNFINISHED]
    runs = [run for run in _chosen(runs, options.runs) if run in unfinished]
    jobs = sorted({run.owner.split()[1] for run in runs if run.owner.startswith("job ")})
    chosen = {run.id for run in runs}
    for run in unfinished:
        if run.id not in chosen and run.owner.split()[1:2] and run.owner.split()[1] in jobs:
            show(f"  {run.place} shares {run.owner} and ends with it")
    complaint = slurm.cancel(jobs)
    if complaint:
        show(f"error: {complaint}", file=sys.stderr)
    show(f"{count(len(jobs), 'job')} cancelled; saved progress stays, and `retry` resumes it")
    for run in runs:
        if not run.owner.startswith("job "):
            show(f"  {run.place} belongs to {run.owner}: stop it there, with Ctrl-C or `kill`")
    return 1 if complaint else 0


def _retry(sweep_folder: SweepFolder, options: argparse.Namespace) -> int:
    from launchers import foreign, local, slurm, sweep

    selected = _chosen(status.survey(sweep_folder), options.runs)
    ids = {run.id for run in selected if run.state in ("failed", "lost", "new")}
    runs = sweep_folder.runs()
    for run in runs:  # before any property is derived from the configuration
        run.config.update(retry=True, force=False)
    runs = [run for run in runs if run.id in ids]
    if not runs:
        show(f"nothing to send again: {status.counts(selected)}")
        return 0
    trusted = options.trust_targets or sweep_folder.is_own
    if not trusted and (problems := foreign.problems(sweep_folder, runs)):
        raise SweepRefused(problems)
    let_group_write(runs[0].config["paths"])
    launcher = dict(sweep_folder.about["launcher"])
    name = launcher.pop("name")
    if name == "slurm":
        outcome = slurm.send(runs, sweep_folder.outputs, {**launcher, "dry_run": False})
    elif name == "local":
        outcome = local.send(runs, sweep_folder.outputs, launcher)
    else:
        outcome = sweep.execute_all(runs)
    for identifier, reason in outcome.failures.items():
        show(f"error ({identifier[:8]}): {reason}", file=sys.stderr)
    return outcome.exit_code


def main() -> int:
    """Run the command and return the exit code."""
    options = _parser().parse_args()
    verbs = {"status": _status, "logs": _logs, "cancel": _cancel, "retry": _retry}
    try:
        if options.verb == "clean":
            from launchers import clean  # loads torch

            return clean.clean(options.place or options.outputs, remove=options.yes)
        sweep_folder = SweepFolder.find(options.outputs, options.sweep)
        return verbs[options.verb](sweep_folder, options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        show(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
