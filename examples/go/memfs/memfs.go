package main

import (
	"sync"
	"syscall"
	"time"

	"github.com/manifuse/manifuse/bindings/go"
)

// keep is how long the kernel may answer by itself: nobody else changes anything.
const keep = time.Hour

const (
	renameNoReplace = 1
	renameExchange  = 2
	xattrCreate     = 1
	xattrReplace    = 2
	fileLimit       = 1 << 32 // bytes of one file
)

type node struct {
	id       manifuse.NodeID
	attr     manifuse.Attr
	data     []byte
	target   string
	children map[string]*node
	parent   *node // of a directory
	xattrs   map[string][]byte
	lookups  uint64 // references that the kernel has
}

type memfs struct {
	manifuse.Defaults
	mu     sync.RWMutex
	nodes  map[manifuse.NodeID]*node
	lists  map[manifuse.Handle][]manifuse.Dirent // of open directories
	last   manifuse.NodeID                       // node ids are never used twice
	handle manifuse.Handle
	bytes  uint64
}

func newMemfs() *memfs {
	m := &memfs{nodes: map[manifuse.NodeID]*node{}, lists: map[manifuse.Handle][]manifuse.Dirent{}}
	root := m.make(&manifuse.Request{}, syscall.S_IFDIR|0o755)
	root.lookups, root.parent = 1, root
	root.attr.Nlink = 2
	return m
}

func (m *memfs) make(r *manifuse.Request, mode uint32) *node {
	m.last++
	n := &node{id: m.last, attr: manifuse.Attr{
		Ino: uint64(m.last), Mode: mode, Nlink: 1, UID: r.UID, GID: r.GID, Timeout: keep,
	}}
	now := time.Now()
	n.attr.SetTimes(now, now, now)
	if n.attr.IsDir() {
		n.children = map[string]*node{}
	}
	m.nodes[n.id] = n
	return n
}

// dir finds a directory that still has a name.
func (m *memfs) dir(id manifuse.NodeID) (*node, error) {
	n := m.nodes[id]
	switch {
	case n == nil:
		return nil, syscall.ESTALE
	case n.children == nil:
		return nil, syscall.ENOTDIR
	}
	return n, nil
}

func (m *memfs) child(id manifuse.NodeID, name string) (dir, n *node, err error) {
	if dir, err = m.dir(id); err != nil {
		return nil, nil, err
	}
	if n = dir.children[name]; n == nil {
		return dir, nil, syscall.ENOENT
	}
	return dir, n, nil
}

// entry gives the kernel one more reference.
func (n *node) entry() manifuse.Entry {
	n.lookups++
	return manifuse.Entry{Node: n.id, Attr: n.attr, Timeout: keep}
}

func (n *node) changed() {
	now := time.Now()
	n.attr.Ctime, n.attr.CtimeNsec = now.Unix(), uint32(now.Nanosecond())
	n.attr.Mtime, n.attr.MtimeNsec = n.attr.Ctime, n.attr.CtimeNsec
}

func (m *memfs) put(dir *node, name string, n *node) {
	dir.children[name] = n
	if n.children != nil {
		n.parent = dir
		dir.attr.Nlink++
	}
	dir.changed()
}

// take removes a name. What has no name and no reference goes.
func (m *memfs) take(dir *node, name string) {
	n := dir.children[name]
	delete(dir.children, name)
	dir.changed()
	if n.children != nil {
		dir.attr.Nlink--
	}
}

func (m *memfs) unlinked(n *node) {
	n.attr.Nlink--
	if n.children != nil {
		n.attr.Nlink = 0
	}
	m.drop(n)
}

func (m *memfs) drop(n *node) {
	if n.attr.Nlink == 0 && n.lookups == 0 {
		m.bytes -= uint64(len(n.data))
		delete(m.nodes, n.id)
	}
}

func (m *memfs) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, n, err := m.child(parent, name)
	if err == syscall.ENOENT {
		return manifuse.Entry{Timeout: keep}, nil // there is no such name, and the kernel may remember that
	}
	if err != nil {
		return manifuse.Entry{}, err
	}
	return n.entry(), nil
}

