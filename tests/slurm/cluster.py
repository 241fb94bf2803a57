"""A real SLURM of two nodes on this host, for as long as a test session lasts."""

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

NODES = ("n1", "n2")
GPUS_PER_NODE = 2
CPUS_PER_NODE = 4  # claimed, whatever the host has
START_TIMEOUT_S = 60.0
UNFINISHED = {
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "STAGE_OUT", "SUSPENDED", "STOPPED",
    "SIGNALING", "RESIZING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT",
}  # fmt: skip
"""States that a job leaves again by itself."""
GRACE_S = 10  # of the partition ``low``, see ``set_grace``
DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
DATABASE = ("mariadbd", "mariadb-install-db", "mariadb", "slurmdbd", "sacct", "sacctmgr")


class SlurmError(RuntimeError):
    """SLURM is missing, does not start, or refused a command."""


class Cluster:
    """Starts SLURM's daemons on ``__enter__`` and leaves nothing running, however the session ends.

    Node names do not resolve, so jobs of several processes need ``MASTER_ADDR=127.0.0.1``.

    Args:
        accounting: whether ``sacct`` works, which takes slurmdbd and MariaDB.
        max_array_size: SLURM's ``MaxArraySize`` (every index lies below it); null: 1001.
    """

    def __init__(self, accounting: bool = False, max_array_size: int | None = None) -> None:
        self.accounting = accounting
        self.max_array_size = max_array_size
        self._warning = True
        self._grace_s = GRACE_S
        self._configured = ""
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    # Starting and stopping

    def __enter__(self) -> Self:
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
        needed = [*DAEMONS, *COMMANDS, *(DATABASE if self.accounting else ())]
        missing = [name for name in needed if shutil.which(name, path=path) is None]
        if missing:
            option = " --accounting" if self.accounting else ""
            raise SlurmError(
                f"these tests need SLURM, but {', '.join(missing)} are missing; "
                f"run: sh scripts/install_slurm.sh{option}"
            )
        # A short path, for sockets; and one that everybody may traverse, or munged refuses it.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}
        # It sees the end of this process by the end of its input, whatever that end was.
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", __file__, str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._start()
        except BaseException:  # Ctrl-C included
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        self.folder.chmod(0o755)
        for name in ("state", "spool", "log", "jobs"):
            (self.folder / name).mkdir()
        self._controller_port, *self._node_ports, self._dbd_port, self._sql_port = free_ports(5)
        for index in range(GPUS_PER_NODE):
            # Not a plain file: SLURM takes devices only. The last digit is the GPU's index.
            (self.folder / f"gpu{index}").symlink_to("/dev/null")
        self._write("gres.conf", f"NodeName={','.join(NODES)} Name=gpu File={self.folder}/gpu[0-1]")
        self._write("munge.key", os.urandom(1024).hex())
        self._configure()
        self._launch("munged", "--foreground", *self._munge_files())
        self.wait_for((self.folder / "munge.sock").exists, START_TIMEOUT_S)
        if self.accounting:
            self._start_accounting()
        self._launch("slurmctld", "-D", "-c")
        for node in NODES:
            self._launch("slurmd", "-D", "-N", node, name=f"slurmd-{node}")
        self.wait_for(self._idle, START_TIMEOUT_S)

    def stop(self) -> None:
        """End every process of the cluster, its jobs included, and delete its folder."""
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        self._reaper.wait(timeout=START_TIMEOUT_S)
        for process in self._daemons.values():
            process.wait(timeout=START_TIMEOUT_S)
        self._daemons.clear()

    def _launch(self, program: str, *arguments: str, name: str | None = None) -> None:
        # A session of its own: Ctrl-C ends the tests first, and they end the daemons.
        name = name or program
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [program, *arguments],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _idle(self) -> bool:
        for name, process in self._daemons.items():
            if process.poll() is not None:
                raise SlurmError(f"{name} ended; the logs end so:\n{self._logs()}")
        states = self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%T", check=False).stdout.split()
        return states == ["idle"] * len(NODES)

    def _logs(self, lines: int = 8) -> str:
        parts = []
        for path in sorted((self.folder / "log").glob("*")):
            if tail := path.read_text(errors="replace").splitlines()[-lines:]:
                parts.append("\n".join([f"-- {path.name}", *tail]))
        return "\n".join(parts)

    # Files

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.touch(mode=0o600)  # as munged and slurmdbd demand of theirs
        path.write_text(textwrap.dedent(text).strip() + "\n")

    def _munge_files(self) -> list[str]:
        names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid"}
        names |= {"log-file": "log/munged.log", "seed-file": "munge.seed"}
        return [f"--{option}={self.folder / name}" for option, name in names.items()]

    def _configure(self) -> bool:
        """Write slurm.conf; return whether it changed."""
        host = socket.gethostname().partition(".")[0]
        user = getpass.getuser()
        lines = f"""
            ClusterName=tests
            SlurmctldHost={host}(127.0.0.1)
            SlurmUser={user}
            SlurmdUser={user}
            AuthType=auth/munge
            AuthInfo=socket={self.folder}/munge.sock
            SlurmctldPort={self._controller_port}
            SlurmctldPidFile={self.folder}/slurmctld.pid
            SlurmdPidFile={self.folder}/slurmd-%n.pid
            StateSaveLocation={self.folder}/state
            SlurmdSpoolDir={self.folder}/spool/%n
            SlurmctldLogFile={self.folder}/log/slurmctld.log
            SlurmdLogFile={self.folder}/log/slurmd-%n.log
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            SwitchType=switch/none
            MpiDefault=none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_Core
            SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2
            # Else a node that claims more CPUs than the host has is drained.
            SlurmdParameters=config_overrides
            # A node that a test declared down stays down.
            ReturnToService=1
            JobRequeue=1
            KillWait=5
            GresTypes=gpu
            PreemptType=preempt/partition_prio
            PreemptMode=REQUEUE
            PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime={self._grace_s}
            PartitionName=high Nodes=ALL PriorityTier=10
            """
        text = textwrap.dedent(lines)
        for node, port in zip(NODES, self._node_ports, strict=True):
            text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            text += f"CPUs={CPUS_PER_NODE} RealMemory=4000 Gres=gpu:{GPUS_PER_NODE}\n"
        if self._warning:
            text += "SlurmctldParameters=preempt_send_user_signal\n"
        if self.max_array_size is not None:
            text += f"MaxArraySize={self.max_array_size}\n"
        if self.accounting:
            text += "AccountingStorageType=accounting_storage/slurmdbd\n"
            text += "AccountingStorageHost=localhost\nAccountingStorageTRES=gres/gpu\n"
            text += f"AccountingStoragePort={self._dbd_port}\n"
            # To slurmdbd, munge's socket is found by this and not by AuthInfo.
            text += f"AccountingStoragePass={self.folder}/munge.sock\n"
            text += "JobAcctGatherType=jobacct_gather/none\n"
        changed = text != self._configured
        if changed:
            self._write("slurm.conf", text)
            self._configured = text
        return changed

    def _start_accounting(self) -> None:
        database = self.folder / "database"
        user = getpass.getuser()
        login = "--auth-root-authentication-method=normal"
        files = [f"--datadir={database}", f"--user={user}", "--no-defaults"]
        self.run("mariadb-install-db", files.pop(), *files, login, "--skip-test-db")
        socket_file = f"--socket={self.folder}/sql.sock"
        address = ["--bind-address=127.0.0.1", f"--port={self._sql_port}"]
        self._launch("mariadbd", "--no-defaults", *files, *address, socket_file)
        client = ("mariadb", "--no-defaults", socket_file, "-u", "root", "-e")
        statements = (
            "create database slurm; grant all on slurm.* to slurm@'%' identified by 'slurm'"
        )
        self.wait_for(
            lambda: self.run(*client, statements, check=False).returncode == 0, START_TIMEOUT_S
        )
        self._write(
            "slurmdbd.conf",
            f"""
            AuthType=auth/munge
            AuthInfo=socket={self.folder}/munge.sock
            DbdHost=localhost
            DbdAddr=127.0.0.1
            DbdPort={self._dbd_port}
            SlurmUser={user}
            StorageType=accounting_storage/mysql
            StorageHost=127.0.0.1
            StoragePort={self._sql_port}
            StorageUser=slurm
            StoragePass=slurm
            StorageLoc=slurm
            LogFile={self.folder}/log/slurmdbd.log
            PidFile={self.folder}/slurmdbd.pid
            """,
        )
        self._launch("slurmdbd", "-D")
        add = ("sacctmgr", "-i", "add")
        self.wait_for(
            lambda: self.run(*add, "cluster", "tests", check=False).returncode == 0, START_TIMEOUT_S
        )
        self.run(*add, "account", "tests")
        self.run(*add, "user", user, "account=tests")

    # Asking and waiting

    def run(
        self,
        *command: str,
        timeout: float = 60.0,
        check: bool = True,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Return what a command that talks to this cluster did and printed.

        Args:
            command: the program and its arguments.
            timeout: seconds after which it is killed.
            check: whether an exit code other than zero is an error.
            cwd: folder to start in; null: the tests' own.
            environment: variables besides those of the tests and the cluster.
        """
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd,
            check=False,
        )
        if check and done.returncode:
            raise SlurmError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr}")
        return done

    def wait_for(self, predicate: Callable[[], Any], seconds: float) -> Any:
        """Return the first true value of ``predicate``; TimeoutError tells what SLURM did."""
        deadline = time.monotonic() + seconds
        while not (value := predicate()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:g} s; the logs end so:\n{self._logs()}")
            time.sleep(0.1)
        return value

    def queue(self) -> dict[str, str]:
        """Return the state of every job that is not over; each element of an array for itself."""
        lines = self.run("squeue", "-r", "-h", "-o", "%i|%T").stdout.split()
        return dict(line.split("|") for line in lines)

    def job_state(self, job: str) -> str:
        """Return the state of a job or an array's element such as ``12_3``, also an ended one."""
        return self.job_fields(job)["JobState"]

    def ended(self, job: str, seconds: float = 60) -> str:
        """Wait until a job is over, the end of its processes included, and return its state."""
        return str(
            self.wait_for(lambda: (s := self.job_state(job)) not in UNFINISHED and s, seconds)
        )

    def wait_for_queue(self, jobs: Mapping[str, str], seconds: float = 60) -> None:
        """Wait until exactly these jobs are in the queue, in these states."""
        self.wait_for(lambda: self.queue() == jobs, seconds)

    def job_fields(self, job: str) -> dict[str, str]:
        """Return what ``scontrol show job`` says about a job or an array's element."""
        (line,) = self.run("scontrol", "show", "job", "-o", job).stdout.splitlines()
        return dict(word.partition("=")[::2] for word in line.split() if "=" in word)

    def output(self, job: str) -> str:
        """Return what a job of ``sbatch`` below has printed, all its lives together."""
        path = self.folder / "jobs" / f"{job}.out"
        return path.read_text() if path.exists() else ""

    # Provoking

    def sbatch(self, command: str, *options: str) -> str:
        """Submit a line of shell and return its id; its output is for ``output``."""
        array = any(option.startswith(("--array", "-a")) for option in options)
        name = "%A_%a.out" if array else "%j.out"
        to = ("--output", str(self.folder / "jobs" / name), "--open-mode=append")
        done = self.run("sbatch", "--parsable", *to, *options, "--wrap", command)
        return done.stdout.strip()

    def cancel(self, job: str, *options: str) -> None:
        """Cancel a job, or send it a signal with ``--signal=USR2``."""
        self.run("scancel", *options, job)

    def requeue(self, job: str) -> None:
        """Let SLURM end a running job and queue it again, as when its node failed."""
        self.run("scontrol", "requeue", job)

    def start_now(self, job: str) -> None:
        """Spare a requeued job, or an array's element, the two minutes that SLURM lets it wait."""
        self.wait_for(lambda: self.job_state(job) == "PENDING", 30)
        # A life that begins in the moment the last one ends may fail at once, on the same node.
        self.run("scontrol", "update", f"jobid={job}", "starttime=now+2")

    def preempt(self, node: str | None = None) -> str:
        """Take one node, or both, from all jobs of the partition ``low``; return the taker's id."""
        where = f"--nodelist={node}" if node else f"--nodes={len(NODES)}"
        return self.sbatch("sleep 1", "--partition=high", "--exclusive", where)

    def without_warning(self) -> None:
        """Let preempted jobs get TERM only, as where preempt_send_user_signal is not set."""
        self._warning = False
        self._reconfigure()

    def set_grace(self, seconds: int) -> None:
        """Set the time that a preempted job has left; SLURM takes 1 to 15 s as 15 s."""
        self._grace_s = seconds
        self._reconfigure()

    def _reconfigure(self) -> None:
        if self._configure():
            self.run("scontrol", "reconfigure")

    def node_down(self, name: str) -> None:
        """Declare a node broken: its jobs are queued again, and none starts there."""
        self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def resume_nodes(self) -> None:
        """Bring back all nodes that are down or drained."""
        lines = self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%N %T").stdout.splitlines()
        for name, state in map(str.split, lines):
            if state.startswith(("down", "drain")):
                self.run("scontrol", "update", f"nodename={name}", "state=resume")

    def kill_controller(self) -> None:
        """Stop slurmctld, so that commands fail while running jobs go on."""
        controller = self._daemons.pop("slurmctld")
        controller.terminate()  # SIGKILL could make it forget the newest jobs
        controller.wait(timeout=START_TIMEOUT_S)

    def start_controller(self) -> None:
        """Start slurmctld again with the jobs it knew."""
        self._launch("slurmctld", "-D")
        self.wait_for(
            lambda: self.run("scontrol", "ping", check=False).returncode == 0, START_TIMEOUT_S
        )

    def restore(self) -> None:
        """Undo what a test did: no jobs, both nodes idle, warnings and grace as at the start."""
        if "slurmctld" not in self._daemons:
            self.start_controller()
        self._warning, self._grace_s = True, GRACE_S
        self._reconfigure()
        self.resume_nodes()
        self.wait_for(lambda: self._empty() and self._idle(), START_TIMEOUT_S)

    def _empty(self) -> bool:
        if not self.queue():
            return True
        self.run("scancel", f"--user={getpass.getuser()}", check=False)
        # A job may take its time after TERM; `scancel --signal=KILL` sends TERM first as well.
        kill(processes_of(self.folder, of_jobs=True))
        return False


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, below those which the kernel hands out by itself."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, 20_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def processes_of(folder: Path, of_jobs: bool = False) -> list[int]:
    """Return the processes of the cluster in ``folder``, which started with it in SLURM_CONF.

    Args:
        folder: the cluster's.
        of_jobs: whether to return those of its jobs only.
    """
    conf = f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or somebody else's
            continue
        in_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
        if conf in variables and (in_job or not of_jobs):
            found.append(int(path.parent.name))
    return found


def kill(processes: list[int]) -> None:
    """Kill those of the processes that have not ended yet."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def reap(folder: Path) -> None:
    """Wait for the end of the input, then kill all processes of a cluster and delete its folder."""
    sys.stdin.read()
    # Again and again: the killed may have been starting others.
    while processes := processes_of(folder):
        kill(processes)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    reap(Path(sys.argv[1]))
