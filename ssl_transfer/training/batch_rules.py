"""Rules for the batch size and the number of BatchNorm groups."""


def share_problem(batch_size: int, processes: int, accumulate: int, *, owner: str = "") -> str:
    """Return the reason why processes and micro-batches cannot share a batch equally, else "".

    Args:
        batch_size: images per step over all processes.
        processes: number of processes.
        accumulate: micro-batches per step.
        owner: node of the configuration that holds the key, with a dot, e.g. ``protocol.``.

    Example:
        >>> share_problem(6, 2, 2)[:28]
        '`batch_size` must be a multi'
        >>> share_problem(8, 2, 2)
        ''
    """
    if batch_size % (processes * accumulate) == 0:
        return ""
    return (
        f"`{owner}batch_size` must be a multiple of processes × trainer.accumulate ({processes} × "
        f"{accumulate}), but is {batch_size}."
    )


def group_problem(
    groups: int, processes: int, *, batch_size: int | None = None, owner: str = ""
) -> str:
    """Return the reason why a batch cannot be divided into groups of batch statistics, else "".

    Args:
        groups: number of groups of the global batch.
        processes: number of processes; a group lies in one process, or spans whole processes.
        batch_size: images per step over all processes (``None``: not checked).
        owner: see ``share_problem``.

    Example:
        >>> group_problem(3, 2)[:43]
        '`bn_groups` must divide the number of proce'
        >>> group_problem(4, 2, batch_size=8)
        ''
    """
    if batch_size is not None and batch_size % max(groups, 1):
        return f"`{owner}bn_groups` must divide the batch ({batch_size}), but is {groups}."
    if groups < 1 or (groups % processes and processes % groups):
        return (
            f"`{owner}bn_groups` must divide the number of processes or be a multiple of it, but "
            f"`{owner}bn_groups` is {groups} and there are {processes} processes; change either."
        )
    return ""


def micro_batch_problem(groups: int, processes: int, accumulate: int) -> str:
    """Return the reason why a group of batch statistics would span micro-batches, else "".

    A micro-batch is a part of every process's share, so each group must lie in one process.

    Args:
        groups: number of groups of the global batch.
        processes: number of processes.
        accumulate: micro-batches per step.

    Example:
        >>> micro_batch_problem(4, 2, 2)
        ''
    """
    if accumulate == 1 or groups % (processes * accumulate) == 0:
        return ""
    return (
        "`bn_groups` must be a multiple of processes × `trainer.accumulate` "
        f"({processes} × {accumulate}), since batch statistics cannot span micro-batches, "
        f"but is {groups}; change either."
    )
