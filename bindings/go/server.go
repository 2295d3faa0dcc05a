package manifuse

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// server is what the engine calls: a filesystem's methods in a table by operation, and what each reader keeps
// between requests. It knows nothing of the Session, so that a forgotten one can be collected.
type server struct {
	table [64]func(*server, *readerState, *raw.Call) int32
	fs    methods
	mask  uint64 // operations that the filesystem has
	log   *slog.Logger

	readersMu sync.Mutex
	readers   atomic.Pointer[[]*readerState] // by index; replaced when it grows

	base      atomic.Pointer[context.Context] // parent of the contexts of requests
	waitingMu sync.Mutex
	waiting   map[uint64]*requestContext

	// The engine's session, for calls that may come when it has been freed.
	handleMu sync.RWMutex
	handle   uintptr
}

// readerState is one reader's own: its thread runs one method at a time.
type readerState struct {
	req     Request
	pace    pace
	names   nameCache
	dir     DirBuffer
	set     SetAttr
	scratch []byte // C memory for answers that the request has no room for
	many    []Forgotten
}

func newServer(fs any, log *slog.Logger) (*server, error) {
	s := &server{log: log, waiting: map[uint64]*requestContext{}}
	if s.log == nil {
		s.log = slog.Default()
	}
	background := context.Background()
	s.base.Store(&background)
	s.readers.Store(new([]*readerState))
	for i := range operations {
		row := &operations[i]
		if row.bind(&s.fs, fs) {
			s.mask |= 1 << row.op
			s.table[row.op] = row.call
			continue
		}
		if m, ok := reflect.TypeOf(fs).MethodByName(row.method); ok {
			return nil, fmt.Errorf("manifuse: %T.%s is %v and would never be called: %v wants another signature",
				fs, row.method, m.Type, row.wants)
		}
	}
	s.fs.destroyer, _ = fs.(Destroyer)
	if s.mask == 0 {
		return nil, fmt.Errorf("manifuse: %T has no operation; are its methods a pointer's?", fs)
	}
	return s, nil
}

func (s *server) reader(i uint32) *readerState {
	if list := *s.readers.Load(); int(i) < len(list) && list[i] != nil {
		return list[i]
	}
	s.readersMu.Lock()
	defer s.readersMu.Unlock()
	list := append([]*readerState(nil), *s.readers.Load()...)
	for int(i) >= len(list) {
		list = append(list, nil)
	}
	if list[i] == nil {
		list[i] = &readerState{req: Request{srv: s}}
	}
	s.readers.Store(&list)
	return list[i]
}

// Upcall implements raw.Handler: every request comes in here, on the thread of its reader. Nothing below here
// calls C or allocates for what is asked most.
func (s *server) Upcall(c *raw.Call) (rc int32) {
	rd := s.reader(c.Reader)
	rd.pace.keep()
	r := &rd.req
	r.begin(c)
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic in a filesystem's method", "op", raw.OpName(c.Op), "node", c.Node, "panic", p,
				"stack", string(debug.Stack()))
			rc = -int32(syscall.EIO)
			if r.reply != nil {
				_ = r.reply.Err(syscall.EIO)
			}
		}
		if r.reply != nil {
			rc = raw.AnswerLater
		}
		r.end()
	}()
	call := s.table[c.Op&63]
	if call == nil {
		return -int32(syscall.ENOSYS)
	}
	return call(s, rd, c)
}

// ReaderStart implements raw.Handler.
func (s *server) ReaderStart(reader uint32) {
	s.reader(reader)
	addReader()
}

// ReaderEnd implements raw.Handler: nothing of the reader's is kept.
func (s *server) ReaderEnd(reader uint32) {
	removeReader()
	rd := s.reader(reader)
	rd.names, rd.many = nameCache{}, nil
	if rd.scratch != nil {
		raw.Free(rd.scratch)
		rd.scratch = nil
	}
}

// Destroy implements raw.Handler.
func (s *server) Destroy() {
	if s.fs.destroyer == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic in Destroy", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	s.fs.destroyer.Destroy()
}

// Interrupted implements raw.Handler.
func (s *server) Interrupted(unique uint64) {
	s.waitingMu.Lock()
	rc := s.waiting[unique]
	s.waitingMu.Unlock()
	if rc != nil {
		rc.cancel()
	}
}

// Log implements raw.Handler.
func (s *server) Log(level uint32, text string) {
	s.log.Log(context.Background(), [...]slog.Level{slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelDebug}[min(level, 3)], text)
}

// enter gives the engine's session for one call; leave must follow. It fails when the session is closed.
func (s *server) enter() (uintptr, error) {
	s.handleMu.RLock()
	if s.handle == 0 {
		s.handleMu.RUnlock()
		return 0, ErrClosed
	}
	return s.handle, nil
}

func (s *server) leave() { s.handleMu.RUnlock() }

// refuse is the answer to a request whose method returned an error, or deferred it. The answer of a deferred
// request is not touched: somebody may be giving it at this moment.
func (s *server) refuse(rd *readerState, c *raw.Call, err error) int32 {
	if rd.req.reply != nil {
		return raw.AnswerLater
	}
	if e, ok := err.(syscall.Errno); ok && e > 0 && e < 512 {
		return -int32(e)
	}
	return -int32(s.errno(c.Op, c.Node, err))
}

// errno is what answers an error; those that are not an errno's are logged.
func (s *server) errno(op uint32, node uint64, err error) syscall.Errno {
	e, ok := errnoOf(err)
	if !ok {
		s.log.Error("a filesystem's method failed", "op", raw.OpName(op), "node", node, "error", err)
	}
	return e
}

// nonsense is the answer to a request whose method returned what cannot be.
func (s *server) nonsense(c *raw.Call, format string, args ...any) int32 {
	s.log.Error("a filesystem's method gave an impossible answer", "op", raw.OpName(c.Op), "node", c.Node,
		"error", fmt.Sprintf(format, args...))
	return -int32(syscall.EIO)
}
