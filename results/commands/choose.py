"""``choose``: what choosing an encoder by a cheap score costs, and what to fine-tune next."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from results.commands.options import names, reading, results_of, writing
from results.errors import ResultsError
from results.plain_text import one_line, printable
from results.records.reading import Results
from results.tables import rendering
from results.tables.printing import save, show

if TYPE_CHECKING:
    from results.agreement.scores import Scores
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(commands, "choose", _choose, "what choosing an encoder by a cheap score costs")
    spec = "PROTOCOL[:METRIC][@KEY=VALUE]"
    parser.add_argument("--proxy", type=names, required=True, metavar=f"{spec},…")
    parser.add_argument("--target", default="finetune", metavar=spec, help="default: finetune")
    parser.add_argument(
        "--far",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="ranks between proxy and target of a miss, as a share of the encoders (default: 0.5)",
    )
    parser.add_argument(
        "--next",
        type=int,
        metavar="K",
        help="print the commands that run the target for each proxy's best K encoders only",
    )
    writing(parser)


def _choose(options: argparse.Namespace) -> int:
    if not 0 < options.far <= 1:
        raise ResultsError(f"`--far` must be a share in (0, 1], but is {options.far:g}.")
    results = results_of(options)
    if options.next is not None:
        return _next(results, options)
    from results.agreement.choice_tables import cost_table, sentences, to_csv_long, to_tables
    from results.agreement.choosing import choices_by_scores
    from results.agreement.cost import costs

    target, proxies, references = _scores(results, options.proxy, options.target)
    found = choices_by_scores(target, [*proxies, *references], far=options.far)
    known = [one.name for one in (*proxies, *references) if one.name != references[0].name]
    spent = costs(results, [*known, target.name])
    tables, numbers = to_tables(found, options.far), to_csv_long(found, spent)
    price = cost_table(spent, found, target.name)
    tables += [] if price is None else [price]
    show(tables, numbers, options.format)
    if options.format == "terminal":
        lines = sentences(target, proxies, references, found)
        print("\n" + rendering.notes([printable(line) for line in lines]) if lines else "", end="")
        print()
    if options.save:
        paths = save(options.save, "choices", tables, numbers, options.format)
        print(f"saved: {paths}", file=sys.stderr)
    return 0


def _scores(
    results: Results, names: Sequence[str], target: str
) -> "tuple[Scores, list[Scores], list[Scores]]":
    """Return the scores of the target, of the proxies, and of what they are compared with.

    Raises:
        ResultsError: if a proxy is unknown, or is the target.
    """
    from results.agreement.baselines import STATIC_RANK, known_baselines, proxy_scores
    from results.agreement.choosing import random_choice
    from results.agreement.scores import scores
    from results.agreement.specs import target_spec

    aim = scores(results, target_spec(target, names))
    unique = list(dict.fromkeys(names))
    proxies = [proxy_scores(results, name, aim) for name in unique]
    known = [name for name in known_baselines(results, aim) if name in (STATIC_RANK, "parameters")]
    references = [proxy_scores(results, name, aim) for name in known if name not in unique]
    return aim, proxies, [random_choice(aim), *references]


def _next(results: Results, options: argparse.Namespace) -> int:
    """Print what to run next, as lines that a shell understands."""
    from results.agreement.next_runs import next_runs

    if options.next < 1:
        raise ResultsError(f"`--next` must be at least 1, but is {options.next}.")
    for number, step in enumerate(next_runs(results, options.proxy, options.target, options.next)):
        if number:
            print()
        for line in step.lines():
            print(one_line(line))
    return 0
