package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/manifuse/manifuse/bindings/go"
)

// node is a file or directory of the archive.
type node struct {
	id       manifuse.NodeID
	attr     manifuse.Attr
	offset   int64  // of the content in the archive
	target   string // of a symbolic link
	parent   *node
	children map[string]*node
	list     []manifuse.Dirent // of the children, with the dots, by name
}

// open reads the index of an archive.
func open(source string) (any, error) {
	f, err := os.Open(source)
	if err != nil {
		return nil, err
	}
	a := &archive{file: f, fd: f.Fd()}
	if err := a.index(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	return a, nil
}

func (a *archive) index() error {
	root := a.add(nil, "", manifuse.Attr{Mode: syscall.S_IFDIR | 0o755})
	root.attr.SetTimes(time.Now(), time.Now(), time.Now())
	t := tar.NewReader(a.file)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := a.member(root, h); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	a.finish()
	return nil
}

// member adds what one header describes. The reader stands at the content, which it reads without looking ahead.
func (a *archive) member(root *node, h *tar.Header) error {
	if h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" {
		return errors.New("sparse files are not supported")
	}
	parts := split(h.Name)
	attr := manifuse.Attr{
		Mode: typeOf[h.Typeflag] | uint32(h.Mode&0o7777), UID: uint32(h.Uid), GID: uint32(h.Gid), Nlink: 1,
		Rdev: uint32(h.Devminor&0xff | h.Devmajor<<8 | h.Devminor&^0xff<<12),
	}
	attr.SetTimes(h.ModTime, h.ModTime, h.ModTime)
	if len(parts) == 0 { // the root itself
		attr.Mode = syscall.S_IFDIR | attr.Mode&0o7777
		root.attr = attr
		return nil
	}
	dir := root
	for _, name := range parts[:len(parts)-1] {
		next := dir.children[name]
		if next == nil { // an archive may leave directories out
			next = a.add(dir, name, manifuse.Attr{Mode: syscall.S_IFDIR | 0o755, Nlink: 1, Mtime: attr.Mtime, Ctime: attr.Ctime})
		}
		if next.children == nil {
			return fmt.Errorf("%s is no directory", name)
		}
		dir = next
	}
	name := parts[len(parts)-1]
	switch {
	case h.Typeflag == tar.TypeLink:
		old := find(root, split(h.Linkname))
		if old == nil || old.children != nil {
			return fmt.Errorf("link to %s, which is not there", h.Linkname)
		}
		dir.children[name] = old
		old.attr.Nlink++
		return nil
	case typeOf[h.Typeflag] == 0:
		return nil // of no meaning for a filesystem
	}
	if old := dir.children[name]; old != nil && old.children != nil && attr.IsDir() {
		old.attr = attr
		return nil
	}
	n := a.add(dir, name, attr) // a later member of the same name takes the earlier one's place
	switch h.Typeflag {
	case tar.TypeReg:
		at, err := a.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		n.offset = at
		n.attr.Size = uint64(h.Size)
		n.attr.Blocks = (n.attr.Size + 511) / 512
		a.bytes += n.attr.Size
	case tar.TypeSymlink:
		n.target = h.Linkname
		n.attr.Size = uint64(len(h.Linkname))
	}
	return nil
}

var typeOf = map[byte]uint32{
	tar.TypeReg: syscall.S_IFREG, tar.TypeDir: syscall.S_IFDIR, tar.TypeSymlink: syscall.S_IFLNK,
	tar.TypeChar: syscall.S_IFCHR, tar.TypeBlock: syscall.S_IFBLK, tar.TypeFifo: syscall.S_IFIFO,
	tar.TypeLink: syscall.S_IFREG,
}

func (a *archive) add(dir *node, name string, attr manifuse.Attr) *node {
	n := &node{id: manifuse.Root + manifuse.NodeID(len(a.nodes)), attr: attr, parent: dir}
	if attr.IsDir() {
		n.children = map[string]*node{}
	}
	a.nodes = append(a.nodes, n)
	if dir != nil {
		dir.children[name] = n
	}
	return n
}

func find(from *node, parts []string) *node {
	for _, name := range parts {
		if from == nil {
			return nil
		}
		from = from.children[name]
	}
	return from
}

// split gives the names of a path without those that lead nowhere or out of the archive.
func split(path string) []string {
	var parts []string
	for _, name := range strings.Split(path, "/") {
		switch name {
		case "", ".":
		case "..":
			parts = parts[:max(len(parts)-1, 0)]
		default:
			parts = append(parts, name)
		}
	}
	return parts
}

// finish makes the listings and sets what depends on the whole.
func (a *archive) finish() {
	for _, n := range a.nodes {
		n.attr.Ino = uint64(n.id)
		if n.children == nil {
			continue
		}
		up := n
		if n.parent != nil {
			up = n.parent
		}
		n.attr.Nlink = 2
		n.list = append(n.list,
			manifuse.Dirent{Name: ".", Ino: uint64(n.id), Type: syscall.S_IFDIR},
			manifuse.Dirent{Name: "..", Ino: uint64(up.id), Type: syscall.S_IFDIR})
		for name, child := range n.children {
			if child.children != nil {
				n.attr.Nlink++
			}
			n.list = append(n.list, manifuse.Dirent{Name: name, Ino: uint64(child.id), Type: child.attr.Mode & syscall.S_IFMT})
		}
		names := n.list[2:]
		sort.Slice(names, func(i, j int) bool { return names[i].Name < names[j].Name })
	}
}
