package manifuse_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/manifuse/manifuse/bindings/go"
	"github.com/manifuse/manifuse/bindings/go/fusetest"
)

func TestFlat(t *testing.T) { onBoth(t, testFlat) }

func testFlat(t *testing.T, v transport) {
	c := v.start(t, &flat{})
	b, err := c.ReadFile("/c")
	must(t, err)
	if string(b) != strings.Repeat("c", 4096) {
		t.Errorf("read %.10q, %d bytes", b, len(b))
	}
	names, err := c.ReadDir("/")
	must(t, err)
	if got := strings.Join(names, ""); got != "abcdefghijklmnopqrstuvwxyz" {
		t.Errorf("names %q", got)
	}
	a, err := c.Stat("/a")
	must(t, err)
	if a.Mode != fileAttr.Mode || a.Size != 4096 || a.Ino != 2 {
		t.Errorf("attributes %+v", a)
	}
	_, err = c.Stat("/none")
	wantErr(t, "stat of nothing", err, syscall.ENOENT)
}

// recorder has every operation, records the arguments and refuses.
type recorder struct {
	flat
	mu    sync.Mutex
	calls []string
}

func (f *recorder) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, trace(format, args...))
	return syscall.EDQUOT
}

func (f *recorder) Setattr(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, set *manifuse.SetAttr) (manifuse.Attr, error) {
	return manifuse.Attr{}, f.note("setattr %d %#x mode=%o size=%d", node, set.Valid&^(1<<9), set.Attr.Mode&0o7777, set.Attr.Size)
}
func (f *recorder) Readlink(r *manifuse.Request, node manifuse.NodeID) (string, error) {
	return "", f.note("readlink %d", node)
}
func (f *recorder) Symlink(r *manifuse.Request, parent manifuse.NodeID, name, target string) (manifuse.Entry, error) {
	return manifuse.Entry{}, f.note("symlink %d %s %s", parent, name, target)
}
func (f *recorder) Mknod(r *manifuse.Request, parent manifuse.NodeID, name string, mode, rdev uint32) (manifuse.Entry, error) {
	return manifuse.Entry{}, f.note("mknod %d %s %o %#x", parent, name, mode, rdev)
}
func (f *recorder) Mkdir(r *manifuse.Request, parent manifuse.NodeID, name string, mode uint32) (manifuse.Entry, error) {
	return manifuse.Entry{}, f.note("mkdir %d %s %o", parent, name, mode)
}
func (f *recorder) Unlink(r *manifuse.Request, parent manifuse.NodeID, name string) error {
	return f.note("unlink %d %s", parent, name)
}
func (f *recorder) Rmdir(r *manifuse.Request, parent manifuse.NodeID, name string) error {
	return f.note("rmdir %d %s", parent, name)
}
func (f *recorder) Rename(r *manifuse.Request, parent manifuse.NodeID, name string, newParent manifuse.NodeID, newName string, flags uint32) error {
	return f.note("rename %d %s %d %s %d", parent, name, newParent, newName, flags)
}
func (f *recorder) Link(r *manifuse.Request, node, newParent manifuse.NodeID, newName string) (manifuse.Entry, error) {
	return manifuse.Entry{}, f.note("link %d %d %s", node, newParent, newName)
}
func (f *recorder) Create(r *manifuse.Request, parent manifuse.NodeID, name string, mode, flags uint32) (manifuse.Entry, manifuse.Open, error) {
	return manifuse.Entry{}, manifuse.Open{}, f.note("create %d %s %o %o", parent, name, mode, flags&syscall.O_ACCMODE)
}
func (f *recorder) Write(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, src []byte, off int64) (int, error) {
	return 0, f.note("write %d %d %s %d", node, fh, src, off)
}
func (f *recorder) Flush(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle) error {
	return f.note("flush %d %d", node, fh)
}
func (f *recorder) Release(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, flags uint32) error {
	return f.note("release %d %d %o", node, fh, flags&syscall.O_ACCMODE)
}
func (f *recorder) Fsync(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, dataOnly bool) error {
	return f.note("fsync %d %d %v", node, fh, dataOnly)
}
func (f *recorder) Opendir(r *manifuse.Request, node manifuse.NodeID, flags uint32) (manifuse.Open, error) {
	_ = f.note("opendir %d", node)
	return manifuse.Open{Handle: 77}, nil
}
func (f *recorder) Releasedir(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, flags uint32) error {
	return f.note("releasedir %d %d", node, fh)
}
func (f *recorder) Fsyncdir(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, dataOnly bool) error {
	return f.note("fsyncdir %d %d %v", node, fh, dataOnly)
}
func (f *recorder) Statfs(r *manifuse.Request, node manifuse.NodeID) (manifuse.Statfs, error) {
	return manifuse.Statfs{}, f.note("statfs %d", node)
}
func (f *recorder) Access(r *manifuse.Request, node manifuse.NodeID, mask uint32) error {
	return f.note("access %d %d", node, mask)
}
func (f *recorder) Setxattr(r *manifuse.Request, node manifuse.NodeID, name string, value []byte, flags uint32) error {
	return f.note("setxattr %d %s %s %d", node, name, value, flags)
}
func (f *recorder) Getxattr(r *manifuse.Request, node manifuse.NodeID, name string) ([]byte, error) {
	return nil, f.note("getxattr %d %s", node, name)
}
func (f *recorder) Listxattr(r *manifuse.Request, node manifuse.NodeID) ([]string, error) {
	return nil, f.note("listxattr %d", node)
}
func (f *recorder) Removexattr(r *manifuse.Request, node manifuse.NodeID, name string) error {
	return f.note("removexattr %d %s", node, name)
}
func (f *recorder) Forget(r *manifuse.Request, node manifuse.NodeID, lookups uint64) {
	_ = f.note("forget %d %d", node, lookups)
}
func (f *recorder) Destroy() { _ = f.note("destroy") }

func TestArguments(t *testing.T) { onBoth(t, testArguments) }

