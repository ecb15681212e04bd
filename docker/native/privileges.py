"""PostgreSQL refuses to run as root. As root, its programs run as an ordinary user; as anyone else, as they are.

Never changes rights of a folder that is not ours.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from core.errors import StopTheStart

UNPRIVILEGED = "nobody"


@functools.lru_cache(maxsize=1)
def _unshare() -> tuple[str, ...] | None:
    """A user namespace in which root's files look like they belong to an ordinary user: works in any folder."""
    program = shutil.which("unshare")
    if program is None:
        return None
    user = pwd.getpwnam(UNPRIVILEGED)
    prefix = (program, "--user", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}")
    probe = subprocess.run([*prefix, "true"], capture_output=True, check=False, timeout=10)
    return prefix if probe.returncode == 0 else None


def _setpriv(program: Path, data: Path) -> tuple[str, ...]:
    """Real loss of rights, where user namespaces are not allowed: needs every folder on the way to be enterable."""
    tool = shutil.which("setpriv")
    if tool is None:
        raise StopTheStart(
            "PostgreSQL does not run as root, and neither `unshare` nor `setpriv` works here: run as an ordinary user."
        )
    user = pwd.getpwnam(UNPRIVILEGED)
    prefix = (tool, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    data.mkdir(parents=True, exist_ok=True)
    for folder in (data.parent, data.parent.parent):  # var/data and var: ours
        folder.chmod(folder.stat().st_mode | 0o011)
    if data.stat().st_uid != user.pw_uid:
        for root, folders, files in os.walk(data):
            for name in (".", *folders, *files):
                os.chown(Path(root, name), user.pw_uid, user.pw_gid, follow_symlinks=False)
    data.chmod(0o700)
    probes = ([*prefix, str(program), "--version"], [*prefix, "test", "-w", str(data)])
    if any(subprocess.run(probe, capture_output=True, check=False, timeout=10).returncode for probe in probes):
        raise StopTheStart(
            f"PostgreSQL does not run as root, and the user `{UNPRIVILEGED}` may not enter {program.parent} or {data}: "
            "run as the folder's ordinary owner, or move the project where others may enter it."
        )
    return prefix


def prefix(program: Path, data: Path) -> tuple[str, ...]:
    """What to put before a PostgreSQL program that works on `data`; empty for ordinary users.

    Raises:
        StopTheStart: no way to give up root's rights here; the message says what to do.
    """
    if os.geteuid() != 0:
        return ()
    nobody = pwd.getpwnam(UNPRIVILEGED).pw_uid
    if not (data.exists() and data.stat().st_uid == nobody):
        unshare = _unshare()
        if unshare is not None:
            return unshare
    return _setpriv(program, data)
