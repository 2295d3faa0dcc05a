package manifuse

import (
	"syscall"
	"time"

	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// NodeID is what a filesystem calls one of its files or directories. The kernel gives it back in requests.
type NodeID uint64

// Root is the node of the mount's root directory.
const Root NodeID = 1

// Handle is an open file as the filesystem's Open or Create named it; the kernel gives it back in requests.
type Handle uint64

// NoHandle is the handle of requests that name none.
const NoHandle Handle = Handle(raw.NoFh)

// Attr describes a node. Its layout is the kernel's, so that answering it is one copy.
type Attr struct {
	Ino       uint64 // st_ino; 0 = the node id
	Size      uint64 // bytes
	Blocks    uint64 // units of 512 bytes
	Atime     int64  // seconds
	Mtime     int64  // seconds
	Ctime     int64  // seconds
	AtimeNsec uint32
	MtimeNsec uint32
	CtimeNsec uint32
	Mode      uint32 // S_IFMT and permission bits; the type never changes in a node's life
	Nlink     uint32
	UID       uint32
	GID       uint32
	Rdev      uint32 // as makedev(3) for small numbers: minor & 0xff | major << 8 | (minor &^ 0xff) << 12
	Blksize   uint32 // preferred size of I/O; 0 = the kernel's own
	Flags     uint32 // 0

	// Timeout is how long the kernel may answer from this Attr without asking. 0 = not at all; inside an
	// [Entry], 0 = the entry's own Timeout and a negative value = not at all.
	Timeout time.Duration
}

// SetTimes sets the time of the last access, change of data and change of attributes.
func (a *Attr) SetTimes(atime, mtime, ctime time.Time) {
	a.Atime, a.AtimeNsec = atime.Unix(), uint32(atime.Nanosecond())
	a.Mtime, a.MtimeNsec = mtime.Unix(), uint32(mtime.Nanosecond())
	a.Ctime, a.CtimeNsec = ctime.Unix(), uint32(ctime.Nanosecond())
}

// ModTime is Mtime and MtimeNsec.
func (a *Attr) ModTime() time.Time { return time.Unix(a.Mtime, int64(a.MtimeNsec)) }

// AccessTime is Atime and AtimeNsec.
func (a *Attr) AccessTime() time.Time { return time.Unix(a.Atime, int64(a.AtimeNsec)) }

// IsDir says whether it is a directory's.
func (a *Attr) IsDir() bool { return a.Mode&syscall.S_IFMT == syscall.S_IFDIR }

// Entry is a node found or made under a name. Each Entry that the kernel gets is a reference to the node, which
// Forget gives back.
type Entry struct {
	Node       NodeID // 0, from Lookup: there is no such name, and the kernel may remember that for Timeout
	Generation uint64 // Node and Generation together are never used twice
	Attr       Attr
	Timeout    time.Duration // how long the kernel may use the name, and Attr unless that says otherwise
}

// Open is an open file or directory.
type Open struct {
	Handle    Handle
	Flags     OpenFlags
	BackingID int32 // with OpenPassthrough
}

// OpenFlags say how the kernel treats an open file.
type OpenFlags uint32

// How the kernel treats an open file.
const (
	OpenDirectIO             OpenFlags = 1 << 0 // no page cache
	OpenKeepCache            OpenFlags = 1 << 1 // what is cached stays valid over this open
	OpenNonseekable          OpenFlags = 1 << 2
	OpenCacheDir             OpenFlags = 1 << 3 // the kernel may cache the listing
	OpenStream               OpenFlags = 1 << 4 // no file position at all
	OpenNoFlush              OpenFlags = 1 << 5 // no Flush at close
	OpenParallelDirectWrites OpenFlags = 1 << 6 // with OpenDirectIO
	OpenPassthrough          OpenFlags = 1 << 7 // data go to BackingID in the kernel
)

// SetFlags say which fields of SetAttr.Attr count.
type SetFlags uint32

// Which fields of SetAttr.Attr count.
const (
	SetMode      SetFlags = 1 << 0
	SetUID       SetFlags = 1 << 1
	SetGID       SetFlags = 1 << 2
	SetSize      SetFlags = 1 << 3
	SetAtime     SetFlags = 1 << 4
	SetMtime     SetFlags = 1 << 5
	SetAtimeNow  SetFlags = 1 << 7 // the current time; the kernel has put it into Attr too
	SetMtimeNow  SetFlags = 1 << 8
	SetLockOwner SetFlags = 1 << 9
	SetCtime     SetFlags = 1 << 10
	KillSuidGid  SetFlags = 1 << 11 // drop the set-user-id and set-group-id bits
)

// SetAttr is a wanted change of attributes.
type SetAttr struct {
	Valid SetFlags
	Attr  Attr
}

// Apply copies what counts into a. Times "now" are now.
func (s *SetAttr) Apply(a *Attr) {
	if s.Valid&SetMode != 0 {
		a.Mode = a.Mode&syscall.S_IFMT | s.Attr.Mode&^uint32(syscall.S_IFMT)
	}
	if s.Valid&SetUID != 0 {
		a.UID = s.Attr.UID
	}
	if s.Valid&SetGID != 0 {
		a.GID = s.Attr.GID
	}
	if s.Valid&SetSize != 0 {
		a.Size = s.Attr.Size
	}
	now := time.Now()
	if s.Valid&SetAtimeNow != 0 {
		a.Atime, a.AtimeNsec = now.Unix(), uint32(now.Nanosecond())
	} else if s.Valid&SetAtime != 0 {
		a.Atime, a.AtimeNsec = s.Attr.Atime, s.Attr.AtimeNsec
	}
	if s.Valid&SetMtimeNow != 0 {
		a.Mtime, a.MtimeNsec = now.Unix(), uint32(now.Nanosecond())
	} else if s.Valid&SetMtime != 0 {
		a.Mtime, a.MtimeNsec = s.Attr.Mtime, s.Attr.MtimeNsec
	}
	if s.Valid&SetCtime != 0 {
		a.Ctime, a.CtimeNsec = s.Attr.Ctime, s.Attr.CtimeNsec
	} else {
		a.Ctime, a.CtimeNsec = now.Unix(), uint32(now.Nanosecond())
	}
}

// Statfs describes the filesystem as a whole.
type Statfs struct {
	Blocks  uint64 // all, free and available ones, in units of Frsize
	Bfree   uint64
	Bavail  uint64
	Files   uint64 // nodes, and free ones
	Ffree   uint64
	Bsize   uint32 // preferred size of I/O
	Namelen uint32 // longest name
	Frsize  uint32
}

// Forgotten is one element of a batch: the kernel drops Lookups of the references that entries gave it.
type Forgotten struct {
	Node    NodeID
	Lookups uint64
}

// Dirent is one name of a directory.
type Dirent struct {
	Name string
	Ino  uint64
	Type uint32 // S_IFMT bits; 0 = unknown
}