func testArguments(t *testing.T, v transport) {
	f := &recorder{}
	c, err := v.connect(f, fusetest.Kernel{})
	must(t, err)
	defer c.Close()
	fsync := make([]byte, 16) // handle, flags
	binary.NativeEndian.PutUint64(fsync, 20)
	fsync[8] = 1
	for _, step := range []struct {
		name string
		do   func() error
		call string
	}{
		{"chmod", func() error { return c.Chmod("/a", 0o600) }, "setattr 2 0x1 mode=600 size=0"},
		{"truncate", func() error { return c.Truncate("/b", 5) }, "setattr 3 0x8 mode=0 size=5"},
		{"symlink", func() error { return c.Symlink("/ab", "to/there") }, "symlink 1 ab to/there"},
		{"mknod", func() error { return c.Mknod("/ab", syscall.S_IFCHR|0o640, 0x105) }, "mknod 1 ab 20640 0x105"},
		{"mkdir", func() error { return c.Mkdir("/ab", 0o751) }, "mkdir 1 ab 751"},
		{"unlink", func() error { return c.Unlink("/c") }, "unlink 1 c"},
		{"rename", func() error { return c.Rename("/c", "/xy", 0) }, "rename 1 c 1 xy 0"},
		{"rename2", func() error { return c.Rename("/c", "/xy", 1) }, "rename 1 c 1 xy 1"},
		{"link", func() error { return c.Link("/c", "/xy") }, "link 4 1 xy"},
		{"write", func() error { _, err := c.Write(2, 20, []byte("hello"), 7); return err }, "write 2 20 hello 7"},
		{"statfs", func() error { _, err := c.Statfs(); return err }, "statfs 1"},
		{"access", func() error { return c.Access("/a", 6) }, "access 2 6"},
		{"setxattr", func() error { return c.Setxattr("/a", "user.k", []byte("v"), 1) }, "setxattr 2 user.k v 1"},
		{"getxattr", func() error { _, _, err := c.Getxattr("/a", "user.k", 100); return err }, "getxattr 2 user.k"},
		{"listxattr", func() error { _, err := c.Listxattr("/a"); return err }, "listxattr 2"},
		{"removexattr", func() error { return c.Removexattr("/a", "user.k") }, "removexattr 2 user.k"},
		{"create", func() error { return c.WriteFile("/new", nil, 0o640) }, "create 1 new 100640 1"},
		{"release", func() error { return c.Release(2, 20) }, "release 2 20 0"},
		{"fsync", func() error { _, err := c.Raw(20, 2, fsync); return err }, "fsync 2 20 true"},
		{"fsyncdir", func() error { _, err := c.Raw(30, 1, fsync); return err }, "fsyncdir 1 20 true"},
		{"readlink", func() error { _, err := c.Raw(5, 2, nil); return err }, "readlink 2"},
		{"rmdir", func() error { _, err := c.Raw(11, 1, []byte("d\x00")); return err }, "rmdir 1 d"},
	} {
		f.mu.Lock()
		f.calls = nil
		f.mu.Unlock()
		err := step.do()
		if step.name != "release" { // nobody sees its error
			wantErr(t, step.name, err, syscall.EDQUOT)
		}
		f.mu.Lock()
		if !contains(f.calls, step.call) {
			t.Errorf("%s: the filesystem saw %q, want %q", step.name, f.calls, step.call)
		}
		f.mu.Unlock()
	}
	_, err = c.ReadDir("/")
	must(t, err)
	must(t, c.Forget(9, 3))
	for deadline := time.Now().Add(5 * time.Second); c.Pending() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	must(t, c.Close())
	for _, call := range []string{"opendir 1", "releasedir 1 77", "forget 9 3", "destroy"} {
		if !contains(f.calls, call) {
			t.Errorf("the filesystem never saw %q", call)
		}
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

type caller struct {
	flat
	reader int
	got    chan manifuse.Request
}

func (f *caller) Mkdir(r *manifuse.Request, parent manifuse.NodeID, name string, mode uint32) (manifuse.Entry, error) {
	f.got <- manifuse.Request{UID: r.UID, GID: r.GID, PID: r.PID, Umask: r.Umask}
	if r.Op() != "MKDIR" || r.Unique() == 0 || r.Reader() != f.reader || r.Interrupted() {
		return manifuse.Entry{}, syscall.EPROTO
	}
	return manifuse.Entry{Node: 90, Attr: dirAttr}, nil
}

func TestCaller(t *testing.T) { onBoth(t, testCaller) }

func testCaller(t *testing.T, v transport) {
	f := &caller{reader: v.reader(), got: make(chan manifuse.Request, 1)}
	c, err := v.connect(f, fusetest.Kernel{UID: 12, GID: 34, PID: 56}, manifuse.Options{Readers: 1, ACL: manifuse.ACLAll})
	must(t, err)
	defer c.Close()
	must(t, c.Mkdir("/dir", 0o700))
	if r := <-f.got; r.UID != 12 || r.GID != 34 || r.PID != 56 {
		t.Errorf("the caller is %d:%d, pid %d", r.UID, r.GID, r.PID)
	}
}

func TestUnimplementedIsNotCalled(t *testing.T) { onBoth(t, testUnimplementedIsNotCalled) }

func testUnimplementedIsNotCalled(t *testing.T, v transport) {
	c := v.start(t, &flat{})
	wantErr(t, "mkdir", c.Mkdir("/ab", 0o700), syscall.ENOSYS)
	wantErr(t, "symlink", c.Symlink("/ab", "x"), syscall.ENOSYS)
	n := uint64(0)
	for _, s := range c.Session.Stats() {
		n += s.Ops["FLUSH"].Requests
	}
	if n > 1 {
		t.Errorf("FLUSH was asked %d times although nobody answers it", n)
	}
	if c.Session.Negotiated().Implemented&(1<<9) != 0 {
		t.Error("mkdir counts as implemented")
	}
}

func TestErrors(t *testing.T) { onBoth(t, testErrors) }

func testErrors(t *testing.T, v transport) {
	type odd struct{ error }
	var log logbook
	var give error
	f := &flat{read: func(*manifuse.Request, manifuse.NodeID, []byte, int64) (int, error) { return 0, give }}
	c := v.start(t, f, manifuse.Options{Logger: log.logger()})
	for _, x := range []struct {
		err    error
		want   error
		logged bool
	}{
		{syscall.ENOSPC, syscall.ENOSPC, false},
		{fmt.Errorf("no room: %w", syscall.ENOSPC), syscall.ENOSPC, false},
		{&os.PathError{Op: "open", Path: "/x", Err: syscall.ELOOP}, syscall.ELOOP, false},
		{fs.ErrNotExist, syscall.ENOENT, false},
		{fs.ErrExist, syscall.EEXIST, false},
		{fmt.Errorf("you: %w", fs.ErrPermission), syscall.EACCES, false},
		{fs.ErrInvalid, syscall.EINVAL, false},
		{fs.ErrClosed, syscall.EBADF, false},
		{context.Canceled, syscall.EINTR, false},
		{context.DeadlineExceeded, syscall.ETIMEDOUT, false},
		{os.ErrDeadlineExceeded, syscall.ETIMEDOUT, false},
		{io.EOF, nil, false},
		{errors.New("odd thing"), syscall.EIO, true},
		{odd{errors.New("odder thing")}, syscall.EIO, true},
		{syscall.Errno(0), syscall.EIO, true},
		{syscall.Errno(600), syscall.EIO, true},
		{fmt.Errorf("w: %w", syscall.Errno(100000)), syscall.EIO, true},
	} {
		give = x.err
		before := len(log.String())
		_, err := c.Read(2, 20, make([]byte, 10), 0)
		wantErr(t, fmt.Sprintf("%v", x.err), err, x.want)
		if line := log.String()[before:]; x.logged != (line != "") {
			t.Errorf("%v: logged %q", x.err, line)
		}
	}
	log.wants(t, "odd thing", "op=READ", "node=2")
}

func TestPanic(t *testing.T) { onBoth(t, testPanic) }

func testPanic(t *testing.T, v transport) {
	var log logbook
	f := &flat{read: func(*manifuse.Request, manifuse.NodeID, []byte, int64) (int, error) { panic("no luck") }}
	c := v.start(t, f, manifuse.Options{Logger: log.logger()})
	for i := 0; i < 3; i++ {
		_, err := c.Read(2, 20, make([]byte, 10), 0)
		wantErr(t, "read", err, syscall.EIO)
	}
	log.wants(t, "no luck", "testPanic", "op=READ", "node=2")
	_, err := c.Stat("/a")
	must(t, err)
}

type garbage struct {
	flat
	names []string
	link  string
	xattr []string
	n     int
	entry manifuse.Entry
}

func (g *garbage) Read(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, dst []byte, off int64) (int, error) {
	return g.n, nil
}
func (g *garbage) Write(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, src []byte, off int64) (int, error) {
	return g.n, nil
}
func (g *garbage) Readlink(r *manifuse.Request, node manifuse.NodeID) (string, error) {
	return g.link, nil
}
func (g *garbage) Listxattr(r *manifuse.Request, node manifuse.NodeID) ([]string, error) {
	return g.xattr, nil
}
func (g *garbage) Getxattr(r *manifuse.Request, node manifuse.NodeID, name string) ([]byte, error) {
	return make([]byte, g.n), nil
}
func (g *garbage) Mkdir(r *manifuse.Request, parent manifuse.NodeID, name string, mode uint32) (manifuse.Entry, error) {
	return g.entry, nil
}
func (g *garbage) Readdir(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, off uint64, d *manifuse.DirBuffer) error {
	for i, name := range g.names {
		d.Add(name, 5, syscall.S_IFREG, uint64(i)+1)
	}
	return nil
}

func TestGarbage(t *testing.T) { onBoth(t, testGarbage) }

func testGarbage(t *testing.T, v transport) {
	var log logbook
	g := &garbage{}
	c := v.start(t, g, manifuse.Options{Logger: log.logger()})
	logged := func(what string, err error) {
		t.Helper()
		wantErr(t, what, err, syscall.EIO)
		if log.String() == "" {
			t.Errorf("%s: nothing was logged", what)
		}
		log.mu.Lock()
		log.buf.Reset()
		log.mu.Unlock()
	}
	for _, n := range []int{-1, -1 << 63, 11, 1 << 62} {
		g.n = n
		_, err := c.Read(2, 20, make([]byte, 10), 0)
		logged(fmt.Sprintf("read of %d", n), err)
		_, err = c.Write(2, 20, make([]byte, 10), 0)
		logged(fmt.Sprintf("write of %d", n), err)
	}
	for _, name := range []string{"", "a/b", "a\x00b", strings.Repeat("x", 5000)} {
		g.names = []string{"fine", name}
		_, err := c.ReadDir("/")
		logged(fmt.Sprintf("name %.20q", name), err)
	}
	for _, link := range []string{"", "a\x00b", strings.Repeat("x", 5000)} {
		g.link = link
		_, err := c.Raw(5, 2, nil)
		logged(fmt.Sprintf("link %.20q", link), err)
	}
	for _, name := range []string{"", "a\x00b", strings.Repeat("x", 300)} {
		g.xattr = []string{"user.fine", name}
		_, err := c.Listxattr("/a")
		logged(fmt.Sprintf("attribute %.20q", name), err)
	}
	g.entry = manifuse.Entry{} // a made node without an id
	logged("node 0", c.Mkdir("/ab", 0o700))
	g.n = 100
	_, _, err := c.Getxattr("/a", "user.x", 50)
	wantErr(t, "a long attribute", err, syscall.ERANGE)
	_, n, err := c.Getxattr("/a", "user.x", 0)
	if n != 100 || err != nil {
		t.Errorf("size of an attribute: %d, %v", n, err)
	}
}

func TestAttrs(t *testing.T) { onBoth(t, testAttrs) }

func testAttrs(t *testing.T, v transport) {
	when := time.Unix(1234567890, 987654321)
	f := &attrs{a: manifuse.Attr{
		Ino: 11, Size: 12, Blocks: 13, Mode: syscall.S_IFREG | 0o4755, Nlink: 14, UID: 15, GID: 16, Rdev: 17, Blksize: 18,
	}}
	f.a.SetTimes(when, when.Add(time.Second), when.Add(2*time.Second))
	c := v.start(t, f)
	got, err := c.Getattr(2)
	must(t, err)
	if got != f.a {
		t.Errorf("attributes\n%+v, want\n%+v", got, f.a)
	}
	if !got.ModTime().Equal(when.Add(time.Second)) || !got.AccessTime().Equal(when) {
		t.Errorf("times %v, %v", got.ModTime(), got.AccessTime())
	}
	for _, x := range []struct{ entry, attr, wantEntry, wantAttr time.Duration }{
		{0, 0, 0, 0},
		{time.Second, 0, time.Second, time.Second},
		{time.Second, 3 * time.Second / 2, time.Second, 3 * time.Second / 2},
		{time.Second, -1, time.Second, 0},
		{-1, 0, 0, 0},
	} {
		f.timeout, f.a.Timeout = x.entry, x.attr
		e, err := c.Lookup(1, "x")
		must(t, err)
		if e.Timeout != x.wantEntry || e.Attr.Timeout != x.wantAttr || e.Node != 2 || e.Generation != 9 {
			t.Errorf("time-outs %v, %v became %v, %v (%+v)", x.entry, x.attr, e.Timeout, e.Attr.Timeout, e)
		}
	}
}

type attrs struct {
	a       manifuse.Attr
	timeout time.Duration
}

func (f *attrs) Getattr(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle) (manifuse.Attr, error) {
	return f.a, nil
}
func (f *attrs) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	return manifuse.Entry{Node: 2, Generation: 9, Attr: f.a, Timeout: f.timeout}, nil
}

func TestSetAttrApply(t *testing.T) {
	a := manifuse.Attr{Mode: syscall.S_IFREG | 0o644, UID: 1, GID: 2, Size: 3, Atime: 4, Mtime: 5}
	s := manifuse.SetAttr{
		Valid: manifuse.SetMode | manifuse.SetUID | manifuse.SetSize | manifuse.SetAtime | manifuse.SetMtimeNow,
		Attr:  manifuse.Attr{Mode: syscall.S_IFDIR | 0o600, UID: 10, GID: 20, Size: 30, Atime: 40, Mtime: 50},
	}
	s.Apply(&a)
	if a.Mode != syscall.S_IFREG|0o600 || a.UID != 10 || a.GID != 2 || a.Size != 30 || a.Atime != 40 || time.Since(a.ModTime()) > time.Minute {
		t.Errorf("%+v", a)
	}
}

func TestNew(t *testing.T) {
	type empty struct{ manifuse.Defaults }
	if _, err := manifuse.New(empty{}, manifuse.Options{}); err == nil || !strings.Contains(err.Error(), "no operation") {
		t.Errorf("a filesystem without operations: %v", err)
	}
	if _, err := manifuse.New(wrong{}, manifuse.Options{}); err == nil || !strings.Contains(err.Error(), "wrong.Read") {
		t.Errorf("a method with a wrong signature: %v", err)
	}
	for _, o := range []manifuse.Options{
		{Readers: -1}, {MaxWrite: 5}, {MaxWrite: 1 << 40}, {Clone: 9}, {ACL: 9}, {FSName: "a\x00b"}, {MountOptions: "no_such_option"},
	} {
		s, err := manifuse.New(&flat{}, o)
		if err == nil {
			err = s.Mount("/nowhere")
			must(t, s.Close())
		}
		var e *manifuse.Error
		if !errors.As(err, &e) || !errors.Is(err, syscall.EINVAL) {
			t.Errorf("options %+v: %v", o, err)
		}
	}
}

type wrong struct{}

func (wrong) Read(p []byte) (int, error) { return 0, nil }

func TestSessionWithoutMount(t *testing.T) {
	s, err := manifuse.New(&flat{}, manifuse.Options{})
	must(t, err)
	if err := s.Run(context.Background()); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("run: %v", err)
	}
	if _, err := s.CloneFD(); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("clone: %v", err)
	}
	if err := s.Unmount(); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("unmount: %v", err)
	}
	if n := s.Negotiated(); n != (manifuse.Negotiated{}) {
		t.Errorf("negotiated: %+v", n)
	}
	must(t, s.Close())
	must(t, s.Close())
	if err := s.Run(context.Background()); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("run after close: %v", err)
	}
	if _, err := s.CloneFD(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("clone after close: %v", err)
	}
	s.Stop()
	if s.Stats() != nil || s.Mountpoint() != "" {
		t.Error("a closed session has statistics")
	}
}

