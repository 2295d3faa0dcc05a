package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/manifuse/manifuse/bindings/go"
	"github.com/manifuse/manifuse/bindings/go/fusetest"
)

type fixture struct {
	*fusetest.Client
	t *testing.T
}

func start(t *testing.T, o ...manifuse.Options) fixture {
	return fixture{fusetest.Start(t, newMemfs(), o...), t}
}

func (f fixture) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f fixture) fails(what string, err, want error) {
	f.t.Helper()
	if err != want {
		f.t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func (f fixture) names(path string) string {
	f.t.Helper()
	names, err := f.ReadDir(path)
	f.ok(err)
	sort.Strings(names)
	return strings.Join(names, " ")
}

func (f fixture) holds(path, want string) {
	f.t.Helper()
	if b, err := f.ReadFile(path); string(b) != want || err != nil {
		f.t.Errorf("%s: %.60q, %v; want %.60q", path, b, err, want)
	}
}

func (f fixture) stat(path string) manifuse.Attr {
	f.t.Helper()
	a, err := f.Stat(path)
	f.ok(err)
	return a
}

func TestFiles(t *testing.T) {
	f := start(t)
	f.ok(f.WriteFile("/a", []byte("hello"), 0o640))
	f.holds("/a", "hello")
	f.ok(f.WriteFile("/a", []byte("hi"), 0o600)) // truncates
	f.holds("/a", "hi")
	if a := f.stat("/a"); a.Mode != syscall.S_IFREG|0o640 || a.Size != 2 || a.Nlink != 1 || time.Since(a.ModTime()) > time.Minute {
		t.Errorf("attributes %+v", a)
	}
	f.ok(f.Truncate("/a", 5))
	f.holds("/a", "hi\x00\x00\x00")
	f.ok(f.Truncate("/a", 1))
	f.ok(f.Truncate("/a", 3)) // what was cut off does not come back
	f.holds("/a", "h\x00\x00")
	f.fails("a huge file", f.Truncate("/a", 1<<40), syscall.EFBIG)
	f.ok(f.Chmod("/a", 0o4711))
	if a := f.stat("/a"); a.Mode != syscall.S_IFREG|0o4711 {
		t.Errorf("mode %o", a.Mode)
	}
	big := bytes.Repeat([]byte("0123456789"), 500_000)
	f.ok(f.WriteFile("/big", big, 0o600))
	if b, err := f.ReadFile("/big"); !bytes.Equal(b, big) || err != nil {
		t.Errorf("%d bytes came back, %v", len(b), err)
	}
	e, err := f.Lookup(1, "big")
	f.ok(err)
	fh, err := f.Open(e.Node, syscall.O_RDWR)
	f.ok(err)
	_, err = f.Write(e.Node, fh, []byte("xyz"), int64(len(big))+7)
	f.ok(err)
	b := make([]byte, 20)
	n, err := f.Read(e.Node, fh, b, int64(len(big))-2)
	if string(b[:n]) != "89\x00\x00\x00\x00\x00\x00\x00xyz" || err != nil {
		t.Errorf("over the end: %q, %v", b[:n], err)
	}
	f.ok(f.Unlink("/big")) // it stays readable while somebody has it
	n, err = f.Read(e.Node, fh, b[:4], 0)
	if string(b[:n]) != "0123" || err != nil {
		t.Errorf("unlinked: %q, %v", b[:n], err)
	}
	f.ok(f.Release(e.Node, fh))
	f.ok(f.Forget(e.Node, 1))
	f.fails("stat", second(f.Stat("/big")), syscall.ENOENT)
}

func second[T any](_ T, err error) error { return err }

func TestDirectories(t *testing.T) {
	f := start(t)
	f.ok(f.Mkdir("/d", 0o755))
	f.ok(f.Mkdir("/d/e", 0o700))
	f.ok(f.WriteFile("/d/e/f", nil, 0o600))
	f.fails("mkdir", f.Mkdir("/d", 0o755), syscall.EEXIST)
	f.fails("mkdir in a file", f.Mkdir("/d/e/f/g", 0o755), syscall.ENOTDIR)
	f.fails("rmdir", f.Rmdir("/d/e"), syscall.ENOTEMPTY)
	f.fails("rmdir of a file", f.Rmdir("/d/e/f"), syscall.ENOTDIR)
	f.fails("unlink of a directory", f.Unlink("/d/e"), syscall.EISDIR)
	f.fails("unlink of nothing", f.Unlink("/d/none"), syscall.ENOENT)
	f.fails("a long name", f.Mkdir("/"+strings.Repeat("x", 300), 0o755), syscall.ENAMETOOLONG)
	if a := f.stat("/d"); a.Nlink != 3 {
		t.Errorf("%d links", a.Nlink)
	}
	f.ok(f.Unlink("/d/e/f"))
	f.ok(f.Rmdir("/d/e"))
	if a := f.stat("/d"); a.Nlink != 2 || f.names("/") != "d" || f.names("/d") != "" {
		t.Errorf("%d links, %q, %q", a.Nlink, f.names("/"), f.names("/d"))
	}
	for i := 0; i < 3000; i++ {
		f.ok(f.WriteFile(fmt.Sprintf("/d/file%d", i), nil, 0o600))
	}
	if n := len(strings.Fields(f.names("/d"))); n != 3000 {
		t.Errorf("%d names", n)
	}
}

func TestLinksAndNodes(t *testing.T) {
	f := start(t)
	f.ok(f.WriteFile("/a", []byte("x"), 0o600))
	f.ok(f.Link("/a", "/b"))
	if a, b := f.stat("/a"), f.stat("/b"); a.Ino != b.Ino || b.Nlink != 2 {
		t.Errorf("%+v, %+v", a, b)
	}
	f.fails("link", f.Link("/a", "/b"), syscall.EEXIST)
	f.ok(f.Unlink("/a"))
	f.holds("/b", "x")
	if b := f.stat("/b"); b.Nlink != 1 {
		t.Errorf("%d links", b.Nlink)
	}
	f.ok(f.Symlink("/s", "to/somewhere"))
	if target, err := f.Readlink("/s"); target != "to/somewhere" || err != nil {
		t.Errorf("link to %q, %v", target, err)
	}
	f.fails("readlink of a file", second(f.Raw(5, manifuse.NodeID(f.stat("/b").Ino), nil)), syscall.EINVAL)
	f.ok(f.Mknod("/n", syscall.S_IFIFO|0o600, 0))
	f.ok(f.Mknod("/dev", syscall.S_IFCHR|0o600, 0x0105))
	if d := f.stat("/dev"); d.Rdev != 0x0105 || d.Mode != syscall.S_IFCHR|0o600 {
		t.Errorf("%+v", d)
	}
}

func TestRename(t *testing.T) {
	f := start(t)
	f.ok(f.Mkdir("/d", 0o755))
	f.ok(f.Mkdir("/e", 0o755))
	f.ok(f.WriteFile("/a", []byte("a"), 0o600))
	f.ok(f.WriteFile("/b", []byte("b"), 0o600))
	f.ok(f.Rename("/a", "/d/c", 0))
	f.holds("/d/c", "a")
	f.fails("without replacing", f.Rename("/b", "/d/c", renameNoReplace), syscall.EEXIST)
	f.ok(f.Rename("/b", "/d/c", renameExchange))
	f.holds("/b", "a")
	f.holds("/d/c", "b")
	f.ok(f.Rename("/b", "/d/c", 0))
	f.holds("/d/c", "a")
	f.fails("of nothing", f.Rename("/b", "/x", 0), syscall.ENOENT)
	f.fails("exchange with nothing", f.Rename("/d/c", "/x", renameExchange), syscall.ENOENT)
	f.fails("directory over file", f.Rename("/e", "/d/c", 0), syscall.ENOTDIR)
	f.fails("file over directory", f.Rename("/d/c", "/e", 0), syscall.EISDIR)
	f.fails("over a full directory", f.Rename("/e", "/d", 0), syscall.ENOTEMPTY)
	f.ok(f.Rename("/d", "/e", 0)) // over an empty one
	f.holds("/e/c", "a")
	if root := f.stat("/"); root.Nlink != 3 || f.names("/") != "e" {
		t.Errorf("%d links, %q", root.Nlink, f.names("/"))
	}
}

func TestXattrs(t *testing.T) {
	f := start(t)
	f.ok(f.WriteFile("/a", nil, 0o600))
	f.ok(f.Setxattr("/a", "user.k", []byte("value"), 0))
	f.ok(f.Setxattr("/a", "user.big", bytes.Repeat([]byte("z"), 60000), 0))
	f.fails("create", f.Setxattr("/a", "user.k", nil, xattrCreate), syscall.EEXIST)
	f.fails("replace", f.Setxattr("/a", "user.none", nil, xattrReplace), syscall.ENODATA)
	v, n, err := f.Getxattr("/a", "user.k", 100)
	if string(v) != "value" || n != 5 || err != nil {
		t.Errorf("%q, %d, %v", v, n, err)
	}
	if _, n, err = f.Getxattr("/a", "user.big", 0); n != 60000 || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	if v, _, err = f.Getxattr("/a", "user.big", 65536); len(v) != 60000 || err != nil {
		t.Errorf("%d bytes, %v", len(v), err)
	}
	_, _, err = f.Getxattr("/a", "user.k", 3)
	f.fails("too small", err, syscall.ERANGE)
	_, _, err = f.Getxattr("/a", "user.none", 3)
	f.fails("none", err, syscall.ENODATA)
	names, err := f.Listxattr("/a")
	sort.Strings(names)
	if fmt.Sprint(names) != "[user.big user.k]" || err != nil {
		t.Errorf("%q, %v", names, err)
	}
	f.ok(f.Removexattr("/a", "user.k"))
	f.fails("removed", f.Removexattr("/a", "user.k"), syscall.ENODATA)
	f.ok(f.Removexattr("/a", "user.big"))
	if names, err := f.Listxattr("/a"); len(names) != 0 || err != nil {
		t.Errorf("%q, %v", names, err)
	}
	st, err := f.Statfs()
	if st.Namelen != 255 || st.Bfree == 0 || err != nil {
		t.Errorf("%+v, %v", st, err)
	}
	f.ok(f.Access("/a", 4))
}

// What was removed and forgotten is not kept.
func TestNothingIsLeft(t *testing.T) {
	m := newMemfs()
	f := fixture{fusetest.Start(t, m), t}
	for i := 0; i < 100; i++ {
		f.ok(f.WriteFile("/a", make([]byte, 1000), 0o600))
		f.ok(f.Mkdir("/d", 0o700))
		f.ok(f.Unlink("/a"))
		f.ok(f.Rmdir("/d"))
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		m.mu.RLock()
		nodes, lists, used := len(m.nodes), len(m.lists), m.bytes
		m.mu.RUnlock()
		if nodes == 1 && lists == 0 && used == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d nodes, %d listings, %d bytes are left", nodes, lists, used)
		}
	}
}

// Several clients at once, each on files of its own, and all in one directory.
func TestParallel(t *testing.T) {
	f := start(t, manifuse.Options{Readers: 4})
	var all sync.WaitGroup
	for w := 0; w < 6; w++ {
		all.Add(1)
		go func() {
			defer all.Done()
			random := rand.New(rand.NewSource(int64(w)))
			dir := fmt.Sprintf("/w%d", w)
			if err := f.Mkdir(dir, 0o755); err != nil {
				t.Error(err)
			}
			for i := 0; i < 60; i++ {
				path := fmt.Sprintf("%s/%d", dir, random.Intn(10))
				data := make([]byte, random.Intn(100_000))
				random.Read(data)
				if err := f.WriteFile(path, data, 0o600); err != nil {
					t.Errorf("%s: %v", path, err)
				}
				moved := path + "moved"
				if err := f.Rename(path, moved, 0); err != nil {
					t.Errorf("%s: %v", path, err)
				}
				if b, err := f.ReadFile(moved); !bytes.Equal(b, data) || err != nil {
					t.Errorf("%s: %d bytes of %d, %v", moved, len(b), len(data), err)
				}
				if _, err := f.ReadDir("/"); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	all.Wait()
}
