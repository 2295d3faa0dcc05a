package manifuse

// Defaults may be embedded by a filesystem to say what it is. It has no methods: an operation that the
// filesystem does not have is answered in C, and for many of them the kernel remembers that and stops asking.
type Defaults struct{}

// One interface per operation. They are asserted once, by [New]. All methods may run on several threads at once.
type (
	// Lookuper finds a name in a directory. An error of ENOENT is not remembered by the kernel, an [Entry]
	// with Node 0 and a Timeout is.
	Lookuper interface {
		Lookup(r *Request, parent NodeID, name string) (Entry, error)
	}
	// Forgetter is told that the kernel dropped some of the references that entries gave it. When none is left,
	// it asks no more about the node. What is cached when the mount ends is not forgotten first.
	Forgetter interface {
		Forget(r *Request, node NodeID, lookups uint64)
	}
	// ManyForgetter is a Forgetter that takes a batch at once. The slice is valid until the method returns.
	ManyForgetter interface {
		ForgetMany(r *Request, nodes []Forgotten)
	}
	// Getattrer tells a node's attributes. The handle is NoHandle unless an open file was asked.
	Getattrer interface {
		Getattr(r *Request, node NodeID, fh Handle) (Attr, error)
	}
	// Setattrer changes attributes and tells the new ones.
	Setattrer interface {
		Setattr(r *Request, node NodeID, fh Handle, set *SetAttr) (Attr, error)
	}
	// Readlinker tells a symbolic link's target: at most 4095 bytes and no NUL.
	Readlinker interface {
		Readlink(r *Request, node NodeID) (string, error)
	}
	// Symlinker makes a symbolic link.
	Symlinker interface {
		Symlink(r *Request, parent NodeID, name, target string) (Entry, error)
	}
	// Mknoder makes a node that is no directory: the type is in mode.
	Mknoder interface {
		Mknod(r *Request, parent NodeID, name string, mode, rdev uint32) (Entry, error)
	}
	// Mkdirer makes a directory. Mode has no type.
	Mkdirer interface {
		Mkdir(r *Request, parent NodeID, name string, mode uint32) (Entry, error)
	}
	// Unlinker removes a name that is no directory's.
	Unlinker interface {
		Unlink(r *Request, parent NodeID, name string) error
	}
	// Rmdirer removes an empty directory.
	Rmdirer interface {
		Rmdir(r *Request, parent NodeID, name string) error
	}
	// Renamer moves a name. Flags are renameat2(2)'s: 0, RENAME_NOREPLACE (1) or RENAME_EXCHANGE (2).
	Renamer interface {
		Rename(r *Request, parent NodeID, name string, newParent NodeID, newName string, flags uint32) error
	}
	// Linker gives a node a further name.
	Linker interface {
		Link(r *Request, node, newParent NodeID, newName string) (Entry, error)
	}
	// Opener opens a file. Flags are open(2)'s. Without it every open succeeds with handle 0.
	Opener interface {
		Open(r *Request, node NodeID, flags uint32) (Open, error)
	}
	// Creater makes a file and opens it. Without it the kernel uses Mknod and Open.
	Creater interface {
		Create(r *Request, parent NodeID, name string, mode, flags uint32) (Entry, Open, error)
	}
	// Reader fills dst from offset off and tells how many bytes it filled: fewer than asked mean the end of
	// the file, as does io.EOF. dst is the engine's memory and what it holds before is undefined.
	// [Request.AnswerFD] and [Request.AnswerMapped] answer with bytes that never enter Go.
	Reader interface {
		Read(r *Request, node NodeID, fh Handle, dst []byte, off int64) (int, error)
	}
	// Writer writes src at offset off and tells how many bytes it took.
	Writer interface {
		Write(r *Request, node NodeID, fh Handle, src []byte, off int64) (int, error)
	}
	// Flusher is told of each close(2) of a descriptor of the file.
	Flusher interface {
		Flush(r *Request, node NodeID, fh Handle) error
	}
	// Releaser is told that an open file is no longer in use: once per Open or Create. Nobody sees its error.
	Releaser interface {
		Release(r *Request, node NodeID, fh Handle, flags uint32) error
	}
	// Fsyncer makes a file's content permanent; its attributes too unless dataOnly.
	Fsyncer interface {
		Fsync(r *Request, node NodeID, fh Handle, dataOnly bool) error
	}
	// Opendirer opens a directory. Without it every opendir succeeds with handle 0.
	Opendirer interface {
		Opendir(r *Request, node NodeID, flags uint32) (Open, error)
	}
	// Readdirer adds names to d from position off, until it is full or there are no more. Position 0 is the
	// start; others are what was given to d.Add with the last name that the kernel took.
	Readdirer interface {
		Readdir(r *Request, node NodeID, fh Handle, off uint64, d *DirBuffer) error
	}
	// Releasedirer is told that an open directory is no longer in use.
	Releasedirer interface {
		Releasedir(r *Request, node NodeID, fh Handle, flags uint32) error
	}
	// Fsyncdirer makes a directory's content permanent.
	Fsyncdirer interface {
		Fsyncdir(r *Request, node NodeID, fh Handle, dataOnly bool) error
	}
	// Statfser describes the filesystem as a whole.
	Statfser interface {
		Statfs(r *Request, node NodeID) (Statfs, error)
	}
	// Accesser checks access(2): mask is of R_OK, W_OK and X_OK. Not asked with default_permissions.
	Accesser interface {
		Access(r *Request, node NodeID, mask uint32) error
	}
	// Setxattrer sets an extended attribute. Flags: 0, XATTR_CREATE (1) or XATTR_REPLACE (2).
	Setxattrer interface {
		Setxattr(r *Request, node NodeID, name string, value []byte, flags uint32) error
	}
	// Getxattrer tells the value of an extended attribute; ENODATA where there is none. The engine answers
	// questions about the size and ERANGE from it.
	Getxattrer interface {
		Getxattr(r *Request, node NodeID, name string) ([]byte, error)
	}
	// Listxattrer tells the names of a node's extended attributes.
	Listxattrer interface {
		Listxattr(r *Request, node NodeID) ([]string, error)
	}
	// Removexattrer removes an extended attribute.
	Removexattrer interface {
		Removexattr(r *Request, node NodeID, name string) error
	}
	// Destroyer is told that the session is over: once, when no other method runs any more.
	Destroyer interface {
		Destroy()
	}
)
