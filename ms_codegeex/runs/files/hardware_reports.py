"""Find what MindSpore and CANN write about faulty hardware into the logs of workers. Imports no engine."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

from ms_codegeex.runs.files.run_directory import RunDirectory

SECONDS = 10.0  # between two reads of the logs, as often as MindSpore's detector checks
TAIL = 1 << 16  # bytes at the end of a log that are searched for the cause of a failure
LONGEST = 300  # characters kept of a line
# Messages of MindSpore 2.9 (silent_detector.cc): a gradient far from its average (`name` is its weight); the third on a
# rank within 8 hours; a wrong matrix product; whether any rank had one (in every rank's log, read only from rank 0's)
_FINDINGS = re.compile(
    rb"(?:Silent detect strike detected|Feature value detection strikes out on rank|CheckSum detects MatMul error on "
    rb"rank|Global CheckSum result is)\b[^\n]*"
)
_OF_ALL = b"Global"
_CAUSES_OF_DEATH = {  # pattern in a log -> cause in words
    rb"\[HcclWatchDog\]|Hcom Monitor thread got hccl error": "HCCL's watchdog saw a collective fail (cluster.watchdog)",
    rb"\bEI0002\b": "a collective waited longer than cluster.execute_timeout for another rank (EI0002)",
    rb"\bEI0006\b": "another rank did not connect within cluster.connect_timeout (EI0006)",
    rb"Failed to initialize distributed job cluster": "not all ranks met at server 0 within cluster.start_timeout: "
    "check that every server runs the command and reaches the address of --master-addr or the table's first server",
}


class SilentCheckWatch:
    """Turns findings of `cluster.silent_check` in the logs of all ranks into events of the run. Only server 0, which
    writes the events, has one."""

    def __init__(self, run: RunDirectory):
        self.run, self.next_check = run, 0.0
        self.read: dict[Path, int] = {}  # log -> bytes read

    def check(self) -> None:
        """Call `look` every `SECONDS`."""
        if time.monotonic() >= self.next_check:
            self.look()
            self.next_check = time.monotonic() + SECONDS

    def look(self) -> None:
        """Read what was added to the logs, and append an event for each finding."""
        for log in self.run.logs.glob("worker_*.log"):
            rank = log.stem.removeprefix("worker_")
            for line in _FINDINGS.findall(self._added(log)):
                if rank == "0" or not line.startswith(_OF_ALL):
                    message = line[:LONGEST].decode("utf-8", "replace")
                    with contextlib.suppress(OSError):  # the disk may be full
                        self.run.add_event("silent check", rank=int(rank), message=message)

    def _added(self, log: Path) -> bytes:
        begin = self.read.get(log, 0)
        with contextlib.suppress(OSError):
            if log.stat().st_size > begin:
                with log.open("rb") as stream:
                    stream.seek(begin)
                    added = stream.read()
                added = added[: added.rfind(b"\n") + 1]
                self.read[log] = begin + len(added)
                return added
        return b""


def cause_in(log: Path) -> str | None:
    """Return why a rank ended, if one of the known reports is at the end of its log, else None."""
    with contextlib.suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL))
        tail = stream.read()
        return next((words for pattern, words in _CAUSES_OF_DEATH.items() if re.search(pattern, tail)), None)
    return None