func TestNegotiatedBytes(t *testing.T) { onBoth(t, testNegotiatedBytes) }

func testNegotiatedBytes(t *testing.T, v transport) {
	c := v.start(t, &flat{})
	n := c.Session.Negotiated()
	if n.Major != 7 || n.Minor == 0 || n.MaxWrite == 0 || n.Transport != v.kind() {
		t.Errorf("negotiated %+v", n)
	}
	must(t, n.Check())
	b, err := n.MarshalBinary()
	must(t, err)
	var m manifuse.Negotiated
	must(t, m.UnmarshalBinary(b))
	if m != n {
		t.Errorf("%+v came back as %+v", n, m)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "a part": b[:40], "another version": append([]byte{b[0], b[1], b[2], b[3], 9}, b[5:]...),
		"something longer": append(append([]byte(nil), b...), 1),
	} {
		if m.UnmarshalBinary(bad) == nil {
			t.Errorf("%s was taken for terms", name)
		}
	}
	if (manifuse.Negotiated{}).Check() == nil {
		t.Error("terms of nothing can be joined")
	}
}

func TestStatsAndInfo(t *testing.T) { onBoth(t, testStatsAndInfo) }

func testStatsAndInfo(t *testing.T, v transport) {
	o := manifuse.Options{Readers: 3}
	if !v.uring {
		o.Clone = manifuse.CloneRequire
	}
	c := v.start(t, &flat{}, o)
	for i := 0; i < 50; i++ {
		_, err := c.Getattr(2)
		must(t, err)
	}
	_, err := c.Lookup(1, "nothing")
	wantErr(t, "lookup", err, syscall.ENOENT)
	// A reader counts an answer when it has sent it, so that the client may be ahead of the last count.
	var getattr, errs, reads uint64
	settles(t, "errors not counted", func() (int, int) {
		getattr, errs, reads = 0, 0, 0
		for i, s := range c.Session.Stats() {
			if s.Reader != i || s.TID == 0 && s.Requests > 0 {
				t.Errorf("reader %d: %+v", i, s)
			}
			getattr += s.Ops["GETATTR"].Requests
			errs += s.Ops["LOOKUP"].Errors
			reads += c.Reads(i)
		}
		return 1 - int(errs), 0
	})
	info := c.Session.Info()
	if n := len(c.Session.Stats()); n != info.Readers || getattr != 50 || errs != 1 || (reads >= 51) == v.uring {
		t.Errorf("%d readers, %d GETATTR, %d errors, %d messages on the device", n, getattr, errs, reads)
	}
	if !v.uring && info.Readers != 3 || info.Channels != 3 || info.CloneError != 0 || info.Transport != v.kind() {
		t.Errorf("info %+v", info)
	}
}

