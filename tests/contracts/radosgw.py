"""Ceph's S3 gateway on this machine: one monitor, one OSD that keeps everything in memory, one gateway.

`make test-s3` installs it from the distribution's packages. It is there in two seconds, on free ports of the loopback,
in one temporary folder, and without authentication between its own parts; requests to the gateway are checked.
"""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines.processes import LOOPBACK, ManagedProcess, answers, free_port

KEY, SECRET = "key", "a secret of the tests"
START_S = 60.0  # two seconds on an idle machine
GRACE_S = 0.5  # the gateway takes four seconds to say goodbye, and has nothing to keep

CONFIG = """
[global]
fsid = {fsid}
mon host = v2:{host}:{mon}
public network = {host}/8
ms bind ipv6 = false
ms mon client mode = crc
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
osd objectstore = memstore
memstore device bytes = 1073741824
osd class load list = *
osd class default list = *
paxos propose interval = 0.05
paxos min wait = 0.02
run dir = {folder}
admin socket =
pid file =
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
mon data = {folder}/mon
osd data = {folder}/osd
"""


class Radosgw:
    """A context manager; `endpoint` is where S3 is, for the user with KEY and SECRET."""

    def __init__(self, folder: Path) -> None:
        """`folder` is empty."""
        self._folder = folder
        mon, s3 = free_port(), free_port()
        self._mon = f"{LOOPBACK}:{mon}"
        self._fsid, self._osd = str(uuid.uuid4()), str(uuid.uuid4())
        self.endpoint = f"http://{LOOPBACK}:{s3}"
        (folder / "ceph.conf").write_text(CONFIG.format(fsid=self._fsid, host=LOOPBACK, mon=mon, folder=folder))
        gateway = ["-n", "client.admin", f"--rgw-data={folder}/rgw"]
        gateway.append(f"--rgw-frontends=beast endpoint={LOOPBACK}:{s3}")
        self._processes = [
            self._process("ceph-mon", "-i", "a"),
            self._process("ceph-osd", "-i", "0"),
            self._process("radosgw", *gateway),
        ]

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def _start(self) -> None:
        monitor, osd, gateway = self._processes
        folder = self._folder
        (folder / "mon").mkdir()
        (folder / "osd").mkdir()
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", f"[v2:{self._mon}]", f"{folder}/map")
        self._run(*monitor.command[:5], "--mkfs", "--monmap", f"{folder}/map")
        monitor.start()
        self._run("ceph", "-c", f"{folder}/ceph.conf", "osd", "new", self._osd)
        self._run(*osd.command[:5], "--mkfs", "--osd-uuid", self._osd)
        osd.start()
        gateway.start()
        gateway.wait_until(lambda: answers(self.endpoint), "answering", START_S)
        user = ("--uid=tests", "--display-name=tests", f"--access-key={KEY}", f"--secret={SECRET}")
        self._run("radosgw-admin", "-c", f"{folder}/ceph.conf", "user", "create", *user)

    def _stop(self) -> None:
        for process in reversed(self._processes):
            process.stop()

    def _process(self, program: str, *arguments: str) -> ManagedProcess:
        command = [program, "-c", f"{self._folder}/ceph.conf", *arguments, "-f"]
        return ManagedProcess(program, command, self._folder / f"{program}.out", grace_s=GRACE_S)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False, cwd=self._folder)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