func (m *memfs) ForgetMany(r *manifuse.Request, nodes []manifuse.Forgotten) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range nodes {
		if n := m.nodes[f.Node]; n != nil {
			n.lookups -= min(n.lookups, f.Lookups)
			m.drop(n)
		}
	}
}

func (m *memfs) Getattr(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle) (manifuse.Attr, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if n := m.nodes[id]; n != nil {
		return n.attr, nil
	}
	return manifuse.Attr{}, syscall.ESTALE
}

func (m *memfs) Setattr(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle, set *manifuse.SetAttr) (manifuse.Attr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[id]
	if n == nil {
		return manifuse.Attr{}, syscall.ESTALE
	}
	if set.Valid&manifuse.SetSize != 0 {
		if err := m.resize(n, set.Attr.Size); err != nil {
			return manifuse.Attr{}, err
		}
		if set.Valid&(manifuse.SetMtime|manifuse.SetMtimeNow) == 0 {
			n.changed()
		}
	}
	if set.Valid&manifuse.KillSuidGid != 0 {
		n.attr.Mode &^= syscall.S_ISUID | syscall.S_ISGID
	}
	set.Apply(&n.attr)
	return n.attr, nil
}

func (m *memfs) resize(n *node, size uint64) error {
	if size > fileLimit {
		return syscall.EFBIG
	}
	m.bytes += size - uint64(len(n.data))
	if size <= uint64(cap(n.data)) {
		clear(n.data[min(size, uint64(len(n.data))):]) // what may come back by growing is zero
		n.data = n.data[:size]
	} else {
		data := make([]byte, size, max(size, min(2*uint64(cap(n.data)), size+1<<24)))
		copy(data, n.data)
		n.data = data
	}
	n.attr.Size = size
	n.attr.Blocks = (size + 511) / 512
	return nil
}

func (m *memfs) Readlink(r *manifuse.Request, id manifuse.NodeID) (string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if n := m.nodes[id]; n != nil && n.target != "" {
		return n.target, nil
	}
	return "", syscall.EINVAL
}

// add makes a node under a new name.
func (m *memfs) add(r *manifuse.Request, parent manifuse.NodeID, name string, mode uint32) (*node, error) {
	dir, _, err := m.child(parent, name)
	if err == nil {
		return nil, syscall.EEXIST
	}
	if err != syscall.ENOENT {
		return nil, err
	}
	if dir.attr.Nlink == 0 {
		return nil, syscall.ENOENT
	}
	if len(name) > 255 {
		return nil, syscall.ENAMETOOLONG
	}
	n := m.make(r, mode)
	if dir.attr.Mode&syscall.S_ISGID != 0 {
		n.attr.GID = dir.attr.GID
		if n.children != nil {
			n.attr.Mode |= syscall.S_ISGID
		}
	}
	if n.children != nil {
		n.attr.Nlink = 2
	}
	m.put(dir, name, n)
	return n, nil
}

func (m *memfs) Symlink(r *manifuse.Request, parent manifuse.NodeID, name, target string) (manifuse.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.add(r, parent, name, syscall.S_IFLNK|0o777)
	if err != nil {
		return manifuse.Entry{}, err
	}
	n.target = target
	n.attr.Size = uint64(len(target))
	return n.entry(), nil
}

func (m *memfs) Mknod(r *manifuse.Request, parent manifuse.NodeID, name string, mode, rdev uint32) (manifuse.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.add(r, parent, name, mode)
	if err != nil {
		return manifuse.Entry{}, err
	}
	n.attr.Rdev = rdev
	return n.entry(), nil
}

func (m *memfs) Mkdir(r *manifuse.Request, parent manifuse.NodeID, name string, mode uint32) (manifuse.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.add(r, parent, name, syscall.S_IFDIR|mode&0o7777)
	if err != nil {
		return manifuse.Entry{}, err
	}
	return n.entry(), nil
}

