"""The command ``ssl-transfer`` (in a clone: ``python run.py``).

It composes, checks and executes one run; with ``-m`` the launcher executes the product of the axes.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import launchers
from ssl_transfer import config as configuration
from ssl_transfer.config import places, roles

HELP = """\
Which pre-trained model is best for my task, and which cheap score tells me so?

usage: {command} [-m] [axis=option …] [key=value …]

{axes}

examples:
  {command}
  {command} -m method=simclr,barlow_twins dataset=digits protocol=linear_probe,bn_tune,finetune
  {command} dataset=image_folder dataset.root=photos/flowers model=timm model.arch=resnet50

`-m` runs every combination of comma-separated values and ends with tables. Add `--cfg job` to see
a composed configuration, `--hydra-help` for Hydra's own options. Groups besides the axes:

{groups}

Afterwards: python -m results table
            python -m results correlate --proxy linear_probe,bn_tune --target finetune
"""


def command() -> str:
    """Return the command that started this program, for examples."""
    if (name := Path(sys.argv[0]).name) == "run.py":
        return "python run.py"
    return "python -m launchers.main" if name == "main.py" else "ssl-transfer"


def help_text(own: Path | None = None) -> str:
    """Return the text of ``--help``: the axes and all other groups with their options.

    Args:
        own: a user's folder of configuration files (``--config-dir``), whose options are listed,
            too (``None``: no such folder).
    """

    def option_lists(groups: Sequence[str]) -> str:
        width = max(map(len, groups))
        return "\n".join(f"  {g:<{width}} {', '.join(names(g))}" for g in groups)

    def names(group: str) -> list[str]:
        added = [] if own is None else configuration.options(group, own)
        return sorted({*configuration.options(group), *added})

    axes = configuration.AXES
    others = [group for group in configuration.groups() if group not in axes]
    return HELP.format(command=command(), axes=option_lists(axes), groups=option_lists(others))


@hydra.main(version_base="1.3", config_path=str(configuration.CONF), config_name="config")
def run(config: DictConfig) -> None:
    """Execute one run and the runs that it requires."""
    from hydra.core.hydra_config import HydraConfig

    from launchers import sweep
    from launchers.base import warn_of_unused_datasets
    from ssl_transfer.config.hydra_errors import sentence
    from ssl_transfer.runs import Run
    from ssl_transfer.system.files import let_group_write

    let_group_write(config.paths)
    try:
        sweep.refuse_paths(configuration.resolve({"paths": OmegaConf.to_container(config.paths)}))
        single_run = Run(configuration.plain(config))
    except HydraException as error:  # from an encoder reference
        raise sweep.SweepRefused([sentence(error)]) from error
    warn_of_unused_datasets([single_run], [HydraConfig.get().overrides.task])
    if config.dry_run:
        from launchers import dry_run

        dry_run.show([single_run], single_run.folder.parent.parent)
        return
    outcome = sweep.execute_all([single_run])
    sweep.conclude(outcome)


def _config_dir(arguments: Sequence[str]) -> Path | None:
    """Return the folder that ``--config-dir`` names; None without it."""
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            following = arguments[place + 1 : place + 2]
            return Path(value if equals else following[0]) if equals or following else None
    return None


def _refuse_deleted_folder() -> None:
    """Refuse to work in a deleted folder, where relative paths are invalid.

    Raises:
        SweepRefused: if the current folder no longer exists.
    """
    from launchers.sweep import SweepRefused

    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd gives the same error
    except OSError as error:
        reason = "the current folder must exist, but it was deleted or replaced; `cd` into another."
        raise SweepRefused([reason]) from error


def with_recipe(argument: str) -> str:
    """Return an argument with `none` for a null recipe, as Hydra accepts no null for a group."""
    if not argument.startswith("recipe="):
        return argument
    return re.sub(r"(?<=[=,])null(?=,|$)", "none", argument)


def main() -> None:
    """Start Hydra with this project's launchers."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(_config_dir(sys.argv[1:])))
        return
    from launchers.sweep import SweepRefused
    from ssl_transfer.config.hydra_errors import sentence

    _refuse_deleted_folder()
    launchers.register()
    arguments = [
        places.quoted(with_recipe(argument)) for argument in launchers.flags_first(sys.argv[1:])
    ]
    several = bool({"-m", "--multirun"} & set(arguments))
    sys.argv[1:] = launchers.defer_axis_keys(arguments) if several else roles.gathered(arguments)
    if "HYDRA_FULL_ERROR" in os.environ:
        run()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        run()
    except HydraException as error:
        raise SweepRefused([sentence(error)]) from error
    except OmegaConfBaseException as error:  # e.g. a path with an unset variable
        reason = str(error).splitlines()[0]
        raise SweepRefused([f"every interpolation must resolve, but {reason}."]) from error
    except ValueError as error:
        if str(error).startswith("Exceeds the limit"):
            message = "every number must have fewer than 4300 digits, but one has more."
            raise SweepRefused([message]) from None
        if not str(error).startswith("Config group override"):
            raise
        kind = str(error).rpartition(" ")[2]
        message = f"every axis must be the name of an option, but one is a value of type {kind}"
        raise SweepRefused([f"{message}; `{command()} --help` lists the names."]) from error
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None  # 128 + SIGINT, as shells report it


if __name__ == "__main__":
    main()
