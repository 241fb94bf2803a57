import errno
import json
import multiprocessing
import os
import time

import pytest

from ssl_transfer.system import claims, signals


def _hold(folder, entered, seconds):
    with claims.claimed(folder, finished=lambda: False, waiting=lambda owner: None) as ours:
        entered.put((os.getpid(), ours, time.monotonic()))
        time.sleep(seconds)
        entered.put((os.getpid(), "left", time.monotonic()))


def _claim_and_die(folder):
    folder.mkdir(parents=True, exist_ok=True)
    assert claims.try_claim(folder)
    os._exit(9)


def test_of_four_processes_that_meet_one_at_a_time_holds_the_claim(tmp_path):
    context = multiprocessing.get_context("fork")
    entered = context.Queue()
    workers = [context.Process(target=_hold, args=(tmp_path, entered, 0.1)) for _ in range(4)]
    for worker in workers:
        worker.start()
    events = [entered.get(timeout=30) for _ in range(8)]
    for worker in workers:
        worker.join()
    order = [event for _, event, _ in sorted(events, key=lambda e: e[2])]
    assert order == [True, "left"] * 4
    assert not (tmp_path / "claim.json").exists()


def test_a_killed_process_leaves_a_claim_that_is_taken_over(tmp_path):
    context = multiprocessing.get_context("fork")
    victim = context.Process(target=_claim_and_die, args=(tmp_path,))
    victim.start()
    victim.join()
    assert (tmp_path / "claim.json").exists()
    assert not claims.is_alive(tmp_path / "claim.json")
    with claims.claimed(tmp_path, finished=lambda: False, waiting=pytest.fail) as ours:
        assert ours
        assert json.loads((tmp_path / "claim.json").read_text())["pid"] == os.getpid()


def test_a_claim_of_another_host_lives_as_long_as_its_heart_beats(tmp_path):
    path = tmp_path / "claim.json"
    path.write_text(json.dumps({**claims.owner(), "host": "elsewhere"}))
    assert claims.is_alive(path)
    for far in (-claims.DEAD_AFTER_SECONDS - 1, claims.DEAD_AFTER_SECONDS + 60, 10**9):
        os.utime(path, (time.time() + far, time.time() + far))
        assert not claims.is_alive(path), far
    for near in (-claims.DEAD_AFTER_SECONDS + 60, claims.DEAD_AFTER_SECONDS - 60):
        os.utime(path, (time.time() + near, time.time() + near))
        assert claims.is_alive(path), near


def test_a_process_of_another_container_is_judged_by_its_heart(tmp_path):
    path = tmp_path / "claim.json"
    # Its number means nothing here: it may be nobody's, or somebody else's.
    theirs = {"namespace": "pid:[1]", "pid": 1, "started": "1"}
    path.write_text(json.dumps({**claims.owner(), **theirs}))
    assert claims.is_alive(path)
    assert claims.other(tmp_path)["namespace"] == "pid:[1]"
    long_ago = time.time() - claims.DEAD_AFTER_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
    assert claims.try_claim(tmp_path)
    assert claims.read(tmp_path)["pid"] == os.getpid()


