// Archive serves a .tar, read-only: archive SOURCE MOUNTPOINT [--readers N] [--clone auto] [-o options]
//
// The index is in memory (index.go), and nothing in it ever changes, so the kernel may keep what it has seen for an
// hour. Content goes from the archive's descriptor to the kernel and never enters Go. Opening is left to the engine:
// the kernel learns once that it is not needed, and never asks again.
package main

import (
	"os"
	"syscall"
	"time"

	"github.com/manifuse/manifuse/bindings/go"
)

const keep = time.Hour

type archive struct {
	manifuse.Defaults
	file  *os.File
	fd    uintptr // of file
	nodes []*node // by node id, from the root on
	bytes uint64
}

// node returns nil if the kernel asks for what never was.
func (a *archive) node(id manifuse.NodeID) *node {
	if i := id - manifuse.Root; i < manifuse.NodeID(len(a.nodes)) {
		return a.nodes[i]
	}
	return nil
}

func (a *archive) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	e := manifuse.Entry{Timeout: keep} // node 0: there is no such name, and that may be kept as well
	if dir := a.node(parent); dir != nil {
		if n := dir.children[name]; n != nil {
			e.Node, e.Attr = n.id, n.attr
		}
	}
	return e, nil
}

func (a *archive) Getattr(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle) (manifuse.Attr, error) {
	n := a.node(id)
	if n == nil {
		return manifuse.Attr{}, syscall.ESTALE
	}
	return n.attr, nil
}

func (a *archive) Readlink(r *manifuse.Request, id manifuse.NodeID) (string, error) {
	n := a.node(id)
	if n == nil || n.target == "" {
		return "", syscall.EINVAL
	}
	return n.target, nil
}

func (a *archive) Read(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle, dst []byte, off int64) (int, error) {
	n := a.node(id)
	if n == nil || n.attr.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return 0, syscall.EINVAL
	}
	left := max(int64(n.attr.Size)-off, 0)
	r.AnswerFD(a.fd, n.offset+off, int(min(left, int64(len(dst)))))
	return 0, nil
}

func (a *archive) Readdir(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle, off uint64, d *manifuse.DirBuffer) error {
	n := a.node(id)
	if n == nil || !n.attr.IsDir() {
		return syscall.ENOTDIR
	}
	d.AddAll(off, n.list)
	return nil
}

func (a *archive) Statfs(r *manifuse.Request, id manifuse.NodeID) (manifuse.Statfs, error) {
	return manifuse.Statfs{
		Blocks: (a.bytes + 511) / 512, Files: uint64(len(a.nodes)), Bsize: 4096, Frsize: 512, Namelen: 255,
	}, nil
}

func (a *archive) Destroy() { _ = a.file.Close() }

func main() {
	manifuse.MainSource(open, func(o *manifuse.Options) {
		o.MountOptions = "ro"
		o.Subtype = "archive"
	})
}
