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
