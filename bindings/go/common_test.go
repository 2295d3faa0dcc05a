package manifuse_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/manifuse/manifuse/bindings/go"
	"github.com/manifuse/manifuse/bindings/go/fusetest"
)

var (
	dirAttr  = manifuse.Attr{Mode: syscall.S_IFDIR | 0o755, Nlink: 2}
	fileAttr = manifuse.Attr{Mode: syscall.S_IFREG | 0o666, Nlink: 1, Size: 4096}
)

// flat is a directory of readable files a, b, c, ... (nodes 2, 3, 4, ...), whose reads a test may take over.
type flat struct {
	manifuse.Defaults
	read func(r *manifuse.Request, node manifuse.NodeID, dst []byte, off int64) (int, error)
}

func (f *flat) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	if parent != manifuse.Root || len(name) != 1 || name[0] < 'a' || name[0] > 'z' {
		return manifuse.Entry{}, syscall.ENOENT
	}
	return manifuse.Entry{Node: manifuse.NodeID(name[0]-'a') + 2, Attr: fileAttr}, nil
}

func (f *flat) Getattr(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle) (manifuse.Attr, error) {
	if node == manifuse.Root {
		return dirAttr, nil
	}
	return fileAttr, nil
}

func (f *flat) Open(r *manifuse.Request, node manifuse.NodeID, flags uint32) (manifuse.Open, error) {
	return manifuse.Open{Handle: manifuse.Handle(node) * 10, Flags: manifuse.OpenDirectIO}, nil
}

func (f *flat) Read(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, dst []byte, off int64) (int, error) {
	if f.read != nil {
		return f.read(r, node, dst, off)
	}
	n := min(int64(len(dst)), max(4096-off, 0))
	for i := range dst[:n] {
		dst[i] = byte('a' + node - 2)
	}
	return int(n), nil
}

func (f *flat) Readdir(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, off uint64, d *manifuse.DirBuffer) error {
	for ; off < 26; off++ {
		if !d.Add(string(rune('a'+off)), off+2, syscall.S_IFREG, off+1) {
			break
		}
	}
	return nil
}

// transport is how requests come from the virtual kernel: on the device, or where uring is set over a ring.
type transport struct{ uring bool }

// onBoth runs a test on each transport.
func onBoth(t *testing.T, test func(t *testing.T, v transport)) {
	t.Run("device", func(t *testing.T) { test(t, transport{}) })
	t.Run("ring", func(t *testing.T) { test(t, transport{uring: true}) })
}

// connect is fusetest.New on the transport; a ring has two queues unless the kernel says otherwise.
func (v transport) connect(fs any, k fusetest.Kernel, options ...manifuse.Options) (*fusetest.Client, error) {
	k, o := v.over(k, options)
	return fusetest.New(fs, k, o)
}

// start is fusetest.Start on the transport.
func (v transport) start(t *testing.T, fs any, options ...manifuse.Options) *fusetest.Client {
	t.Helper()
	return v.startOn(t, fs, fusetest.Kernel{}, options...)
}

// startOn is start with a kernel, as connect has it.
func (v transport) startOn(t *testing.T, fs any, k fusetest.Kernel, options ...manifuse.Options) *fusetest.Client {
	t.Helper()
	k, o := v.over(k, options)
	return k.Start(t, fs, o)
}

func (v transport) over(k fusetest.Kernel, options []manifuse.Options) (fusetest.Kernel, manifuse.Options) {
	o := append(options, manifuse.Options{})[0]
	if !v.uring {
		k.Queues = 0
		return k, o
	}
	o.Uring = manifuse.UringRequire
	if k.Queues == 0 {
		k.Queues = 2
	}
	return k, o
}

func (v transport) kind() manifuse.Transport {
	if v.uring {
		return manifuse.TransportUring
	}
	return manifuse.TransportMemory
}

// reader is the one that serves where one was asked for: beside rings the first is the device's.
func (v transport) reader() int {
	if v.uring {
		return 1
	}
	return 0
}

// logbook keeps what is logged.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logbook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *logbook) wants(t *testing.T, parts ...string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for _, part := range parts {
		for !strings.Contains(l.String(), part) {
			if time.Now().After(deadline) {
				t.Errorf("the log has no %q:\n%s", part, l)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func wantErr(t *testing.T, what string, err error, want error) {
	t.Helper()
	if err != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within fails the test if f takes longer.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s did not end within %v", what, limit)
	}
}

func trace(format string, args ...any) string { return fmt.Sprintf(format, args...) }