// Clones are the device's.
func TestCloneFails(t *testing.T) {
	c, err := fusetest.New(&flat{}, fusetest.Kernel{CloneFailAt: 2, CloneErrno: syscall.EMFILE}, manifuse.Options{Readers: 4})
	must(t, err)
	defer c.Close()
	_, err = c.ReadFile("/a")
	must(t, err)
	info := c.Session.Info()
	if info.Readers != 4 || info.Channels != 2 || info.CloneError != syscall.EMFILE || info.CloneReason == "" {
		t.Errorf("info %+v", info)
	}
	_, err = fusetest.New(&flat{}, fusetest.Kernel{CloneFailAt: 2, CloneErrno: syscall.EMFILE},
		manifuse.Options{Readers: 4, Clone: manifuse.CloneRequire})
	if !errors.Is(err, syscall.EMFILE) {
		t.Errorf("a clone that is required: %v", err)
	}
}

// What is added serves the device, also beside rings.
func TestAddReader(t *testing.T) {
	c := fusetest.Start(t, &flat{}, manifuse.Options{Readers: 1})
	_, err := c.ReadFile("/a") // it runs
	must(t, err)
	for want := 1; want < 4; want++ {
		if i, err := c.Session.AddReader(); i != want || err != nil {
			t.Errorf("added reader %d, %v", i, err)
		}
	}
	var inside sync.WaitGroup
	for i := 0; i < 8; i++ {
		inside.Add(1)
		go func() {
			defer inside.Done()
			if _, err := c.ReadFile("/b"); err != nil {
				t.Error(err)
			}
		}()
	}
	inside.Wait()
	if n := c.Session.Info().Readers; n != 4 {
		t.Errorf("%d readers", n)
	}
}

