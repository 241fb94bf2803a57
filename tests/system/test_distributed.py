"""Start-up, collectives and their gradients."""

import os
import sys
import time
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ssl_transfer.system import distributed

SLURM_TASK = {
    "SUBMITIT_EXECUTOR": "slurm",
    "SLURM_JOB_ID": "71",
    "SLURM_NTASKS": "4",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NODEID": "1",
    "SLURM_JOB_NODELIST": "node[07-08]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the variables of a launcher, all others of that kind unset."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SUBMITIT_")) or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)

    def put(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def test_without_a_launcher_there_is_one_process(environment: Any) -> None:
    assert distributed.find_place() == distributed.Place(0, 1, 0, None)
    assert distributed.start("cpu") == torch.device("cpu")
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.is_main()
    assert not torch.distributed.is_initialized()


def test_torchrun_tells_the_place(environment: Any) -> None:
    environment({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"})
    environment({"MASTER_ADDR": "node07", "MASTER_PORT": "29400"})
    assert distributed.find_place() == distributed.Place(3, 4, 1, None)


def test_incomplete_torchrun_variables_are_named() -> None:
    with pytest.raises(ValueError, match="RANK, LOCAL_RANK, MASTER_PORT is missing"):
        distributed.find_place({"WORLD_SIZE": "2", "MASTER_ADDR": "localhost"})


def test_a_submitit_task_is_a_rank_and_meets_the_others_on_the_first_host(
    environment: Any,
) -> None:
    environment({**SLURM_TASK, "SLURM_STEP_NUM_TASKS": "4"})
    place = distributed.find_place()
    assert (place.rank, place.world_size, place.local_rank) == (3, 4, 1)
    assert place.address is not None
    address, port = place.address.rsplit(":", 1)
    assert address == "tcp://node07"
    assert 20000 <= int(port) < 32000
    environment({"SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_LOCALID": "0"})
    assert distributed.find_place().address == place.address


def test_a_computer_that_nobody_knows_is_refused_instead_of_waited_for(environment: Any) -> None:
    environment({**SLURM_TASK, "SLURM_STEP_NUM_TASKS": "4", "MASTER_ADDR": "nowhere.invalid"})
    with pytest.raises(ValueError, match=r"`nowhere\.invalid` is not .*; set MASTER_ADDR"):
        distributed.start("cpu")


def test_a_batch_script_or_salloc_shell_is_not_a_rank(environment: Any) -> None:
    environment(SLURM_TASK)
    assert distributed.find_place().world_size == 1
    environment({"SUBMITIT_EXECUTOR": ""})
    assert distributed.find_place().world_size == 1


def test_a_packed_task_keeps_to_itself(environment: Any) -> None:
    environment({**SLURM_TASK, "SLURM_STEP_NUM_TASKS": "4", "WORLD_SIZE": "1"})
    assert distributed.find_place().world_size == 1


def test_an_unknown_device_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"must be `auto`, `cpu` or `cuda`, but is 'gpu'"):
        distributed.start("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="0 CUDA devices are visible"):
        distributed.start("cuda")


def test_one_process_changes_nothing() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather(x) is x
    assert distributed.gather_views([x])[0] is x
    assert distributed.all_reduce_sum(x) is x
    assert distributed.gather_objects("a") == ["a"]
    assert distributed.broadcast_object("a") == "a"
    assert distributed.any_true(True)
    assert not distributed.any_true(False)
    distributed.barrier()


def _talk() -> dict[str, Any]:
    rank = distributed.rank()
    distributed.barrier()
    return {
        "place": (rank, distributed.world_size(), distributed.is_main()),
        "objects": distributed.gather_objects({"rank": rank}),
        "first": distributed.broadcast_object(f"said by {rank}"),
        "any": [distributed.any_true(rank == 1), distributed.any_true(False)],
        "rows": distributed.gather(torch.tensor([[10 * rank], [10 * rank + 1]])).tolist(),
        "sum": distributed.all_reduce_sum(torch.tensor([1.0, rank])).tolist(),
    }


def test_two_processes_exchange_objects_and_rows_in_order_of_rank(gloo_pool: Any) -> None:
    answers = gloo_pool.run(_talk)
    assert [answer.pop("place") for answer in answers] == [(0, 2, True), (1, 2, False)]
    assert answers[0] == answers[1]
    assert answers[0] == {
        "objects": [{"rank": 0}, {"rank": 1}],
        "first": "said by 0",
        "any": [True, False],
        "rows": [[0], [1], [10], [11]],
        "sum": [2.0, 1.0],
    }


def _model() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 2).double()
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def _inputs() -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _gradients(kind: str) -> list[torch.Tensor]:
    """Gradients of a loss that is not a mean over samples, under DDP if there are processes."""
    model = _model()
    parallel = DistributedDataParallel(model) if distributed.world_size() > 1 else model
    z = parallel(_inputs().chunk(distributed.world_size())[distributed.rank()])
    if kind == "gather":
        everything = distributed.gather(z)
        loss = (everything @ everything.T).sin().sum() + everything.prod(dim=1).square().sum()
    else:
        loss = distributed.all_reduce_sum(z.sin().sum(dim=0)).prod().square()
    loss.backward()  # type: ignore[no-untyped-call]
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", ["gather", "all_reduce_sum"])
@pytest.mark.parametrize("processes", [2, 4])
def test_gradients_through_collectives_are_those_of_one_process(
    gloo_pool: Any, kind: str, processes: int
) -> None:
    expected = _gradients(kind)
    for found in gloo_pool.run(_gradients, kind, processes=processes):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def _sum_in_pairs() -> list[float]:
    group = distributed.subgroup(2)
    x = torch.tensor([float(distributed.rank())], requires_grad=True)
    total = distributed.all_reduce_sum(x, group)
    (total * (1 + distributed.rank())).backward()
    assert x.grad is not None
    return [total.item(), x.grad.item(), *distributed.gather(x.detach(), group).tolist()]


def test_a_subgroup_is_a_run_of_consecutive_ranks(gloo_pool: Any) -> None:
    answers = gloo_pool.run(_sum_in_pairs, processes=4)
    assert answers == [[1, 3, 0, 1], [1, 3, 0, 1], [5, 7, 2, 3], [5, 7, 2, 3]]


def _leave_or_wait() -> str | float:
    distributed.barrier()
    if distributed.rank() == 1:
        distributed.stop()
        return "left"
    started = time.monotonic()
    with pytest.raises(RuntimeError):
        distributed.barrier()
    return time.monotonic() - started


def test_a_process_that_gives_up_is_noticed_by_the_one_that_waits(gloo_pool: Any) -> None:
    waited, gave_up = gloo_pool.run(_leave_or_wait, processes=2, timeout=30.0)
    assert gave_up == "left"
    assert waited < 20.0  # not the two minutes after which the group gives up
    gloo_pool.restart(processes=2)


def _meet() -> Any:
    place = distributed.find_place()
    distributed.start("cpu", timeout_minutes=1.0)
    try:
        return place.rank, distributed.gather_objects(distributed.rank())
    finally:
        distributed.stop()


@pytest.mark.slow
def test_tasks_of_a_submitit_job_find_each_other(tmp_path: Any, environment: Any) -> None:
    submitit = pytest.importorskip("submitit")
    executor = submitit.AutoExecutor(folder=tmp_path, cluster="local")
    executor.update_parameters(tasks_per_node=2, timeout_min=2)
    environment({"PYTHONPATH": ":".join(sys.path)})
    job = executor.submit(_meet)
    assert job.results() == [(0, [0, 1]), (1, [0, 1])]


def _fail(everybody: bool) -> None:
    if everybody or distributed.rank() == 1:
        raise ValueError("a sentence")
    distributed.barrier()


@pytest.mark.parametrize("everybody", [True, False])
def test_the_pool_raises_what_a_rank_raised_and_survives(gloo_pool: Any, everybody: bool) -> None:
    with pytest.raises(ValueError, match="a sentence"):
        gloo_pool.run(_fail, everybody)
    assert len(gloo_pool.run(_talk)) == 2
