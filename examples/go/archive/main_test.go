package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/manifuse/manifuse/bindings/go/fusetest"
)

type member struct {
	tar.Header
	content string
}

func pack(t *testing.T, members ...member) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	for _, m := range members {
		m.Size = int64(len(m.content))
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestArchive(t *testing.T) {
	when := time.Unix(1700000000, 0)
	long := strings.Repeat("long/", 60) + strings.Repeat("n", 150)
	big := string(bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
	fs, err := open(pack(t,
		member{tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700, ModTime: when}, ""},
		member{tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o750, ModTime: when}, ""},
		member{tar.Header{Name: "dir/file", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 5, Gid: 6, ModTime: when}, "content"},
		member{tar.Header{Name: "dir/empty", Typeflag: tar.TypeReg, Mode: 0o644}, ""},
		member{tar.Header{Name: "left/out/deep", Typeflag: tar.TypeReg, Mode: 0o644}, "deep"},
		member{tar.Header{Name: long, Typeflag: tar.TypeReg, Mode: 0o644}, "long"},
		member{tar.Header{Name: "big", Typeflag: tar.TypeReg, Mode: 0o644}, big},
		member{tar.Header{Name: "sym", Typeflag: tar.TypeSymlink, Linkname: "dir/file", Mode: 0o777}, ""},
		member{tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "dir/file", Mode: 0o640}, ""},
		member{tar.Header{Name: "../../outside", Typeflag: tar.TypeReg, Mode: 0o644}, "inside"},
		member{tar.Header{Name: "twice", Typeflag: tar.TypeReg, Mode: 0o644}, "first"},
		member{tar.Header{Name: "twice", Typeflag: tar.TypeReg, Mode: 0o644}, "second"},
		member{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
	))
	if err != nil {
		t.Fatal(err)
	}
	c := fusetest.Start(t, fs)
	for path, want := range map[string]string{
		"/dir/file": "content", "/dir/empty": "", "/left/out/deep": "deep", "/" + long: "long", "/big": big,
		"/hard": "content", "/outside": "inside", "/twice": "second",
	} {
		if b, err := c.ReadFile(path); string(b) != want || err != nil {
			t.Errorf("%.40s: %.40q, %v", path, b, err)
		}
	}
	names, err := c.ReadDir("/")
	if fmt.Sprint(names) != "[big dir fifo hard left long outside sym twice]" || err != nil {
		t.Errorf("names %q, %v", names, err)
	}
	if target, err := c.Readlink("/sym"); target != "dir/file" || err != nil {
		t.Errorf("link to %q, %v", target, err)
	}
	a, err := c.Stat("/dir/file")
	if a.Mode != syscall.S_IFREG|0o640 || a.UID != 5 || a.GID != 6 || a.Nlink != 2 || !a.ModTime().Equal(when) || err != nil {
		t.Errorf("attributes %+v, %v", a, err)
	}
	if a, err := c.Stat("/"); a.Mode != syscall.S_IFDIR|0o700 || a.Nlink != 5 || err != nil {
		t.Errorf("attributes of the root %+v, %v", a, err)
	}
	if _, err := c.Stat("/dir/none"); err != syscall.ENOENT {
		t.Errorf("what is not there: %v", err)
	}
	if _, err := c.Read(99, 0, make([]byte, 1), 0); err != syscall.EINVAL {
		t.Errorf("a node that never was: %v", err)
	}
	if st, err := c.Statfs(); st.Files == 0 || st.Blocks < uint64(len(big)/512) || err != nil {
		t.Errorf("statfs %+v, %v", st, err)
	}
}

func TestNoArchive(t *testing.T) {
	if _, err := open("/no/such/archive"); err == nil {
		t.Error("opened what is not there")
	}
	path := filepath.Join(t.TempDir(), "bad.tar")
	if err := os.WriteFile(path, bytes.Repeat([]byte("no archive "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(path); err == nil || !strings.Contains(err.Error(), "bad.tar") {
		t.Errorf("opened nonsense: %v", err)
	}
}
