package raw

import "unsafe"

// The structures of the interface, field by field as C lays them out; layout_check.go refuses to compile
// where one differs. They are mirrors and not cgo's own types because cgo keeps C's names, which other
// packages could not reach. Fields that hold addresses of the engine's memory are unsafe.Pointer where Go
// reads them and uintptr where Go writes them: the collector then has nothing to do with them.

// Attr is struct mf_attr.
type Attr struct {
	Ino, Size, Blocks               uint64
	Atime, Mtime, Ctime             int64
	Atimensec, Mtimensec, Ctimensec uint32
	Mode, Nlink, UID, GID, Rdev     uint32
	Blksize, Flags                  uint32
}

// Entry is struct mf_entry.
type Entry struct {
	StructSize, Reserved      uint32
	Node, Generation          uint64
	EntryTimeout, AttrTimeout uint64
	Attr                      Attr
}

// Open is struct mf_open.
type Open struct {
	StructSize, Flags uint32
	Fh                uint64
	BackingID         int32
	Reserved          uint32
}

// Statfs is struct mf_statfs.
type Statfs struct {
	StructSize, Reserved                uint32
	Blocks, Bfree, Bavail, Files, Ffree uint64
	Bsize, Namelen, Frsize, Reserved2   uint32
}

// Lock is struct mf_lock.
type Lock struct {
	Start, End uint64
	Type, PID  uint32
}

// Forget is struct mf_forget.
type Forget struct {
	Node, Nlookup uint64
}

// Answer is struct mf_answer. Data is an address that outlives the upcall, never one of Go's.
type Answer struct {
	Node, Generation          uint64
	EntryTimeout, AttrTimeout uint64
	Attr                      Attr
	Fh                        uint64
	OpenFlags                 uint32
	BackingID                 int32
	Data                      uintptr
	DataLen, DataOffset       uint64
	DataFD                    int32
	Flags                     uint32
	Value                     uint64
}

// Call is struct mf_call. It lives in the engine's memory and dies with the answer.
type Call struct {
	StructSize, Op                                 uint32
	Unique, Node, Fh, Offset, Length               uint64
	Node2, Fh2, Offset2, LockOwner                 uint64
	Name, Name2, Data                              unsafe.Pointer
	NameLen, Name2Len, Flags, OpFlags              uint32
	Mode, Rdev, Umask, Valid, UID, GID, PID, Again uint32
	Attr                                           Attr
	Buf                                            unsafe.Pointer
	BufSize                                        uint64
	Req, Session                                   uintptr
	Reader, Reserved                               uint32
	Answer                                         Answer
}

// Error is struct mf_error.
type Error struct {
	StructSize uint32
	Code       int32
	Text       [504]byte
}

// Negotiated is struct mf_negotiated.
type Negotiated struct {
	StructSize, Version, Major, Minor, KernelMinor            uint32
	MaxWrite, MaxPages, MaxReadahead, MaxBackground, TimeGran uint32
	Flags, Offered, Implemented                               uint64
	ACL, OwnerUID, OwnerGID, Transport                        uint32
	Connection                                                uint64
}

// Info is struct mf_info.
type Info struct {
	StructSize, Readers, Channels, Transport uint32
	CloneError, FailedReaders                uint32
	Connection                               uint64
	CloneReason, TransportReason             [128]byte
	Growths, Shrinks                         uint64
	Placement                                [128]byte
}

// OpStats is struct mf_op_stats.
type OpStats struct {
	Requests, Errors, BytesIn, BytesOut uint64
}

// ReaderStats is struct mf_reader_stats.
type ReaderStats struct {
	StructSize, Reader                           uint32
	FD                                           int32
	TID                                          uint32
	Requests, Replies, Errors, BytesIn, BytesOut uint64
	InFlight, Wakeups                            uint64
	Malformed, Forgotten, Interrupts             uint64
	Ops                                          [64]OpStats
	Latency                                      [32]uint64
}

// VkernelOpts is struct mf_vkernel_opts.
type VkernelOpts struct {
	StructSize, Minor       uint32
	Flags                   uint64
	CloneFailAt, CloneErrno uint32
	UID, GID, PID, Queues   uint32
}