func TestConcurrentHandlers(t *testing.T) { onBoth(t, testConcurrentHandlers) }

func testConcurrentHandlers(t *testing.T, v transport) {
	both := make(chan struct{}, 2)
	gate := make(chan struct{})
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, dst []byte, _ int64) (int, error) {
		both <- struct{}{}
		select {
		case <-gate:
		case <-time.After(5 * time.Second):
			return 0, syscall.ETIME
		}
		dst[0] = byte(r.Reader())
		return 1, nil
	}}
	c := v.start(t, f, manifuse.Options{Readers: 2})
	var who [2]byte
	var done sync.WaitGroup
	for i := range who {
		done.Add(1)
		go func() {
			defer done.Done()
			var b [1]byte
			if _, err := c.Read(2, 20, b[:], 0); err != nil {
				t.Error(err)
			}
			who[i] = b[0]
		}()
	}
	within(t, 5*time.Second, "two handlers at once", func() { <-both; <-both })
	if n := c.Pending(); n != 2 {
		t.Errorf("%d requests in hand, want 2", n)
	}
	close(gate)
	done.Wait()
	if who[0] == who[1] {
		t.Errorf("reader %d ran both", who[0])
	}
}

func readIn(length uint32) []byte {
	b := make([]byte, 40)
	binary.NativeEndian.PutUint64(b, 20)
	binary.NativeEndian.PutUint32(b[16:], length)
	return b
}

func TestInterrupt(t *testing.T) { onBoth(t, testInterrupt) }

func testInterrupt(t *testing.T, v transport) {
	entered := make(chan struct{}, 1)
	var after atomic.Bool
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, _ []byte, _ int64) (int, error) {
		ctx := r.Context()
		entered <- struct{}{}
		select {
		case <-ctx.Done():
			after.Store(r.Interrupted())
			return 0, ctx.Err()
		case <-time.After(5 * time.Second):
			return 0, syscall.ETIME
		}
	}}
	c := v.start(t, f, manifuse.Options{Readers: 2})
	for i := 0; i < 20; i++ {
		unique, err := c.Send(15, 2, readIn(10))
		must(t, err)
		<-entered
		must(t, c.Interrupt(unique))
		_, err = c.Await(unique)
		wantErr(t, "an interrupted read", err, syscall.EINTR)
		if !after.Load() {
			t.Error("Interrupted is false")
		}
	}
}

func TestContextEndsWithRequest(t *testing.T) { onBoth(t, testContextEndsWithRequest) }

