package main

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"

	"github.com/manifuse/manifuse/bindings/go"
	"github.com/manifuse/manifuse/bindings/go/fusetest"
)

func TestNull(t *testing.T) {
	zeros, err := syscall.Mmap(-1, 0, 1<<20, syscall.PROT_READ, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	c := fusetest.Start(t, &null{zeros: zeros})
	for _, name := range []string{"f0000", "f0123", "f9999"} {
		if b, err := c.ReadFile("/" + name); !bytes.Equal(b, make([]byte, fileSize)) || err != nil {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if a, err := c.Stat("/big"); a.Size != bigSize || err != nil {
		t.Errorf("big: %+v, %v", a, err)
	}
	b := bytes.Repeat([]byte{1}, 100)
	if n, err := c.Read(big, 0, b, bigSize-60); n != 60 || !bytes.Equal(b[:60], make([]byte, 60)) || err != nil {
		t.Errorf("the end of big: %d, %v", n, err)
	}
	if n, err := c.Read(big, 0, b, bigSize+1); n != 0 || err != nil {
		t.Errorf("beyond the end of big: %d, %v", n, err)
	}
	for _, name := range []string{"c000", "c256", "c0000", "g000", "f", "f00000", "f000x", "g0000", "bigger"} {
		if _, err := c.Stat("/" + name); err != syscall.ENOENT {
			t.Errorf("%s: %v", name, err)
		}
	}
	names, err := c.ReadDir("/")
	if len(names) != files+1 || names[0] != "f0000" || names[files] != "big" || err != nil {
		t.Errorf("%d names, %v", len(names), err)
	}
	if _, err := c.Open(firstFile, syscall.O_RDWR); err != syscall.EROFS {
		t.Errorf("open for writing: %v", err)
	}
	if fh, err := c.Open(big, syscall.O_RDWR); err != nil {
		t.Errorf("open big for writing: %v", err)
	} else if n, err := c.Write(big, fh, b, 1<<20); n != len(b) || err != nil {
		t.Errorf("write to big: %d, %v", n, err)
	}
	if n, err := c.Write(firstFile, 0, b, 0); err != syscall.EROFS {
		t.Errorf("write to f0000: %d, %v", n, err)
	}
	if err := c.Truncate("/big", 5); err != nil {
		t.Errorf("truncate big: %v", err)
	}
	if a, err := c.Stat("/big"); a.Size != bigSize || a.Mode != syscall.S_IFREG|0o644 || err != nil {
		t.Errorf("big after it was truncated: %+v, %v", a, err)
	}
	for _, err := range []error{c.Truncate("/f0000", 5), c.Chmod("/big", 0o600), c.Chmod("/", 0o700)} {
		if err != syscall.EROFS {
			t.Errorf("change of attributes: %v", err)
		}
	}
	if st, err := c.Statfs(); st.Files != files+2 || err != nil {
		t.Errorf("statfs: %+v, %v", st, err)
	}
}

func TestMake(t *testing.T) {
	c := fusetest.Start(t, &null{})
	for round := 0; round < 2; round++ {
		for i := 0; i < makeable; i++ {
			name := fmt.Sprintf("/c%03d", i)
			if err := c.WriteFile(name, nil, 0o600); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if a, err := c.Stat(name); a.Size != 0 || a.Mode != syscall.S_IFREG|0o644 || err != nil {
				t.Errorf("%s: %+v, %v", name, a, err)
			}
		}
		// What the engine passes on when another client was faster.
		create := append(make([]byte, 16), "c007\x00"...)
		if _, err := c.Raw(35, manifuse.Root, create); err != syscall.EEXIST {
			t.Errorf("c007, which is there: %v", err)
		}
		if names, err := c.ReadDir("/"); len(names) != files+1 || err != nil {
			t.Errorf("%d names, %v", len(names), err)
		}
		for i := 0; i < makeable; i++ {
			name := fmt.Sprintf("/c%03d", i)
			if err := c.Unlink(name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err := c.Unlink(name); err != syscall.ENOENT {
				t.Errorf("%s, which is gone: %v", name, err)
			}
		}
	}
	for _, name := range []string{"/c256", "/c0000", "/new", "/f10000"} {
		if err := c.WriteFile(name, nil, 0o600); err != syscall.EROFS {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.Unlink("/f0000"); err != syscall.EROFS {
		t.Errorf("removing f0000: %v", err)
	}
}
