// Null serves files of zeros and keeps nothing: f0000 to f9999 of 64 KiB each, which the kernel does not cache, and
// big of 4 GiB, which it does and which forgets what is written to it. c000 to c255, empty and in no list, may be made
// and removed. It is what benchmarks ask: null MOUNTPOINT [--readers N] [--clone auto] [-o options]
package main

import (
	"fmt"
	"log"
	"sync/atomic"
	"syscall"

	"github.com/manifuse/manifuse/bindings/go"
)

const (
	files    = 10000
	fileSize = 64 << 10
	bigSize  = 4 << 30

	firstFile = manifuse.Root + 1
	big       = firstFile + files

	makeable  = 256
	firstMade = big + 1 // c000
)

type null struct {
	manifuse.Defaults
	zeros []byte // not Go's memory, so that the engine may send from it
	made  [makeable]atomic.Bool
}

// number is what stands behind the first letter, if it is that many digits.
func number(name string, digits int) (manifuse.NodeID, bool) {
	if len(name) != digits+1 {
		return 0, false
	}
	n := manifuse.NodeID(0)
	for _, c := range []byte(name[1:]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + manifuse.NodeID(c-'0')
	}
	return n, true
}

// findMakeable returns the flag of a name that may be made and its node, nil for other names.
func (n *null) findMakeable(parent manifuse.NodeID, name string) (*atomic.Bool, manifuse.NodeID) {
	i, ok := number(name, 3)
	if !ok || i >= makeable || name[0] != 'c' || parent != manifuse.Root {
		return nil, 0
	}
	return &n.made[i], firstMade + i
}

func (n *null) find(parent manifuse.NodeID, name string) (manifuse.NodeID, bool) {
	if i, ok := number(name, 4); ok {
		return firstFile + i, name[0] == 'f' && parent == manifuse.Root
	}
	if name == "big" {
		return big, parent == manifuse.Root
	}
	made, node := n.findMakeable(parent, name)
	return node, made != nil && made.Load()
}

func size(node manifuse.NodeID) uint64 {
	switch {
	case node < big:
		return fileSize
	case node == big:
		return bigSize
	}
	return 0
}

func attr(node manifuse.NodeID) manifuse.Attr {
	if node == manifuse.Root {
		return manifuse.Attr{Mode: syscall.S_IFDIR | 0o755, Nlink: 2, Blksize: 4096}
	}
	n, mode := size(node), uint32(syscall.S_IFREG|0o444)
	if node >= big {
		mode = syscall.S_IFREG | 0o644
	}
	return manifuse.Attr{Mode: mode, Nlink: 1, Size: n, Blocks: n / 512, Blksize: 4096}
}

func (n *null) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	node, ok := n.find(parent, name)
	if !ok {
		return manifuse.Entry{}, syscall.ENOENT
	}
	return manifuse.Entry{Node: node, Attr: attr(node)}, nil
}

func (*null) Getattr(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle) (manifuse.Attr, error) {
	return attr(node), nil
}

// Setattr forgets sizes and times as Write forgets bytes.
func (*null) Setattr(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, set *manifuse.SetAttr) (manifuse.Attr, error) {
	if node < big || set.Valid&(manifuse.SetMode|manifuse.SetUID|manifuse.SetGID) != 0 {
		return manifuse.Attr{}, syscall.EROFS
	}
	return attr(node), nil
}

func (n *null) Create(r *manifuse.Request, parent manifuse.NodeID, name string, mode, flags uint32) (manifuse.Entry, manifuse.Open, error) {
	made, node := n.findMakeable(parent, name)
	if made == nil {
		return manifuse.Entry{}, manifuse.Open{}, syscall.EROFS
	}
	if made.Swap(true) {
		return manifuse.Entry{}, manifuse.Open{}, syscall.EEXIST
	}
	return manifuse.Entry{Node: node, Attr: attr(node)}, manifuse.Open{Flags: manifuse.OpenDirectIO}, nil
}

func (n *null) Unlink(r *manifuse.Request, parent manifuse.NodeID, name string) error {
	made, _ := n.findMakeable(parent, name)
	if made == nil {
		return syscall.EROFS
	}
	if !made.Swap(false) {
		return syscall.ENOENT
	}
	return nil
}

func (*null) Open(r *manifuse.Request, node manifuse.NodeID, flags uint32) (manifuse.Open, error) {
	switch {
	case flags&syscall.O_ACCMODE != syscall.O_RDONLY && node < big:
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

func (*null) Write(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, src []byte, off int64) (int, error) {
	if node != big {
		return 0, syscall.EROFS
	}
	return len(src), nil
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