func testContextEndsWithRequest(t *testing.T, v transport) {
	ctxs := make(chan context.Context, 1)
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, _ []byte, _ int64) (int, error) {
		if r.Context() != r.Context() || r.Context().Err() != nil {
			return 0, syscall.EPROTO
		}
		ctxs <- r.Context()
		return 0, nil
	}}
	c := v.start(t, f)
	_, err := c.Read(2, 20, make([]byte, 1), 0)
	must(t, err)
	if ctx := <-ctxs; ctx.Err() == nil {
		t.Error("the context outlives the request")
	}
}

func TestStopCancelsContexts(t *testing.T) { onBoth(t, testStopCancelsContexts) }

func testStopCancelsContexts(t *testing.T, v transport) {
	entered := make(chan struct{})
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, _ []byte, _ int64) (int, error) {
		ctx := r.Context()
		close(entered)
		<-ctx.Done()
		return 0, ctx.Err()
	}}
	c, err := v.connect(f, fusetest.Kernel{})
	must(t, err)
	_, err = c.Send(15, 2, readIn(10))
	must(t, err)
	<-entered
	within(t, 5*time.Second, "stop", func() {
		c.Session.Stop()
		must(t, c.Wait())
		_ = c.Close()
	})
}

func TestStopFromHandler(t *testing.T) { onBoth(t, testStopFromHandler) }

func testStopFromHandler(t *testing.T, v transport) {
	var s *manifuse.Session
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, _ []byte, _ int64) (int, error) {
		s.Stop()
		return 3, nil
	}}
	c, err := v.connect(f, fusetest.Kernel{})
	must(t, err)
	s = c.Session
	within(t, 5*time.Second, "stop", func() {
		n, err := c.Read(2, 20, make([]byte, 10), 0)
		if n != 3 || err != nil {
			t.Errorf("read %d, %v", n, err)
		}
		must(t, c.Wait())
		must(t, c.Close())
	})
}

func TestHandlerThatNeverAnswers(t *testing.T) { onBoth(t, testHandlerThatNeverAnswers) }

func testHandlerThatNeverAnswers(t *testing.T, v transport) {
	entered, gate := make(chan struct{}), make(chan struct{})
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, dst []byte, _ int64) (int, error) {
		close(entered)
		<-gate
		return len(dst), nil
	}}
	c, err := v.connect(f, fusetest.Kernel{}, manifuse.Options{Readers: 2, StopTimeout: 200 * time.Millisecond})
	must(t, err)
	_, err = c.Send(15, 2, readIn(10))
	must(t, err)
	<-entered
	within(t, 5*time.Second, "stop", func() {
		c.Session.Stop()
		if err := c.Wait(); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("run: %v", err)
		}
	})
	close(gate) // the handler comes back into a session that is over
	time.Sleep(50 * time.Millisecond)
	within(t, 5*time.Second, "close", func() { _ = c.Close() })
}

func TestAbort(t *testing.T) { onBoth(t, testAbort) }

func testAbort(t *testing.T, v transport) {
	c, err := v.connect(&flat{}, fusetest.Kernel{})
	must(t, err)
	_, err = c.ReadFile("/a")
	must(t, err)
	within(t, 5*time.Second, "abort", func() {
		c.Abort()
		if err := c.Wait(); !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("run: %v", err)
		}
		_ = c.Close()
	})
}

func TestDefer(t *testing.T) { onBoth(t, testDefer) }

func testDefer(t *testing.T, v transport) {
	replies := make(chan *manifuse.Reply, 10)
	f := &deferrer{replies: replies}
	c := v.start(t, f, manifuse.Options{Readers: 1})
	f.answer = func(p *manifuse.Reply) error { return p.Filled(f.n) }
	f.n = 5
	b := make([]byte, 10)
	n, err := c.Read(2, 20, b, 0)
	if n != 5 || err != nil || string(b[:5]) != "later" {
		t.Errorf("read %d %q, %v", n, b, err)
	}
	p := <-replies
	if err := p.Err(syscall.EPERM); err != manifuse.ErrAnswered {
		t.Errorf("a second answer: %v", err)
	}
	if p.Context().Err() == nil {
		t.Error("the context outlives the answer")
	}
	f.answer = func(p *manifuse.Reply) error { return p.Data([]byte("data")) }
	n, err = c.Read(2, 20, b, 0)
	if n != 4 || err != nil || string(b[:4]) != "data" {
		t.Errorf("read %d %q, %v", n, b, err)
	}
	f.answer = func(p *manifuse.Reply) error { return p.Err(fs.ErrPermission) }
	_, err = c.Read(2, 20, b, 0)
	wantErr(t, "read", err, syscall.EACCES)

	file, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	defer file.Close()
	_, err = file.WriteString("from a file")
	must(t, err)
	f.answer = func(p *manifuse.Reply) error { return p.FD(file.Fd(), 5, 100) }
	n, err = c.Read(2, 20, b, 0)
	if n != 6 || err != nil || string(b[:6]) != "a file" {
		t.Errorf("read %d %q, %v", n, b, err)
	}
	f.answer = func(p *manifuse.Reply) error { return p.Attr(manifuse.Attr{Mode: syscall.S_IFREG, Size: 9}) }
	a, err := c.Getattr(3)
	if a.Size != 9 || err != nil {
		t.Errorf("getattr %+v, %v", a, err)
	}
	f.answer = func(p *manifuse.Reply) error {
		return p.Entry(manifuse.Entry{Node: 8, Attr: fileAttr, Timeout: time.Second})
	}
	e, err := c.Lookup(1, "x")
	if e.Node != 8 || e.Timeout != time.Second || err != nil {
		t.Errorf("lookup %+v, %v", e, err)
	}
	f.answer = func(p *manifuse.Reply) error {
		return p.Dirents(func(d *manifuse.DirBuffer) { d.AddAll(f.off, []manifuse.Dirent{{Name: "one"}, {Name: "two"}}) })
	}
	names, err := c.ReadDir("/")
	if !reflect.DeepEqual(names, []string{"one", "two"}) || err != nil {
		t.Errorf("names %q, %v", names, err)
	}
}