func (m *memfs) Create(r *manifuse.Request, parent manifuse.NodeID, name string, mode, flags uint32) (manifuse.Entry, manifuse.Open, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.add(r, parent, name, mode)
	if err != nil {
		return manifuse.Entry{}, manifuse.Open{}, err
	}
	return n.entry(), manifuse.Open{Flags: manifuse.OpenKeepCache}, nil
}

func (m *memfs) Unlink(r *manifuse.Request, parent manifuse.NodeID, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, n, err := m.child(parent, name)
	if err != nil {
		return err
	}
	if n.children != nil {
		return syscall.EISDIR
	}
	m.take(dir, name)
	m.unlinked(n)
	return nil
}

func (m *memfs) Rmdir(r *manifuse.Request, parent manifuse.NodeID, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, n, err := m.child(parent, name)
	if err != nil {
		return err
	}
	if n.children == nil {
		return syscall.ENOTDIR
	}
	if len(n.children) > 0 {
		return syscall.ENOTEMPTY
	}
	m.take(dir, name)
	m.unlinked(n)
	return nil
}

func (m *memfs) Rename(r *manifuse.Request, parent manifuse.NodeID, name string, newParent manifuse.NodeID, newName string, flags uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, n, err := m.child(parent, name)
	if err != nil {
		return err
	}
	to, old, err := m.child(newParent, newName)
	if err != nil && (err != syscall.ENOENT || to == nil) {
		return err
	}
	switch {
	case flags&renameExchange != 0 && old == nil:
		return syscall.ENOENT
	case flags&renameNoReplace != 0 && old != nil:
		return syscall.EEXIST
	case old == n:
		return nil
	case flags&renameExchange != 0:
		m.take(from, name)
		m.take(to, newName)
		m.put(to, newName, n)
		m.put(from, name, old)
		return nil
	}
	if old != nil {
		switch {
		case n.children != nil && old.children == nil:
			return syscall.ENOTDIR
		case n.children == nil && old.children != nil:
			return syscall.EISDIR
		case len(old.children) > 0:
			return syscall.ENOTEMPTY
		}
		m.take(to, newName)
		m.unlinked(old)
	}
	m.take(from, name)
	m.put(to, newName, n)
	return nil
}

func (m *memfs) Link(r *manifuse.Request, id, newParent manifuse.NodeID, newName string) (manifuse.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[id]
	if n == nil || n.attr.Nlink == 0 {
		return manifuse.Entry{}, syscall.ENOENT
	}
	if n.children != nil {
		return manifuse.Entry{}, syscall.EPERM
	}
	dir, _, err := m.child(newParent, newName)
	if err == nil {
		return manifuse.Entry{}, syscall.EEXIST
	}
	if err != syscall.ENOENT {
		return manifuse.Entry{}, err
	}
	n.attr.Nlink++
	m.put(dir, newName, n)
	return n.entry(), nil
}

func (m *memfs) Open(r *manifuse.Request, id manifuse.NodeID, flags uint32) (manifuse.Open, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[id]
	if n == nil {
		return manifuse.Open{}, syscall.ESTALE
	}
	if flags&syscall.O_TRUNC != 0 {
		n.changed()
		return manifuse.Open{Flags: manifuse.OpenKeepCache}, m.resize(n, 0)
	}
	return manifuse.Open{Flags: manifuse.OpenKeepCache}, nil
}

func (m *memfs) Read(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle, dst []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.nodes[id]
	if n == nil {
		return 0, syscall.ESTALE
	}
	return copy(dst, n.data[min(off, int64(len(n.data))):]), nil
}

func (m *memfs) Write(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle, src []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[id]
	if n == nil {
		return 0, syscall.ESTALE
	}
	if end := uint64(off) + uint64(len(src)); end > uint64(len(n.data)) {
		if err := m.resize(n, end); err != nil {
			return 0, err
		}
	}
	n.changed()
	return copy(n.data[off:], src), nil
}