ODD = [
    "", "{", "null", "5", '"text"', "[]", "[[1]]", "{}", '{"job": null}', '{"job": 5}',
    '{"job": "../x"}', '{"job": "12", "user": 3}', '{"job": ["12"]}', '{"host": 1}',
    '{"host": "a", "boot": "b", "pid": "c", "started": "d"}',
    '{"host": "a", "boot": "b", "pid": 1, "started": 5}',
    '{"host": "a", "boot": "b", "pid": 1, "started": "5", "log": {}}', "[" * 100_000, "\x00\xff",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_what_is_no_claim_holds_nobody_up_for_longer_than_half_of_one(tmp_path, caplog, text):
    path = tmp_path / "claim.json"
    path.write_text(text)
    assert claims.read(tmp_path) is None
    assert claims.other(tmp_path) is None
    assert not claims.try_claim(tmp_path)
    aside = time.time() + claims.HEARTBEAT_SECONDS + 1
    os.utime(path, (aside, aside))
    assert claims.try_claim(tmp_path)
    assert "is not a valid claim; it is replaced" in caplog.text
    assert claims.read(tmp_path)["pid"] == os.getpid()


def test_a_folder_or_a_broken_link_in_a_claims_place_holds_nobody_up(tmp_path):
    long_ago = time.time() - 3600
    path = tmp_path / "claim.json"
    path.mkdir()
    os.utime(path, (long_ago, long_ago))
    assert claims.try_claim(tmp_path)
    claims.release(tmp_path)
    path.symlink_to(path.name)
    os.utime(path, (long_ago, long_ago), follow_symlinks=False)
    assert claims.try_claim(tmp_path)


def test_only_the_owner_gives_a_claim_up(tmp_path):
    theirs = {**claims.owner(), "host": "elsewhere"}
    with claims.claimed(tmp_path, finished=lambda: False, waiting=pytest.fail):
        _write(tmp_path, theirs)  # took us for dead
    assert claims.read(tmp_path) == theirs
    claims.release(tmp_path)
    assert claims.read(tmp_path) == theirs
    claims.hand_over(tmp_path, {"job": "12"})
    assert claims.read(tmp_path) == theirs
    _write(tmp_path, {**claims.owner(), "token": "of an earlier claim of this process"})
    claims.release(tmp_path)
    assert claims.read(tmp_path) is not None


def test_a_number_that_another_process_got_later_does_not_keep_a_claim_alive(tmp_path):
    path = tmp_path / "claim.json"
    path.write_text(json.dumps({**claims.owner(), "started": "1"}))
    assert not claims.is_alive(path)


def test_who_waits_is_told_that_the_work_is_done(tmp_path):
    done, told = [], []

    def waiting(owner):
        told.append(owner["pid"])
        done.append(True)

    with (
        claims.claimed(tmp_path, finished=lambda: False, waiting=pytest.fail),
        claims.claimed(tmp_path, finished=lambda: bool(done), waiting=waiting) as ours,
    ):
        assert not ours
    assert told == [os.getpid()]


# ---- claims of jobs -----------------------------------------------------------------------------


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _write(folder, claim):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claim.json").write_text(json.dumps(claim))
    return folder / "claim.json"


@pytest.fixture
def in_job(slurm, monkeypatch):
    """Let this process belong to element 3 of job 12."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv(claims.SUBMISSION, "s1")
    return slurm


def test_a_jobs_claim_lives_as_long_as_its_job_may_run(tmp_path, slurm):
    path = _write(tmp_path / "run", {"job": "12_3"})
    for line, alive in [
        ("12_3|RUNNING|None|n1", True),
        ("12_3|PENDING|Resources|", True),
        ("12_3|CANCELLED|None|", False),
        ("12_4|RUNNING|None|n1", False),
    ]:
        slurm.queue(line)
        assert claims.is_alive(path) == alive, line
        assert claims.other(path.parent) == ({"job": "12_3"} if alive else None)
    slurm.forget()
    assert not claims.is_alive(path)
    slurm.is_silent()
    assert claims.is_alive(path)


def test_a_dead_jobs_claim_is_taken_over_and_a_live_ones_is_not(tmp_path, slurm):
    path = _write(tmp_path / "run", {"job": "12_3"})
    slurm.queue("12_3|PENDING|Priority|")
    assert not claims.try_claim(path.parent)
    assert json.loads(path.read_text()) == {"job": "12_3"}
    slurm.forget()
    assert claims.try_claim(path.parent)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    assert _names(path.parent) == ["claim.json"]


def test_a_job_adopts_the_claim_that_its_submission_made(tmp_path, in_job):
    submitter = {**claims.owner(), "pid": 1, "started": "never"}
    del submitter["job"]
    path = _write(tmp_path / "run", {**submitter, "submission": "s1"})
    assert claims.other(path.parent) is None
    assert claims.try_claim(path.parent)
    assert json.loads(path.read_text())["job"] == "12_3"
    # The submission of somebody else, alive: not ours.
    mine = {key: value for key, value in claims.owner().items() if key != "job"}
    path = _write(tmp_path / "theirs", {**mine, "host": "elsewhere", "submission": "s2"})
    assert not claims.try_claim(path.parent)
    assert claims.other(path.parent)["submission"] == "s2"


def test_a_job_finds_its_own_claim_again_whatever_the_queue_says(tmp_path, in_job):
    in_job.is_silent()
    path = _write(tmp_path / "run", {"job": "12_3", "log": "an earlier turn's"})
    assert claims.other(path.parent) is None
    assert claims.try_claim(path.parent)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    path = _write(tmp_path / "sibling", {"job": "12_4"})
    assert not claims.try_claim(path.parent)
    claims.release(path.parent)
    assert path.exists()
    claims.release(tmp_path / "run")
    assert not (tmp_path / "run" / "claim.json").exists()


def test_a_submission_hands_its_claim_to_the_job_unless_the_job_has_finished(tmp_path, slurm):
    folder = tmp_path / "run"
    assert claims.try_claim(folder, {**claims.owner(), "submission": "s1"})
    assert not claims.try_claim(folder, {**claims.owner(), "submission": "s2"})
    slurm.queue("12_3|PENDING|None|")
    claims.hand_over(folder, {"job": "12_3", "submission": "s1"})
    assert claims.read(folder) == {"job": "12_3", "submission": "s1"}
    assert claims.describe(claims.other(folder)) == "job 12_3"
    claims.release(folder)
    assert claims.describe(claims.other(folder)) == "job 12_3"  # not ours any more
    (folder / "claim.json").unlink()
    claims.hand_over(folder, {"job": "12_3"})
    assert _names(folder) == []


def test_an_interrupted_process_gives_its_claim_back(tmp_path):
    with (
        pytest.raises(signals.Interrupted),
        claims.claimed(tmp_path, finished=lambda: False, waiting=pytest.fail),
    ):
        raise signals.Interrupted
    assert claims.read(tmp_path) is None


@pytest.mark.parametrize(("error", "kept"), [(signals.Interrupted, True), (ValueError, False)])
def test_an_interrupted_job_keeps_its_claim_because_it_comes_back(tmp_path, in_job, error, kept):
    with (
        pytest.raises(error),
        claims.claimed(tmp_path / "run", finished=lambda: False, waiting=pytest.fail),
    ):
        raise error
    assert (claims.read(tmp_path / "run") is not None) == kept
    if kept:
        assert claims.read(tmp_path / "run")["job"] == "12_3"


def test_a_claim_says_where_the_output_goes(tmp_path, monkeypatch):
    monkeypatch.setenv(claims.LOG, "slot0_log.out")
    claims.try_claim(tmp_path)
    assert claims.read(tmp_path)["log"] == "slot0_log.out"
    assert claims.describe(claims.read(tmp_path)).startswith(f"process {os.getpid()} on ")


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert claims.try_claim(tmp_path)
    assert claims.read(tmp_path)["pid"] == os.getpid()
    assert not claims.try_claim(tmp_path)
    assert _names(tmp_path) == ["claim.json"]
    # Half a claim is somebody's who is about to write the rest.
    (tmp_path / "claim.json").write_text('{"ho')
    assert claims.read(tmp_path) is None
    assert claims.is_alive(tmp_path / "claim.json")
    long_ago = time.time() - claims.HEARTBEAT_SECONDS - 1
    os.utime(tmp_path / "claim.json", (long_ago, long_ago))
    assert claims.try_claim(tmp_path)
