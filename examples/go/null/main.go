// Null serves files of zeros and keeps nothing: f0000 to f9999 of 64 KiB each, which the kernel does not cache, and
// big of 4 GiB, which it does. It is what benchmarks ask: null MOUNTPOINT [--readers N] [--clone auto] [-o options]
package main

import (
	"fmt"
	"log"
	"syscall"

	"github.com/manifuse/manifuse/bindings/go"
)

const (
	files    = 10000
	fileSize = 64 << 10
	bigSize  = 4 << 30

	firstFile = manifuse.Root + 1
	big       = firstFile + files
)

type null struct {
	manifuse.Defaults
	zeros []byte // not Go's memory, so that the engine may send from it
}

func find(name string) (manifuse.NodeID, bool) {
	if name == "big" {
		return big, true
	}
	if len(name) != 5 || name[0] != 'f' {
		return 0, false
	}
	n := manifuse.NodeID(0)
	for _, c := range []byte(name[1:]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + manifuse.NodeID(c-'0')
	}
	return firstFile + n, true
}

func size(node manifuse.NodeID) uint64 {
	if node == big {
		return bigSize
	}
	return fileSize
}

func attr(node manifuse.NodeID) manifuse.Attr {
	if node == manifuse.Root {
		return manifuse.Attr{Mode: syscall.S_IFDIR | 0o555, Nlink: 2, Blksize: 4096}
	}
	n := size(node)
	return manifuse.Attr{Mode: syscall.S_IFREG | 0o444, Nlink: 1, Size: n, Blocks: n / 512, Blksize: 4096}
}

func (*null) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	node, ok := find(name)
	if !ok || parent != manifuse.Root {
		return manifuse.Entry{}, syscall.ENOENT
	}
	return manifuse.Entry{Node: node, Attr: attr(node)}, nil
}

func (*null) Getattr(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle) (manifuse.Attr, error) {
	return attr(node), nil
}

func (*null) Open(r *manifuse.Request, node manifuse.NodeID, flags uint32) (manifuse.Open, error) {
	switch {
	case flags&syscall.O_ACCMODE != syscall.O_RDONLY:
		return manifuse.Open{}, syscall.EROFS
	case node == big:
		return manifuse.Open{Flags: manifuse.OpenKeepCache}, nil
	}
	return manifuse.Open{Flags: manifuse.OpenDirectIO}, nil
}

func (n *null) Read(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, dst []byte, off int64) (int, error) {
	left := max(int64(size(node))-off, 0)
	r.AnswerMapped(n.zeros[:min(int64(len(dst)), left)])
	return 0, nil
}

// Readdir has no list to look at: the position after a name is the number of the next one.
func (*null) Readdir(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, off uint64, d *manifuse.DirBuffer) error {
	for ; off < files+3; off++ {
		name, ino, typ := "big", uint64(big), uint32(syscall.S_IFREG)
		switch {
		case off < 2:
			name, ino, typ = ".."[:off+1], uint64(manifuse.Root), syscall.S_IFDIR
		case off < files+2:
			name, ino = fmt.Sprintf("f%04d", off-2), uint64(firstFile)+off-2
		}
		if !d.Add(name, ino, typ, off+1) {
			break
		}
	}
	return nil
}

func (*null) Statfs(r *manifuse.Request, node manifuse.NodeID) (manifuse.Statfs, error) {
	return manifuse.Statfs{Bsize: 4096, Frsize: 4096, Files: files + 2, Namelen: 255}, nil
}

func main() {
	zeros, err := syscall.Mmap(-1, 0, 1<<20, syscall.PROT_READ, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		log.Fatal(err)
	}
	manifuse.Main(&null{zeros: zeros}, func(o *manifuse.Options) { o.ACL = manifuse.ACLAll })
}
