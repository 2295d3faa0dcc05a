package manifuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// Session is a filesystem, a mount and the readers that serve it. Its methods may be called from any goroutine,
// those of the filesystem included unless they say otherwise.
//
// A session that is no longer referred to is closed by the garbage collector, and its mount with it; Run refers to
// it while it serves.
type Session struct {
	srv   *server
	index uintptr // of srv in the engine's eyes

	runMu   sync.Mutex
	running chan struct{} // closed when Run returns; nil while it does not run
	closing bool
	stuck   bool // methods did not end in time: what they use is never freed
	stop    context.CancelFunc
}

// New makes a session for a filesystem: a value with methods of this package's interfaces. Nothing is mounted.
func New(fs any, o Options) (*Session, error) {
	return newSession(fs, o, "new session", func(index uintptr, mask uint64, ro *raw.Options, e *raw.Error) (uintptr, int) {
		return raw.SessionNew(index, mask, ro, e)
	})
}

// FromInitialized makes a further session on a connection whose handshake is done: f is a descriptor made by
// [Session.CloneFD], here or in another process, and n what [Session.Negotiated] said there. The session takes f
// over if there is no error.
func FromInitialized(fs any, f *os.File, n Negotiated, o Options) (*Session, error) {
	fd, err := dup(f)
	if err != nil {
		return nil, err
	}
	s, err := newSession(fs, o, "join", func(index uintptr, mask uint64, ro *raw.Options, e *raw.Error) (uintptr, int) {
		rn := n.raw()
		return raw.SessionFromFD(index, mask, ro, fd, &rn, e)
	})
	if err != nil {
		_ = syscall.Close(fd)
		return nil, err
	}
	_ = f.Close()
	return s, nil
}

func newSession(fs any, o Options, op string, make func(uintptr, uint64, *raw.Options, *raw.Error) (uintptr, int)) (*Session, error) {
	for _, text := range []string{o.MountOptions, o.FSName, o.Subtype} {
		if strings.IndexByte(text, 0) >= 0 {
			return nil, &Error{Op: op, Errno: syscall.EINVAL, Text: fmt.Sprintf("the option %q has a NUL byte", text)}
		}
	}
	srv, err := newServer(fs, o.Logger)
	if err != nil {
		return nil, err
	}
	s := &Session{srv: srv, index: raw.Register(srv)}
	ro, e := o.raw(), newRawError()
	handle, rc := make(s.index, srv.mask, &ro, e)
	if err := check(op, rc, e); err != nil {
		raw.Unregister(s.index)
		return nil, err
	}
	srv.handle = handle
	runtime.SetFinalizer(s, func(s *Session) { _ = s.Close() })
	return s, nil
}

func newRawError() *raw.Error { return &raw.Error{StructSize: uint32(unsafe.Sizeof(raw.Error{}))} }

