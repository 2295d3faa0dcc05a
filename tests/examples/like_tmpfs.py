#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Do the memfs examples do what the kernel's own filesystem in memory does?

    like_tmpfs.py [--seed N] [--steps N]

The same random calls go to a directory in /dev/shm and to a mount of each language's memfs. Every result, every
errno, and every few hundred calls the whole tree have to be the same. Prints [PASS], [FAIL] or [SKIP] for each.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SERVERS = {
    "c": ["build/examples/memfs"],
    "python": ["build/venv/bin/python", "examples/python/memfs.py"],
    "go": ["build/examples/go-memfs"],
}
NAMES = ["a", "b", "c", "d", "e", "f", "g" * 255]
RENAMES = [0, 0, 1, 2, 2, 3]  # nothing, NOREPLACE, EXCHANGE, both: which is refused
CHECK_EVERY = 400

libc = ctypes.CDLL(None, use_errno=True)

Step = tuple[str, Callable[[str], object]]


def renameat2(old: str, new: str, flags: int) -> None:
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def checksum(path: str) -> str:
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        return hashlib.md5(file.read(), usedforsecurity=False).hexdigest()


def write(path: str, flags: int, data: bytes, offset: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | flags, 0o644)
    try:
        return os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def unlinked(path: str, data: bytes) -> tuple[bytes, int]:
    """A file that is open and has no name any more goes on being a file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.unlink(path)
        os.write(fd, data)
        return os.pread(fd, len(data) + 1, 0), os.fstat(fd).st_nlink
    finally:
        os.close(fd)


def listing(path: str) -> list[str]:
    return sorted(os.listdir(path))


class Steps:
    """An endless, repeatable stream of calls. Each takes the directory that it works in."""

    def __init__(self, seed: int, privileged: bool, xattrs: bool) -> None:
        self.random = random.Random(seed)
        self.privileged = privileged
        self.xattrs = xattrs

    def path(self) -> str:
        pick = self.random.choice
        return "/".join(pick(NAMES) for _ in range(pick([1, 1, 2, 2, 3])))

    def next(self) -> Step:
        r = self.random
        p, q = self.path(), self.path()
        data = r.randbytes(r.choice([0, 1, 100, 5000, 70000]))
        place = r.randrange(200_000)
        mode = r.choice([0o644, 0o600, 0o755, 0o444, 0o4755, 0o2775, 0o1777])
        owner = r.choice([0, 1000])
        create = r.choice([0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_CREAT | os.O_TRUNC])
        flags = r.choice(RENAMES)
        xattr, how = f"user.{r.choice('abc')}", r.choice([0, os.XATTR_CREATE, os.XATTR_REPLACE])
        steps: list[tuple[int, Step]] = [
            (2, (f"mkdir {p}", lambda d: os.mkdir(d + p, mode & 0o777))),
            (1, (f"rmdir {p}", lambda d: os.rmdir(d + p))),
            (1, (f"unlink {p}", lambda d: os.unlink(d + p))),
            (1, (f"open, unlink, write, read {p}", lambda d: unlinked(d + p, data))),
            (4, (f"write {p} {create:o} {len(data)} at {place}", lambda d: write(d + p, create, data, place))),
            (2, (f"read {p}", lambda d: checksum(d + p))),
            (1, (f"list {p}", lambda d: listing(d + p))),
            (2, (f"rename {p} {q}", lambda d: os.rename(d + p, d + q))),
            (2, (f"renameat2 {p} {q} {flags}", lambda d: renameat2(d + p, d + q, flags))),
            (1, (f"link {p} {q}", lambda d: os.link(d + p, d + q, follow_symlinks=False))),
            (1, (f"symlink {p}", lambda d: os.symlink(q, d + p))),
            (1, (f"readlink {p}", lambda d: os.readlink(d + p))),
            (1, (f"mkfifo {p}", lambda d: os.mkfifo(d + p, 0o644))),
            (1, (f"chmod {p} {mode:o}", lambda d: os.chmod(d + p, mode))),
            (1, (f"truncate {p} {place}", lambda d: os.truncate(d + p, place))),
            (1, (f"utime {p}", lambda d: os.utime(d + p, ns=(place * 10**9 + 5, place * 10**9 + 7)))),
        ]
        if self.privileged:
            steps += [
                (1, (f"chown {p} {owner}", lambda d: os.chown(d + p, owner, owner, follow_symlinks=False))),
                (1, (f"mknod {p}", lambda d: os.mknod(d + p, stat.S_IFCHR | 0o600, os.makedev(1, 300)))),
            ]
        if self.xattrs:
            steps += [
                (1, (f"setxattr {p} {xattr} {how}", lambda d: os.setxattr(d + p, xattr, data[:3000], how))),
                (1, (f"getxattr {p} {xattr}", lambda d: os.getxattr(d + p, xattr))),
                (1, (f"listxattr {p}", lambda d: sorted(x for x in os.listxattr(d + p) if x.startswith("user.")))),
                (1, (f"removexattr {p} {xattr}", lambda d: os.removexattr(d + p, xattr))),
            ]
        return r.choices([step for _, step in steps], [weight for weight, _ in steps])[0]


def outcome(step: Step, directory: str) -> object:
    try:
        return step[1](directory)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, error.errno)


def describe(path: str) -> tuple[object, ...]:
    info = os.lstat(path)
    kind = stat.S_IFMT(info.st_mode)
    facts = (oct(info.st_mode), info.st_nlink, info.st_uid, info.st_gid, info.st_rdev)
    if kind == stat.S_IFREG:
        # Times that utime() set; the others are of different moments.
        set_time = info.st_mtime_ns if info.st_mtime < 300_000 else None
        return (*facts, info.st_size, set_time, checksum(path))
    return (*facts, os.readlink(path)) if kind == stat.S_IFLNK else facts


def tree(directory: str) -> dict[str, tuple[object, ...]]:
    found = {}
    for where, directories, files in os.walk(directory):
        for name in directories + files:
            path = f"{where}/{name}"
            found[path[len(directory) :]] = describe(path)
    return found


def compare(seed: int, count: int, reference: str, mount: str, privileged: bool, xattrs: bool) -> str | None:
    """None, or the first difference."""
    steps = Steps(seed, privileged, xattrs)
    for number in range(1, count + 1):
        step = steps.next()
        want, got = outcome(step, reference), outcome(step, mount)
        if want != got:
            return f"step {number}: {step[0]}: {got!r:.200} instead of {want!r:.200}"
        if number % CHECK_EVERY == 0 or number == count:
            wanted, found = tree(reference), tree(mount)
            for path in sorted(wanted.keys() | found.keys()):
                if wanted.get(path) != found.get(path):
                    return f"after step {number}: {path}: {found.get(path)} instead of {wanted.get(path)}"
    return None


def is_mounted(path: str) -> bool:
    return any(line.split(" ")[4] == path for line in Path("/proc/self/mountinfo").read_text().splitlines())


def takes_xattrs(directory: str) -> bool:
    try:
        os.setxattr(directory, "user.probe", b"")
    except OSError:
        return False
    os.removexattr(directory, "user.probe")
    return True


def try_server(language: str, seed: int, steps: int) -> str | None:
    """Serve, compare in a process of its own, end. None, or what is wrong."""
    privileged = os.geteuid() == 0
    base = tempfile.mkdtemp(prefix="mf-like-", dir="/dev/shm")
    mountpoint = tempfile.mkdtemp(prefix="mf-mount-")
    options = "default_permissions" + (",dev" if privileged else "")
    command = [*SERVERS[language], mountpoint, "--readers", "3", "-o", options]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    umount = ["umount"] if privileged else ["fusermount3", "-u"]
    try:
        end = time.monotonic() + 20
        while not is_mounted(mountpoint):
            if server.poll() is not None or time.monotonic() > end:
                return "it did not mount"
            time.sleep(0.02)
        client = [sys.executable, __file__, "--client", base + "/", mountpoint + "/", str(seed), str(steps)]
        done = subprocess.run(client, capture_output=True, text=True, timeout=100, check=False)
        if done.returncode != 0:
            return (done.stdout or done.stderr).strip()[-600:]
        subprocess.run([*umount, mountpoint], timeout=20, check=True)
        status = server.wait(20)
        return f"the server ended with status {status}" if status else None
    except subprocess.SubprocessError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        if server.poll() is None:
            server.kill()  # its descriptors close, so whoever waits for it gets an error
            subprocess.run([*umount, "-l" if privileged else "-z", mountpoint], timeout=20, check=False)
            server.wait(20)
        shutil.rmtree(base, ignore_errors=True)
        os.rmdir(mountpoint)


def main() -> int:
    if sys.argv[1:2] == ["--client"]:
        reference, mount, seed, steps = sys.argv[2:]
        os.umask(0o022)
        difference = compare(int(seed), int(steps), reference, mount, os.geteuid() == 0, takes_xattrs(reference))
        print(difference or "the same")
        return 1 if difference else 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    bad = 0
    for language, command in SERVERS.items():
        test = f"examples::memfs_{language}_does_what_tmpfs_does"
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            print(f"[SKIP] {test}: needs /dev/fuse, which is missing here or not ours")
        elif not all((ROOT / part).exists() for part in command):
            print(f"[FAIL] {test}: {' '.join(command)} is not built")
            bad = 1
        else:
            problem = try_server(language, args.seed, args.steps)
            print(f"[FAIL] {test}: seed {args.seed}: {problem}" if problem else f"[PASS] {test}", flush=True)
            bad |= problem is not None
    return bad


if __name__ == "__main__":
    sys.exit(main())
