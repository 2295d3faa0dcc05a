package manifuse

import (
	"context"
	"hash/maphash"
	"unsafe"

	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// Request is the request that a method answers: who asks, and ways to answer other than by returning. It is
// valid until the method returns and belongs to the goroutine that runs the method.
type Request struct {
	UID, GID uint32 // of the caller; 0 where the kernel itself asks
	PID      uint32 // the calling thread in the mounter's pid namespace; 0 = the kernel, or unknown
	Umask    uint32 // of the caller, where something is made
	Again    bool   // this request may have been executed before

	call     *raw.Call
	srv      *server
	ctx      *requestContext
	reply    *Reply
	answered bool // by AnswerFD or AnswerMapped
}

func (r *Request) begin(c *raw.Call) {
	r.UID, r.GID, r.PID, r.Umask, r.Again = c.UID, c.GID, c.PID, c.Umask, c.Again != 0
	r.call = c
	r.answered = false
}

// end leaves nothing behind that a late user of the request could mistake for a request.
func (r *Request) end() {
	if r.ctx != nil {
		if r.reply == nil {
			r.ctx.end()
		}
		r.ctx = nil
	}
	r.reply = nil
	r.call = nil
}

// Op is the operation's name in capitals, "LOOKUP".
func (r *Request) Op() string { return raw.OpName(r.call.Op) }

// Unique is the kernel's number of the request. A request that is sent again after a restart keeps it.
func (r *Request) Unique() uint64 { return r.call.Unique }

// Reader is the index of the reader that runs the method.
func (r *Request) Reader() int { return int(r.call.Reader) }

// LockOwner names the owner of locks in Read, Write, Flush and Release.
func (r *Request) LockOwner() uint64 { return r.call.LockOwner }

// OpFlags are the kernel's own flags of the operation (FUSE_READ_*, FUSE_WRITE_*, FUSE_RELEASE_* and so on).
func (r *Request) OpFlags() uint32 { return r.call.OpFlags }

// FileFlags are the open(2) flags that the file has now, in Read and Write.
func (r *Request) FileFlags() uint32 { return r.call.Flags }

// Interrupted says whether the caller has given up: EINTR is the answer then.
func (r *Request) Interrupted() bool {
	if r.ctx != nil && r.ctx.Err() != nil {
		return true
	}
	return raw.MfReqInterrupted(r.call.Req) == 1
}

// Context is cancelled when the caller gives up, when the session stops, and when the request is answered. It is
// made when it is first asked for, below the context that the session runs with. Unlike the Request it may be kept.
func (r *Request) Context() context.Context {
	if r.ctx == nil {
		r.ctx = r.srv.newContext(r.call)
	}
	return r.ctx
}

// AnswerFD makes the answer to a Read: up to n bytes of a file from offset off, fewer where it ends. The engine
// reads them, and Go never sees them. Call it in Read and return 0 and nil; fd must stay open until the request
// is answered, which a file that Release closes does.
func (r *Request) AnswerFD(fd uintptr, off int64, n int) {
	a := &r.call.Answer
	a.DataFD = int32(fd)
	a.DataOffset = uint64(off)
	a.DataLen = uint64(max(n, 0))
	a.Flags = raw.AnswerFD
	r.answered = true
}

// AnswerMapped makes the answer to a Read from memory that is not Go's, such as syscall.Mmap returns: it is
// copied to the kernel from where it is. Call it in Read and return 0 and nil; b must stay mapped until the
// request is answered. Memory that Go allocated may not be given here; copy it into dst instead.
func (r *Request) AnswerMapped(b []byte) {
	a := &r.call.Answer
	a.Data = uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	a.DataLen = uint64(len(b))
	r.answered = true
}

// requestContext is a context that the engine's interrupts find by the request's number.
type requestContext struct {
	context.Context
	cancel context.CancelFunc
	unique uint64
	srv    *server
}

func (s *server) newContext(c *raw.Call) *requestContext {
	rc := &requestContext{unique: c.Unique, srv: s}
	rc.Context, rc.cancel = context.WithCancel(*s.base.Load())
	s.waitingMu.Lock()
	s.waiting[c.Unique] = rc
	s.waitingMu.Unlock()
	if raw.MfReqInterrupted(c.Req) == 1 { // before anybody could hear of it
		rc.cancel()
	}
	return rc
}

func (rc *requestContext) end() {
	rc.srv.waitingMu.Lock()
	if rc.srv.waiting[rc.unique] == rc {
		delete(rc.srv.waiting, rc.unique)
	}
	rc.srv.waitingMu.Unlock()
	rc.cancel()
}

// nameCache makes strings of the engine's bytes without allocating for names that a reader has seen lately.
// The strings are Go's own: unlike the bytes they may be kept. A reader has one to itself.
type nameCache struct {
	seed  maphash.Seed
	slots []string
}

const (
	nameSlots  = 2048 // a power of two
	nameLength = 64   // longer names are not kept, so that memory stays under 160 KiB for each reader
)

func (n *nameCache) get(p unsafe.Pointer, length uint32) string {
	b := unsafe.Slice((*byte)(p), length)
	if length > nameLength {
		return string(b)
	}
	if n.slots == nil {
		n.seed, n.slots = maphash.MakeSeed(), make([]string, nameSlots)
	}
	slot := &n.slots[maphash.Bytes(n.seed, b)%nameSlots]
	if *slot != string(b) {
		*slot = string(b)
	}
	return *slot
}