// dup makes a descriptor that the engine may close.
func dup(f *os.File) (int, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, errno := uintptr(0), syscall.Errno(0)
	err = conn.Control(func(old uintptr) {
		fd, _, errno = syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
	})
	if err != nil {
		return -1, err
	}
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// call gives the engine's session to f and makes an error of its result.
func (s *Session) call(op string, f func(handle uintptr, e *raw.Error) int) error {
	handle, err := s.srv.enter()
	if err != nil {
		return err
	}
	defer s.srv.leave()
	e := newRawError()
	return check(op, f(handle, e), e)
}

// Mount mounts at a directory and agrees with the kernel on the protocol. When it returns, programs may use the
// mount; they are answered as soon as Run runs. Where the system calls are not permitted it uses fusermount3. The
// form /dev/fd/N takes over that descriptor instead, as AttachFDs does; no os.File may own it too.
//
// The error has what is wrong in words, and inside it a syscall.Errno: ENOENT, ENOTDIR or EACCES about the mount
// point, EPERM neither way to mount is permitted, EINVAL a mount option, ENODEV no FUSE here, EPROTO the kernel is
// too old.
func (s *Session) Mount(mountpoint string) error {
	if strings.IndexByte(mountpoint, 0) >= 0 {
		return &Error{Op: "mount", Errno: syscall.EINVAL, Text: "the mount point has a NUL byte in its name"}
	}
	return s.call("mount", func(h uintptr, e *raw.Error) int { return raw.MfSessionMount(h, mountpoint, e) })
}

// AttachFDs serves a mount that somebody else made: descriptors of /dev/fuse, the first bound to the mount and the
// others its clones. The handshake is done here, on the first. The session has at least as many readers and takes
// the files over if there is no error.
func (s *Session) AttachFDs(files ...*os.File) error {
	var fds []int32
	shut := func() {
		for _, fd := range fds {
			_ = syscall.Close(int(fd))
		}
	}
	for _, f := range files {
		fd, err := dup(f)
		if err != nil {
			shut()
			return err
		}
		fds = append(fds, int32(fd))
	}
	err := s.call("attach", func(h uintptr, e *raw.Error) int { return raw.SessionAttachFDs(h, fds, e) })
	if err != nil {
		shut()
		return err
	}
	for _, f := range files {
		_ = f.Close()
	}
	return nil
}

// CloneFD makes a new descriptor of the mount: for FromInitialized, here or in another process. A request that is
// read from it must be answered on it. The caller closes it. ENOTCONN: nothing is mounted.
func (s *Session) CloneFD() (*os.File, error) {
	fd := int32(-1)
	if err := s.call("clone", func(h uintptr, _ *raw.Error) int { return raw.MfSessionCloneFd(h, &fd) }); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/fuse"), nil
}

// AddReader adds a reader, also while Run serves, and returns its index.
func (s *Session) AddReader() (int, error) {
	index := -1
	err := s.call("add reader", func(h uintptr, _ *raw.Error) int {
		index = raw.MfSessionAddReader(h)
		return index
	})
	return index, err
}

// Run serves until the mount is gone, [Session.Stop] is called or ctx is done, all of which are a clean end: nil. It
// returns when no method runs any more; the mount that the session made is gone then.
//
// Errors: ENOTCONN there is nothing to serve; EBUSY it runs already; ETIMEDOUT methods did not end in time and the
// connection was aborted; ECONNABORTED it was aborted from outside.
func (s *Session) Run(ctx context.Context) error {
	s.runMu.Lock()
	if s.closing {
		s.runMu.Unlock()
		return ErrClosed
	}
	if s.running != nil {
		s.runMu.Unlock()
		return &Error{Op: "run", Errno: syscall.EBUSY}
	}
	done := make(chan struct{})
	s.running = done
	base, cancel := context.WithCancel(ctx)
	s.stop = cancel
	s.srv.base.Store(&base)
	handle := s.srv.handle // Close waits for this function, so that it stays valid
	s.runMu.Unlock()

	err := s.serve(ctx, handle, cancel)

	s.runMu.Lock()
	s.stuck = s.stuck || errors.Is(err, syscall.ETIMEDOUT)
	s.running = nil
	close(done)
	s.runMu.Unlock()
	return err
}

func (s *Session) serve(ctx context.Context, handle uintptr, cancel context.CancelFunc) error {
	defer cancel()
	if err := check("run", raw.MfSessionStart(handle), nil); err != nil {
		return err
	}
	stopped := context.AfterFunc(ctx, s.Stop)
	// One thread waits here for as long as the session lives. Go's own signals may end the wait early.
	for raw.MfSessionWait(handle, -1) == -int(syscall.EINTR) {
	}
	stopped()
	cancel() // methods that wait for their context end now, so that finishing need not wait for its deadline
	return check("run", raw.MfSessionFinish(handle), nil)
}

// Stop asks Run to end: methods that run are waited for, with a deadline (Options.StopTimeout), and their contexts
// are cancelled. It does not block, and may be called from a filesystem's method.
func (s *Session) Stop() {
	s.runMu.Lock()
	if s.stop != nil {
		s.stop()
	}
	s.runMu.Unlock()
	_ = s.call("stop", func(h uintptr, _ *raw.Error) int {
		raw.MfSessionStop(h)
		return 0
	})
}

// Unmount unmounts at once, lazily: files that are open stay usable until they are closed, and Run returns then.
// ENOTCONN: this session made no mount.
func (s *Session) Unmount() error {
	return s.call("unmount", func(h uintptr, _ *raw.Error) int { return raw.MfSessionUnmount(h) })
}

// Close ends the session: it stops Run and waits for it, unmounts what was mounted, and frees what the engine has.
// Not to be called from a filesystem's method. A second Close does nothing.
func (s *Session) Close() error {
	s.runMu.Lock()
	if s.closing {
		s.runMu.Unlock()
		return nil
	}
	s.closing = true
	running := s.running
	s.runMu.Unlock()
	if running != nil {
		s.Stop()
		<-running
	}
	runtime.SetFinalizer(s, nil)
	s.srv.handleMu.Lock()
	handle := s.srv.handle
	s.srv.handle = 0
	s.srv.handleMu.Unlock()
	raw.MfSessionFree(handle)
	if !s.stuck { // else a method may still return into the engine
		raw.Unregister(s.index)
	}
	return nil
}

// Mountpoint is where the session mounted; "" where it did not.
func (s *Session) Mountpoint() (path string) {
	_ = s.call("mountpoint", func(h uintptr, _ *raw.Error) int {
		path = raw.SessionMountpoint(h)
		return 0
	})
	return path
}

// InvalidateNode makes the kernel forget a node's attributes and, where off >= 0, its data: length bytes of them,
// 0 = all that follow. It blocks until the kernel has done so; never call it from a method for the same node.
func (s *Session) InvalidateNode(node NodeID, off, length int64) error {
	return s.call("invalidate", func(h uintptr, _ *raw.Error) int {
		return raw.MfNotifyInvalInode(h, uint64(node), off, length)
	})
}

// InvalidateName makes the kernel forget a name. What InvalidateNode says holds for the parent.
func (s *Session) InvalidateName(parent NodeID, name string) error {
	return s.call("invalidate", func(h uintptr, _ *raw.Error) int {
		return raw.MfNotifyInvalEntry(h, uint64(parent), name)
	})
}

// Version is the version of the engine that runs.
func Version() string { return raw.Version() }

func init() {
	raw.AttachVkernel = func(session any, vk uintptr) error {
		return session.(*Session).call("attach", func(h uintptr, e *raw.Error) int {
			return raw.MfSessionAttachVkernel(h, vk, e)
		})
	}
}
