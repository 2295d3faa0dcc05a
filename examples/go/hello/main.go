// Hello serves one file: hello MOUNTPOINT [--readers N] [--clone auto] [-o options]
package main

import (
	"syscall"
	"time"

	"github.com/manifuse/manifuse/bindings/go"
)

const text = "Hello World!\n"

var (
	dir  = manifuse.Attr{Mode: syscall.S_IFDIR | 0o555, Nlink: 2, Timeout: time.Second}
	file = manifuse.Attr{Mode: syscall.S_IFREG | 0o444, Nlink: 1, Size: uint64(len(text)), Timeout: time.Second}
)

type hello struct{ manifuse.Defaults } // the engine answers what is not here

func (hello) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	if parent != manifuse.Root || name != "hello.txt" {
		return manifuse.Entry{}, syscall.ENOENT
	}
	return manifuse.Entry{Node: 2, Attr: file, Timeout: time.Second}, nil
}
func (hello) Getattr(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle) (manifuse.Attr, error) {
	if node == manifuse.Root {
		return dir, nil
	}
	return file, nil
}
func (hello) Readdir(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, off uint64, d *manifuse.DirBuffer) error {
	d.AddAll(off, []manifuse.Dirent{{Name: "hello.txt", Ino: 2, Type: syscall.S_IFREG}})
	return nil
}
func (hello) Read(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, dst []byte, off int64) (int, error) {
	return copy(dst, text[min(off, int64(len(text))):]), nil
}
func main() { manifuse.Main(hello{}) }
