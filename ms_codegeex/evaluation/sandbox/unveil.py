"""Root's start of bubblewrap as nobody, where the program is to see directories that nobody may not walk to.

Run as `python3 -I -S unveil.py USER STAGE COUNT PATH... BWRAP...`, never imported: in a mount namespace of its own, of
which this machine sees nothing, the paths appear as STAGE/0, STAGE/1, ...; then root is given up for good.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 4096, 16384, 1 << 18, 2, 4
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int) -> None:
    """One mount."""
    if LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None):
        error = ctypes.get_errno()
        raise OSError(error, f"mount on {target}: {os.strerror(error)}")


def main(user: int, stage: str, paths: list, command: list) -> None:
    """Mount, become the user, be the command."""
    if LIBC.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "a mount namespace: " + os.strerror(ctypes.get_errno()))
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    sources = [os.open(path, os.O_PATH) for path in paths]
    mount("tmpfs", stage, "tmpfs", MS_NOSUID | MS_NODEV)
    os.chmod(stage, 0o755)
    for index, source in enumerate(sources):
        target = f"{stage}/{index}"
        if os.path.isdir(f"/proc/self/fd/{source}"):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT))
        mount(f"/proc/self/fd/{source}", target, "", MS_BIND | MS_REC)
        os.close(source)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    os.execv(command[0], command)


if __name__ == "__main__":
    count = int(sys.argv[3])
    main(int(sys.argv[1]), sys.argv[2], sys.argv[4 : 4 + count], sys.argv[4 + count :])
