# SPDX-License-Identifier: MIT
"""The filesystem's side: one method per operation."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Optional, Union

from manifuse.types import Attr, Dirent, Entry, FileSlice, Open, SetAttr, Statfs

__all__ = ["InodeFS"]


def _missing() -> OSError:
    return OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


class InodeFS:
    """A filesystem of nodes: subclass it, define the operations that it has, leave out the others.

    An operation that the subclass does not define never enters Python: it is answered in C with ENOSYS, which
    the kernel understands as it should (no flush, no need to open, no extended attributes) and mostly does not
    ask again. So do not define what does nothing.

    *Arguments* come by position, in the order of the methods below. Some operations have further arguments
    that a handler gets by naming them after the others, in this order: ``getattr(node, fh)``, ``readdir(node,
    fh, offset)``, ``read(..., flags, lock_owner)``, ``write(..., flags, lock_owner)``, ``flush(node, fh,
    lock_owner)``, ``release(node, fh, flags, lock_owner)``, ``releasedir(node, fh, flags)``. Signatures are
    looked at once, when the session is made. Names are ``str`` as ``os.fsdecode`` makes them: bytes that are
    no UTF-8 survive the way there and back. A node is the number that an earlier :class:`Entry` gave, 1 being
    the root directory. What is rare, such as the caller's uid, is at :func:`manifuse.context`.

    *Errors*: raise ``OSError`` with an errno, or ``FileNotFoundError`` and its like without arguments. Any
    other ``Exception`` is EIO and a traceback in the log of ``logging.getLogger("manifuse")``; so is an answer
    of a wrong type or out of range. ``KeyboardInterrupt`` and ``SystemExit`` end the session and are raised
    again by :meth:`Session.run`.

    *Threads*: handlers run on the session's reader threads, several at once unless ``readers=1``.
    """

    #: Seconds for which the kernel may keep the attributes that getattr and setattr answer as a bare Attr.
    attr_timeout: float = 0.0

    #: True: write gets its data as a read-only memoryview of the engine's memory instead of a copy in bytes.
    #: The view is released when the handler returns; slices of it must not be kept beyond that.
    write_views: bool = False

    # ---- names

    def lookup(self, parent: int, name: str) -> Entry:
        """Find a name in a directory.

        Args:
            parent: node of the directory.
            name: the name.

        Returns:
            The entry, which gives the kernel one reference to its node; or :meth:`Entry.negative`, such as
            NEGATIVE, to let the kernel remember that there is no such name.

        Errors: ENOENT there is no such name; ENOTDIR. See path_resolution(7).
        """
        raise _missing()

    def forget(self, node: int, nlookup: int) -> None:
        """The kernel drops `nlookup` of its references to a node; at zero the node id may be used again.

        References are those of each Entry that was answered. Not sent for what is still cached at the end of
        the mount. Takes no answer; an exception is only logged.
        """
        raise _missing()

    def forget_many(self, items: list[tuple[int, int]]) -> None:
        """Many :meth:`forget` at once: (node, nlookup) each. Define this or forget, not both."""
        raise _missing()

    def symlink(self, parent: int, name: str, target: str) -> Entry:
        """Make a symbolic link `name` in `parent` to `target`. See symlink(2).

        Errors: EEXIST, ENOSPC, EROFS.
        """
        raise _missing()

    def mknod(self, parent: int, name: str, mode: int, rdev: int) -> Entry:
        """Make a file, device, FIFO or socket. See mknod(2).

        Args:
            parent: node of the directory.
            name: its new name.
            mode: type and permissions; the caller's umask is applied already.
            rdev: device number, of devices.

        Also asked for regular files where :meth:`create` is not defined.
        """
        raise _missing()

    def mkdir(self, parent: int, name: str, mode: int) -> Entry:
        """Make a directory with these permission bits; the umask is applied already. See mkdir(2)."""
        raise _missing()

    def unlink(self, parent: int, name: str) -> None:
        """Remove a name of what is no directory. The node lives on until it is forgotten. See unlink(2)."""
        raise _missing()

    def rmdir(self, parent: int, name: str) -> None:
        """Remove an empty directory. Errors: ENOTEMPTY, ENOENT, ENOTDIR. See rmdir(2)."""
        raise _missing()

    def rename(self, parent: int, name: str, newparent: int, newname: str, flags: int) -> None:
        """Move a name, replacing the new one. See rename(2).

        Args:
            parent: node of the directory that has `name`.
            name: the name.
            newparent: node of the directory that gets `newname`.
            newname: the new name.
            flags: 0, RENAME_NOREPLACE (1), RENAME_EXCHANGE (2). Answer EINVAL to what is not known.
        """
        raise _missing()

    def link(self, node: int, newparent: int, newname: str) -> Entry:
        """Give a node a further name. The Entry is that of the same node. See link(2)."""
        raise _missing()

    def readlink(self, node: int) -> Union[str, bytes]:
        """The target of a symbolic link, at most 4,095 bytes. See readlink(2)."""
        raise _missing()

    # ---- attributes

    def getattr(self, node: int) -> Union[Attr, Entry]:
        """The attributes of a node. See stat(2).

        May take a second argument `fh`: the file handle through which it is asked, or None.

        Returns:
            An Attr, kept by the kernel for :attr:`attr_timeout` seconds, or an Entry, whose attributes and
            time-out for them count and whose reference does not.
        """
        raise _missing()

    def setattr(self, node: int, changes: SetAttr) -> Union[Attr, Entry]:
        """Change attributes; also truncation and utimensat(2). Returns the new ones as :meth:`getattr` does.

        Errors: EPERM, EROFS, EFBIG. See chmod(2), chown(2), truncate(2), utimensat(2).
        """
        raise _missing()

    def access(self, node: int, mask: int) -> None:
        """May the caller (:func:`manifuse.context`) do this: mask of os.R_OK, os.W_OK, os.X_OK? See access(2).

        Asked for access(2) and chdir(2) alone, and not with the mount option default_permissions. Errors: EACCES.
        """
        raise _missing()

    # ---- files

    def open(self, node: int, flags: int) -> Union[Open, int, None]:
        """Open a file. See open(2).

        Args:
            node: the file.
            flags: of open(2), without O_CREAT, O_EXCL, O_NOCTTY; with O_TRUNC the file is to be emptied.

        Returns:
            An :class:`Open`, or a file handle, or None for file handle 0. Not defined: every open succeeds.
        """
        raise _missing()

    def create(self, parent: int, name: str, mode: int, flags: int) -> tuple[Entry, Union[Open, int, None]]:
        """Make a regular file and open it; open it too if it is there by now and O_EXCL is not in `flags`.

        Not defined: the kernel asks :meth:`mknod` and :meth:`open`. See open(2).
        """
        raise _missing()

    def read(self, node: int, fh: int, offset: int, size: int) -> Union[bytes, bytearray, memoryview, FileSlice]:
        """Bytes of an open file. See pread(2).

        Args:
            node: the file.
            fh: file handle that open or create answered.
            offset: first byte.
            size: how many bytes.

        Returns:
            At most `size` bytes; fewer mean the end of the file (unless it was opened with direct_io). `bytes`
            are sent from where they are, other buffers are copied once. A :class:`FileSlice` lets the engine
            read them from a descriptor.
        """
        raise _missing()

    def write(self, node: int, fh: int, offset: int, data: bytes) -> Optional[int]:
        """Write to an open file. See pwrite(2).

        Args:
            node: the file.
            fh: file handle.
            offset: where the first byte goes.
            data: the bytes; see :attr:`write_views` for doing without a copy.

        Returns:
            How many bytes were written; None = all. Errors: ENOSPC, EFBIG, EDQUOT.
        """
        raise _missing()

    def flush(self, node: int, fh: int) -> None:
        """A descriptor of the open file is closed; there may be others. Its errors are close(2)'s."""
        raise _missing()

    def release(self, node: int, fh: int) -> None:
        """The last use of an open file is over: forget `fh`. Comes after close(2) has returned."""
        raise _missing()

    def fsync(self, node: int, fh: int, datasync: bool) -> None:
        """Bring a file to its storage; with `datasync` its data alone. See fsync(2)."""
        raise _missing()

    # ---- directories

    def opendir(self, node: int, flags: int) -> Union[Open, int, None]:
        """Open a directory; answers as :meth:`open` does.

        Not defined: opening always succeeds, and the kernel keeps the listing until it sees the directory
        change through this mount or by its mtime. Define it where names come and go by themselves.
        """
        raise _missing()

    def readdir(self, node: int) -> Iterable[Dirent]:
        """The names of a directory, as any iterable; a generator is asked only for what fits the reply.

        "." and ".." are added. Up to 64 iterators are kept between the calls that read one directory; at
        another place than the last the handler is called again and entries are passed over. May take `fh`,
        or `fh` and `offset`: with `offset` the handler itself goes on after the entry of which
        :attr:`Dirent.next` was that, 0 being the start, and "." and ".." are its own to give.
        """
        raise _missing()

    def releasedir(self, node: int, fh: int) -> None:
        """An open directory is closed: forget `fh`."""
        raise _missing()

    def fsyncdir(self, node: int, fh: int, datasync: bool) -> None:
        """Bring a directory to its storage."""
        raise _missing()

    # ---- the whole

    def statfs(self, node: int) -> Statfs:
        """Size and room of the filesystem. See statvfs(3). Not defined: all zero."""
        raise _missing()

    # ---- extended attributes

    def setxattr(self, node: int, name: str, value: bytes, flags: int) -> None:
        """Set an extended attribute. `flags`: os.XATTR_CREATE (EEXIST), os.XATTR_REPLACE (ENODATA).

        See setxattr(2). Not defined: EOPNOTSUPP.
        """
        raise _missing()

    def getxattr(self, node: int, name: str) -> Union[bytes, bytearray, memoryview]:
        """The whole value; ERANGE is the binding's business. Errors: ENODATA. See getxattr(2)."""
        raise _missing()

    def listxattr(self, node: int) -> Iterable[str]:
        """The names of a node's extended attributes. See listxattr(2)."""
        raise _missing()

    def removexattr(self, node: int, name: str) -> None:
        """Remove an extended attribute. Errors: ENODATA. See removexattr(2)."""
        raise _missing()

    # ---- around requests

    def interrupt(self, unique: int) -> None:
        """The caller of request `unique` (:attr:`Context.unique`) gave up. On a reader thread: do not block.

        :meth:`Context.on_interrupt` does the same for one request.
        """
        raise _missing()

    def reader_start(self, reader: int) -> None:
        """A reader thread begins: called on it, before its first request."""

    def reader_end(self, reader: int) -> None:
        """A reader thread ends: called on it, after its last request."""

    def destroy(self) -> None:
        """The session is over and no handler runs any more; called once, on the thread that ran it."""
