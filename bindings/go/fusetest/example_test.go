package fusetest_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/manifuse/manifuse/bindings/go"
	"github.com/manifuse/manifuse/bindings/go/fusetest"
)

// motd is a directory of one file.
type motd struct{ manifuse.Defaults }

func (motd) Getattr(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle) (manifuse.Attr, error) {
	if node == manifuse.Root {
		return manifuse.Attr{Mode: syscall.S_IFDIR | 0o555, Nlink: 2}, nil
	}
	return manifuse.Attr{Mode: syscall.S_IFREG | 0o444, Nlink: 1, Size: 6}, nil
}

func (fs motd) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	if name != "motd" {
		return manifuse.Entry{}, syscall.ENOENT
	}
	attr, err := fs.Getattr(r, 2, manifuse.NoHandle)
	return manifuse.Entry{Node: 2, Attr: attr}, err
}

func (motd) Read(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, dst []byte, off int64) (int, error) {
	return copy(dst, "hello\n"[min(off, 6):]), nil
}

func Example() {
	c, err := fusetest.New(motd{}, fusetest.Kernel{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	b, err := c.ReadFile("/motd")
	fmt.Printf("%q %v\n", b, err)
	_, err = c.ReadFile("/other")
	fmt.Println(err)
	// Output:
	// "hello\n" <nil>
	// no such file or directory
}

func TestClosedClient(t *testing.T) {
	c := fusetest.Start(t, motd{})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.ReadFile("/motd"); err == nil {
		t.Error("a closed client reads")
	}
	if c.Pending() != 0 || c.BadReplies() != 0 {
		t.Error("a closed client counts")
	}
}

func TestQueues(t *testing.T) {
	for _, x := range []struct {
		kernel  fusetest.Kernel
		options manifuse.Options
		want    manifuse.Transport
	}{
		{fusetest.Kernel{}, manifuse.Options{}, manifuse.TransportMemory},
		{fusetest.Kernel{Queues: 3}, manifuse.Options{}, manifuse.TransportUring},
		{fusetest.Kernel{Queues: 3}, manifuse.Options{Uring: manifuse.UringOff}, manifuse.TransportMemory},
		{fusetest.Kernel{Queues: 3}, manifuse.Options{Readers: 1}, manifuse.TransportMemory},
		{fusetest.Kernel{Queues: 3}, manifuse.Options{Readers: 1, Uring: manifuse.UringRequire}, manifuse.TransportUring},
		{fusetest.Kernel{Queues: 3, Minor: 41}, manifuse.Options{}, manifuse.TransportMemory},
	} {
		c := x.kernel.Start(t, motd{}, x.options)
		for i := 0; i < 6; i++ {
			if b, err := c.ReadFile("/motd"); string(b) != "hello\n" || err != nil {
				t.Errorf("%+v: read %q, %v", x, b, err)
			}
		}
		if have := c.Session.Info().Transport; have != x.want {
			t.Errorf("%+v: requests come on %v", x, have)
		}
	}
	if _, err := fusetest.New(motd{}, fusetest.Kernel{}, manifuse.Options{Uring: manifuse.UringRequire}); err == nil {
		t.Error("io_uring was required of a kernel without it")
	}
}

func TestNoFilesystem(t *testing.T) {
	if _, err := fusetest.New(struct{}{}, fusetest.Kernel{}); err == nil {
		t.Error("a filesystem without operations was started")
	}
}