// Flush, Fsync and Fsyncdir have nothing to do: what is written is where it stays.
func (m *memfs) Flush(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle) error { return nil }

// Release has nothing to do either: the kernel holds a reference while a file is open.
func (m *memfs) Release(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle, flags uint32) error {
	return nil
}

// Fsync: see Flush.
func (m *memfs) Fsync(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle, dataOnly bool) error {
	return nil
}

// Fsyncdir: see Flush.
func (m *memfs) Fsyncdir(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle, dataOnly bool) error {
	return nil
}

// Opendir keeps the listing as it is now: whoever reads it is not confused by what changes meanwhile.
func (m *memfs) Opendir(r *manifuse.Request, id manifuse.NodeID, flags uint32) (manifuse.Open, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.dir(id)
	if err != nil {
		return manifuse.Open{}, err
	}
	list := []manifuse.Dirent{
		{Name: ".", Ino: uint64(n.id), Type: syscall.S_IFDIR},
		{Name: "..", Ino: uint64(n.parent.id), Type: syscall.S_IFDIR},
	}
	for name, c := range n.children {
		list = append(list, manifuse.Dirent{Name: name, Ino: uint64(c.id), Type: c.attr.Mode & syscall.S_IFMT})
	}
	m.handle++
	m.lists[m.handle] = list
	return manifuse.Open{Handle: m.handle}, nil
}

func (m *memfs) Readdir(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle, off uint64, d *manifuse.DirBuffer) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	d.AddAll(off, m.lists[fh])
	return nil
}

func (m *memfs) Releasedir(r *manifuse.Request, id manifuse.NodeID, fh manifuse.Handle, flags uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.lists, fh)
	return nil
}

func (m *memfs) Statfs(r *manifuse.Request, id manifuse.NodeID) (manifuse.Statfs, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	const limit = 1 << 40
	free := (limit - min(m.bytes, limit)) / 4096
	return manifuse.Statfs{
		Blocks: limit / 4096, Bfree: free, Bavail: free, Files: uint64(len(m.nodes)) + 1<<20, Ffree: 1 << 20,
		Bsize: 4096, Frsize: 4096, Namelen: 255,
	}, nil
}

// Access is not asked where the kernel checks permissions; without default_permissions everything is allowed.
func (m *memfs) Access(r *manifuse.Request, id manifuse.NodeID, mask uint32) error { return nil }

func (m *memfs) Setxattr(r *manifuse.Request, id manifuse.NodeID, name string, value []byte, flags uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[id]
	if n == nil {
		return syscall.ESTALE
	}
	_, exists := n.xattrs[name]
	switch {
	case flags&xattrCreate != 0 && exists:
		return syscall.EEXIST
	case flags&xattrReplace != 0 && !exists:
		return syscall.ENODATA
	case n.xattrs == nil:
		n.xattrs = map[string][]byte{}
	}
	n.xattrs[name] = append([]byte(nil), value...) // value is the engine's memory
	return nil
}

func (m *memfs) Getxattr(r *manifuse.Request, id manifuse.NodeID, name string) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.nodes[id]
	if n == nil {
		return nil, syscall.ESTALE
	}
	value, ok := n.xattrs[name]
	if !ok {
		return nil, syscall.ENODATA
	}
	return value, nil // replaced as a whole by Setxattr, so nobody writes to it
}

func (m *memfs) Listxattr(r *manifuse.Request, id manifuse.NodeID) ([]string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.nodes[id]
	if n == nil {
		return nil, syscall.ESTALE
	}
	names := make([]string, 0, len(n.xattrs))
	for name := range n.xattrs {
		names = append(names, name)
	}
	return names, nil
}

func (m *memfs) Removexattr(r *manifuse.Request, id manifuse.NodeID, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[id]
	if n == nil {
		return syscall.ESTALE
	}
	if _, ok := n.xattrs[name]; !ok {
		return syscall.ENODATA
	}
	delete(n.xattrs, name)
	return nil
}