type deferrer struct {
	flat
	replies chan *manifuse.Reply
	answer  func(*manifuse.Reply) error
	n       int
	off     uint64
}

func (f *deferrer) later(p *manifuse.Reply) {
	go func() {
		time.Sleep(time.Millisecond)
		_ = f.answer(p)
		select {
		case f.replies <- p:
		default:
		}
	}()
}
func (f *deferrer) Read(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, dst []byte, off int64) (int, error) {
	copy(dst, "later")
	f.later(r.Defer())
	return -5, nil // not the answer
}
func (f *deferrer) Getattr(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle) (manifuse.Attr, error) {
	if node == manifuse.Root {
		return dirAttr, nil
	}
	f.later(r.Defer())
	return manifuse.Attr{}, syscall.EPERM
}
func (f *deferrer) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	f.later(r.Defer())
	return manifuse.Entry{Node: 1 << 40}, nil
}
func (f *deferrer) Readdir(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, off uint64, d *manifuse.DirBuffer) error {
	f.off = off
	f.later(r.Defer())
	return nil
}

// Many deferred requests, answered by many goroutines twice each: exactly one answer goes out.
func TestDeferRace(t *testing.T) { onBoth(t, testDeferRace) }

func testDeferRace(t *testing.T, v transport) {
	var accepted atomic.Int64
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, dst []byte, off int64) (int, error) {
		p := r.Defer()
		for i := 0; i < 2; i++ {
			go func() {
				if p.Data([]byte{byte(off)}) == nil {
					accepted.Add(1)
				}
			}()
		}
		return 0, nil
	}}
	c := v.start(t, f, manifuse.Options{Readers: 2})
	var done sync.WaitGroup
	for w := 0; w < 4; w++ {
		done.Add(1)
		go func() {
			defer done.Done()
			b := make([]byte, 1)
			for i := 0; i < 200; i++ {
				if n, err := c.Read(2, 20, b, int64(i)); n != 1 || err != nil || b[0] != byte(i) {
					t.Errorf("read %d %v, %v", n, b, err)
					return
				}
			}
		}()
	}
	done.Wait()
	// The last goroutine may learn that its answer was taken after the client has it.
	settles(t, "answers not counted", func() (int, int) { return 800 - int(accepted.Load()), 0 })
	if n := accepted.Load(); n != 800 {
		t.Errorf("%d answers were accepted, want 800", n)
	}
}

// An entry of a ring that a thread armed is gone with it: those that answer for handlers must not arm any.
func TestAnswersFromThreadsThatEnd(t *testing.T) { onBoth(t, testAnswersFromThreadsThatEnd) }

func testAnswersFromThreadsThatEnd(t *testing.T, v transport) {
	const n = 200
	replies := make(chan *manifuse.Reply, n)
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, _ []byte, _ int64) (int, error) {
		replies <- r.Defer()
		return 0, nil
	}}
	c := v.startOn(t, f, fusetest.Kernel{Queues: 1})
	var done sync.WaitGroup
	for i := 0; i < 3; i++ {
		done.Add(1)
		go func() {
			defer done.Done()
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			for p := range replies {
				if err := p.Data([]byte("later")); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	var uniques [n]uint64
	for i := range uniques {
		var err error
		uniques[i], err = c.Send(15, 2, readIn(10))
		must(t, err)
	}
	for _, unique := range uniques {
		if b, err := c.Await(unique); string(b) != "later" || err != nil {
			t.Fatalf("read %q, %v", b, err)
		}
	}
	close(replies)
	done.Wait()
	for i := 0; i < n; i++ {
		_, err := c.Getattr(2)
		must(t, err)
	}
}

func TestSleeperHoldsUpNobody(t *testing.T) { onBoth(t, testSleeperHoldsUpNobody) }

func testSleeperHoldsUpNobody(t *testing.T, v transport) {
	entered, gate := make(chan struct{}), make(chan struct{})
	f := &flat{read: func(_ *manifuse.Request, _ manifuse.NodeID, dst []byte, _ int64) (int, error) {
		entered <- struct{}{}
		<-gate
		return copy(dst, "slept"), nil
	}}
	c := v.startOn(t, f, fusetest.Kernel{Queues: 1})
	var uniques [5]uint64
	for i := range uniques {
		var err error
		uniques[i], err = c.Send(15, 2, readIn(10))
		must(t, err)
		within(t, 5*time.Second, "one more handler", func() { <-entered })
		_, err = c.Getattr(2)
		must(t, err)
	}
	if n := c.Pending(); n != 5 {
		t.Errorf("%d requests in hand, want 5", n)
	}
	close(gate)
	for _, unique := range uniques {
		if b, err := c.Await(unique); string(b) != "slept" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
	}
	if v.uring && c.Session.Info().Growths == 0 { // the device has one for each CPU from the start
		t.Error("no reader was added")
	}
}

func TestLostReply(t *testing.T) { onBoth(t, testLostReply) }

func testLostReply(t *testing.T, v transport) {
	var log logbook
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, _ []byte, _ int64) (int, error) {
		r.Defer()
		return 0, nil
	}}
	c := v.start(t, f, manifuse.Options{Logger: log.logger()})
	unique, err := c.Send(15, 2, readIn(10))
	must(t, err)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				runtime.GC()
			}
		}
	}()
	_, err = c.Await(unique)
	close(stop)
	wantErr(t, "a lost request", err, syscall.EIO)
	log.wants(t, "never answered")
}

func TestDeferForget(t *testing.T) { onBoth(t, testDeferForget) }

func testDeferForget(t *testing.T, v transport) {
	f := &forgetful{got: make(chan error, 1)}
	c := v.start(t, f)
	must(t, c.Forget(5, 1))
	if err := <-f.got; !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a deferred forget: %v", err)
	}
}

type forgetful struct {
	flat
	got chan error
}

