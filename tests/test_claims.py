import json
import multiprocessing
import os
import time

import pytest

from ssl_transfer import claims


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
    long_ago = time.time() - claims.DEAD_AFTER_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
    assert not claims.is_alive(path)


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
