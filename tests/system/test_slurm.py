"""What is read out of the answers of SLURM's commands, each of them a line of shell here."""

import pytest
from fake_slurm import FakeSlurm

from ssl_transfer.system import slurm as commands
from ssl_transfer.system.slurm import Job, NoAnswer


def test_one_call_asks_for_all_jobs_and_every_element_is_told_apart(slurm: FakeSlurm) -> None:
    slurm.queue(
        "12_0|RUNNING|None|n1",
        "12_1|PENDING|Resources|",
        "7|FAILED|NonZeroExitCode|n2",
        "9|PENDING|(launch failed requeued held)|",
    )
    found = commands.queue(["12_1", "12_0", "7", "9"])
    assert found == {
        "12_0": Job("12_0", "RUNNING", "n1"),
        "12_1": Job("12_1", "PENDING", "Resources"),
        "7": Job("7", "FAILED", "NonZeroExitCode"),
        "9": Job("9", "PENDING", "(launch failed requeued held)"),
    }
    (call,) = slurm.calls("squeue")
    assert call.endswith("-j 12,7,9")
    assert "-r" in call.split()
    assert [found[i].is_over for i in ("12_0", "12_1", "7")] == [False, False, True]
    assert [found[i].is_running for i in ("12_0", "12_1", "7")] == [True, False, False]


def test_nobody_is_asked_about_no_jobs(slurm: FakeSlurm) -> None:
    assert commands.queue([]) == {}
    assert commands.history([]) == {}
    assert slurm.calls("squeue") == slurm.calls("sacct") == []


@pytest.mark.parametrize(
    ("state", "over", "running"),
    [
        ("COMPLETING", False, True),
        ("CONFIGURING", False, True),
        ("SUSPENDED", False, True),
        ("REQUEUED", False, False),
        ("REQUEUE_HOLD", False, False),
        ("SPECIAL_EXIT", False, False),
        ("PREEMPTED", True, False),
        ("OUT_OF_MEMORY", True, False),
        ("TIMEOUT", True, False),
    ],
)
def test_a_state_is_over_only_if_no_work_can_follow(state: str, over: bool, running: bool) -> None:
    assert (Job("1", state).is_over, Job("1", state).is_running) == (over, running)


def test_a_job_is_described_in_words() -> None:
    assert Job("1", "OUT_OF_MEMORY", "None").describe() == "out of memory"
    assert Job("1", "PENDING", "Resources").describe() == "pending (Resources)"


def test_an_answer_is_believed_for_as_long_as_one_says_and_covers_the_array(
    slurm: FakeSlurm,
) -> None:
    slurm.queue("12_0|RUNNING|None|n1", "12_1|PENDING|Priority|")
    assert commands.may_run("12_0", trust_seconds=60)
    slurm.says("squeue")  # forgets what was believed, too
    slurm.queue("12_0|RUNNING|None|n1", "12_1|PENDING|Priority|")
    asked = len(slurm.calls("squeue"))
    assert commands.may_run("12_0", trust_seconds=60)
    assert commands.may_run("12_1", trust_seconds=60)
    assert not commands.may_run("12_2", trust_seconds=60)
    assert len(slurm.calls("squeue")) == asked + 1
    commands.queue(["12_1"])
    assert len(slurm.calls("squeue")) == asked + 2


def test_a_forgotten_job_is_not_in_the_queue_and_will_not_run(slurm: FakeSlurm) -> None:
    slurm.forget()
    assert commands.queue(["12"]) == {}
    assert not commands.may_run("12")


def test_a_controller_that_does_not_answer_says_nothing_about_a_job(slurm: FakeSlurm) -> None:
    slurm.is_silent()
    with pytest.raises(NoAnswer) as caught:
        commands.queue(["12"])
    assert str(caught.value) == (
        "SLURM's controller does not answer (slurm_load_jobs error: Unable to contact slurm "
        "controller (connect failure))."
    )
    assert commands.may_run("12")


def test_an_error_of_another_kind_is_no_answer_either(slurm: FakeSlurm) -> None:
    slurm.says("squeue", error="squeue: error: Invalid user: 7\n", code=1)
    with pytest.raises(NoAnswer, match=r"must list the jobs, but says: Invalid user: 7\.$"):
        commands.queue(["12"])