func (f *forgetful) ForgetMany(r *manifuse.Request, nodes []manifuse.Forgotten) {
	f.got <- r.Defer().Err(nil)
}

func TestReplyAfterClose(t *testing.T) { onBoth(t, testReplyAfterClose) }

func testReplyAfterClose(t *testing.T, v transport) {
	replies := make(chan *manifuse.Reply, 1)
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, _ []byte, _ int64) (int, error) {
		replies <- r.Defer()
		return 0, nil
	}}
	c, err := v.connect(f, fusetest.Kernel{}, manifuse.Options{StopTimeout: 100 * time.Millisecond})
	must(t, err)
	_, err = c.Send(15, 2, readIn(10))
	must(t, err)
	p := <-replies
	within(t, 5*time.Second, "close", func() { _ = c.Close() })
	if err := p.Data(nil); err == nil {
		t.Error("a request of a closed session was answered")
	}
}

func TestAnswerFDAndMapped(t *testing.T) { onBoth(t, testAnswerFDAndMapped) }

func testAnswerFDAndMapped(t *testing.T, v transport) {
	file, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	defer file.Close()
	_, err = file.WriteString("0123456789")
	must(t, err)
	mapped, err := syscall.Mmap(int(file.Fd()), 0, 10, syscall.PROT_READ, syscall.MAP_SHARED)
	must(t, err)
	defer syscall.Munmap(mapped)
	f := &flat{read: func(r *manifuse.Request, node manifuse.NodeID, dst []byte, off int64) (int, error) {
		switch node {
		case 2:
			r.AnswerFD(file.Fd(), off, len(dst))
		case 3:
			r.AnswerMapped(mapped[off:min(off+int64(len(dst)), 10)])
		case 4:
			r.AnswerMapped(mapped) // more than was asked
		case 5:
			r.AnswerFD(1<<20, off, len(dst)) // no descriptor
		}
		return 0, nil
	}}
	c := v.start(t, f, manifuse.Options{Logger: new(logbook).logger()})
	for node := manifuse.NodeID(2); node < 4; node++ {
		b := make([]byte, 6)
		n, err := c.Read(node, 20, b, 3)
		if n != 6 || err != nil || string(b) != "345678" {
			t.Errorf("read %d %q, %v", n, b, err)
		}
		n, err = c.Read(node, 20, b, 8)
		if n != 2 || err != nil || string(b[:2]) != "89" {
			t.Errorf("read at the end %d %q, %v", n, b, err)
		}
	}
	_, err = c.Read(4, 20, make([]byte, 3), 0)
	wantErr(t, "an answer that is too long", err, syscall.EIO)
	if _, err = c.Read(5, 20, make([]byte, 3), 0); err == nil {
		t.Error("an answer from no descriptor")
	}
}

func TestNamesMayBeKept(t *testing.T) { onBoth(t, testNamesMayBeKept) }

func testNamesMayBeKept(t *testing.T, v transport) {
	f := &keeper{names: map[string]int{}}
	c := v.start(t, f)
	long := strings.Repeat("l", 200)
	for round := 0; round < 3; round++ {
		for i := 0; i < 300; i++ {
			_, _ = c.Lookup(1, fmt.Sprintf("name%d", i))
		}
		_, _ = c.Lookup(1, long)
	}
	if len(f.names) != 301 || f.names["name7"] != 3 || f.names[long] != 3 {
		t.Errorf("%d names, %d", len(f.names), f.names["name7"])
	}
}

type keeper struct{ names map[string]int }

func (k *keeper) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	k.names[name]++
	return manifuse.Entry{}, syscall.ENOENT
}

func TestBigDirectory(t *testing.T) { onBoth(t, testBigDirectory) }

func testBigDirectory(t *testing.T, v transport) {
	var list []manifuse.Dirent
	for i := 0; i < 20000; i++ {
		list = append(list, manifuse.Dirent{Name: fmt.Sprintf("%0*d", 1+i%200, i), Ino: uint64(i) + 2, Type: syscall.S_IFREG})
	}
	c := v.start(t, &lister{list: list})
	names, err := c.ReadDir("/")
	must(t, err)
	if len(names) != len(list) || names[19999] != list[19999].Name {
		t.Errorf("%d names", len(names))
	}
}

type lister struct {
	flat
	list []manifuse.Dirent
}

func (l *lister) Readdir(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, off uint64, d *manifuse.DirBuffer) error {
	d.AddAll(off, l.list)
	return nil
}

func TestManySessions(t *testing.T) { onBoth(t, testManySessions) }

func testManySessions(t *testing.T, v transport) {
	before := runtime.NumGoroutine()
	threads := countDir(t, "/proc/self/task")
	for i := 0; i < 50; i++ {
		c, err := v.connect(&flat{}, fusetest.Kernel{}, manifuse.Options{Readers: 4})
		must(t, err)
		_, err = c.ReadFile("/a")
		must(t, err)
		must(t, c.Close())
	}
	settles(t, "goroutines", func() (int, int) { return runtime.NumGoroutine(), before })
	// The runtime keeps a few idle threads of its own.
	settles(t, "threads", func() (int, int) { return countDir(t, "/proc/self/task"), threads + 6 })
}

func countDir(t *testing.T, path string) int {
	list, err := os.ReadDir(path)
	must(t, err)
	return len(list)
}

// settles waits until something is down to where it was.
func settles(t *testing.T, what string, f func() (have, most int)) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		have, most := f()
		if have <= most {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d %s are left, at most %d were expected", have, what, most)
			return
		}
	}
}

func TestForgottenSessionIsCollected(t *testing.T) {
	fds := countDir(t, "/proc/self/fd")
	func() {
		for i := 0; i < 10; i++ {
			_, err := manifuse.New(&flat{}, manifuse.Options{})
			must(t, err)
		}
	}()
	settles(t, "descriptors", func() (int, int) {
		runtime.GC()
		return countDir(t, "/proc/self/fd"), fds
	})
}
