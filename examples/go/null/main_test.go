package main

import (
	"bytes"
	"syscall"
	"testing"

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
	for _, name := range []string{"f", "f00000", "f000x", "g0000", "bigger"} {
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
	if st, err := c.Statfs(); st.Files != files+2 || err != nil {
		t.Errorf("statfs: %+v, %v", st, err)
	}
}