def test_a_controller_that_keeps_one_waiting_is_given_up(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.says("squeue")
    (slurm.folder / "squeue").write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    monkeypatch.setattr(commands, "_ANSWER_SECONDS", 0.2)
    with pytest.raises(NoAnswer, match="`squeue` did not answer within"):
        commands.queue(["12"])


def test_a_missing_command_is_a_sentence_with_a_way_out(slurm: FakeSlurm) -> None:
    assert not commands.is_available()  # there is no sbatch
    slurm.says("sbatch")
    assert commands.is_available()
    (slurm.folder / "squeue").unlink()
    assert not commands.is_available()
    with pytest.raises(NoAnswer) as caught:
        commands.queue(["12"])
    assert str(caught.value) == (
        "SLURM's `squeue` must be on the PATH, but is not; load the cluster's module, or use "
        "hydra/launcher=local."
    )


def test_accounting_tells_how_jobs_ended_elements_that_never_started_too(slurm: FakeSlurm) -> None:
    slurm.says(
        "sacct",
        "12_3|FAILED|3:0|n1\n"
        "12_[0-2,5%1]|CANCELLED by 1000|0:0|None assigned\n"
        "13|COMPLETED|0:0|n2\n"
        "14|CANCELLED|0:0|n2\n",
    )
    found = commands.history(["12_3", "12_5", "13", "14_7", "15"])
    assert sorted(found) == ["12_3", "12_5", "13", "14_7"]
    assert found["12_3"] == Job("12_3", "FAILED", "exit code 3:0 on n1")
    assert found["12_5"] == Job("12_5", "CANCELLED", "by 1000")
    assert found["13"] == Job("13", "COMPLETED", "")
    assert found["14_7"].describe() == "cancelled"  # the row of its array
    (call,) = slurm.calls("sacct")
    assert call.endswith("-j 12,13,14,15")


def test_accounting_is_asked_for_the_elements_of_an_array_in_full(slurm: FakeSlurm) -> None:
    (slurm.folder / "sacct").write_text(
        '#!/bin/sh\n[ "$SLURM_BITSTR_LEN" = 0 ] && echo "12_[0,2]|CANCELLED|0:0|"\n'
    )
    (slurm.folder / "sacct").chmod(0o755)
    assert commands.history(["12_2"])["12_2"].state == "CANCELLED"


@pytest.mark.parametrize(
    ("identifier", "elements"),
    [
        ("12", ["12"]),
        ("12_4", ["12_4"]),
        ("12_[4]", ["12_4"]),
        ("12_[0-1,9]", ["12_0", "12_1", "12_9"]),
        ("12_[7-8%256]", ["12_7", "12_8"]),
    ],
)
def test_a_shortened_array_stands_for_its_elements(identifier: str, elements: list[str]) -> None:
    assert commands._elements(identifier) == elements


def test_without_accounts_nothing_is_known_of_the_past(slurm: FakeSlurm) -> None:
    assert commands.history(["12"]) == {}
    assert slurm.calls("sacct") != []
    (slurm.folder / "sacct").unlink()
    assert commands.history(["12"]) == {}


def test_only_a_job_of_this_project_counts_as_one() -> None:
    job = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "40"}
    element = {"SLURM_ARRAY_JOB_ID": "38", "SLURM_ARRAY_TASK_ID": "2"}
    assert commands.current_job({}) is None
    assert commands.current_job({"SLURM_JOB_ID": "40", "SLURM_NTASKS": "2"}) is None  # salloc
    assert commands.current_job({**job, "SUBMITIT_EXECUTOR": "local"}) is None
    assert commands.current_job({"SUBMITIT_EXECUTOR": "slurm"}) is None
    assert commands.current_job(job) == "40"
    assert commands.current_job({**job, **element}) == "38_2"


def test_the_current_job_is_read_from_this_processs_environment(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "40")
    assert commands.current_job() is None
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    assert commands.current_job() == "40"


def test_what_cancelling_and_requeueing_are_refused_for_is_told(slurm: FakeSlurm) -> None:
    slurm.says("scancel")
    slurm.says("scontrol")
    assert commands.cancel(["12_1", "13"]) is None
    assert commands.requeue("12_1") is None
    assert slurm.calls("scancel") == ["12_1 13"]
    assert slurm.calls("scontrol") == ["requeue 12_1"]
    assert commands.cancel([]) is None
    assert len(slurm.calls("scancel")) == 1
    slurm.says("scancel", error="scancel: error: Kill job error on job id 12: Invalid job id\n")
    slurm.says("scontrol", error="Requeue is disabled for this job\n", code=1)
    assert commands.cancel(["12"]) == "Kill job error on job id 12: Invalid job id"
    assert commands.requeue("12") == "Requeue is disabled for this job"
    (slurm.folder / "scontrol").unlink()  # as on some compute nodes
    assert "`scontrol` must be on the PATH" in str(commands.requeue("12"))


def test_a_thousand_jobs_are_cancelled_in_commands_of_a_bearable_length(slurm: FakeSlurm) -> None:
    slurm.says("scancel")
    commands.cancel([str(number) for number in range(1, 1002)])
    assert [len(call.split()) for call in slurm.calls("scancel")] == [500, 500, 1]


def test_slurms_verdict_on_a_batch_file_is_told_without_its_prefix(slurm: FakeSlurm) -> None:
    slurm.says("sbatch", error="sbatch: Job 5 to start at 2026-01-01T00:00:00 on n1\n")
    assert commands.test("#!/bin/sh\n") == (True, "Job 5 to start at 2026-01-01T00:00:00 on n1")
    slurm.says(
        "sbatch", error="sbatch: error: invalid partition specified: gpus\n"
        "allocation failure: Invalid partition name specified\n", code=1,
    )  # fmt: skip
    accepted, verdict = commands.test("#!/bin/sh\n")
    assert not accepted
    assert verdict.startswith("invalid partition specified: gpus; ")
    assert slurm.calls("sbatch") == ["--test-only"] * 2


@pytest.mark.parametrize(
    ("said", "largest"), [("A = 1\nMaxArraySize            = 12\n", 12), ("", 1001)]
)
def test_the_largest_array_is_the_clusters(slurm: FakeSlurm, said: str, largest: int) -> None:
    slurm.says("scontrol", said)
    commands.configuration.cache_clear()
    assert commands.largest_array() == largest
    commands.configuration.cache_clear()


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr(commands.getpass, "getuser", unknown)
    monkeypatch.setattr(commands.os, "getuid", lambda: 4242)
    assert commands.user() == "4242"
