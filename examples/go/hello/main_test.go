package main

import (
	"testing"

	"github.com/manifuse/manifuse/bindings/go/fusetest"
)

func TestHello(t *testing.T) {
	c := fusetest.Start(t, hello{})
	if b, err := c.ReadFile("/hello.txt"); string(b) != text || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	if names, err := c.ReadDir("/"); len(names) != 1 || names[0] != "hello.txt" || err != nil {
		t.Errorf("names %q, %v", names, err)
	}
	if _, err := c.ReadFile("/other"); err == nil {
		t.Error("read what is not there")
	}
}
