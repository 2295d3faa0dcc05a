package manifuse

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// DirBuffer takes the names of a directory in the form in which the kernel wants them. It is valid until
// Readdir returns and allocates nothing.
type DirBuffer struct {
	buf  []byte // the engine's memory
	used int
	bad  string // why the listing cannot be answered
}

const direntHeader = 24 // node number, position, length of the name, type

// Add adds one name and reports whether there is room for more. False: this name did not fit (or was no name)
// and the listing is full; return, and the kernel asks again from the last position that it took.
//
// The type is of S_IFMT bits, 0 = unknown. Next is the position from which a later Readdir goes on after this
// name; it is not 0.
func (d *DirBuffer) Add(name string, ino uint64, typ uint32, next uint64) bool {
	if d.bad != "" {
		return false
	}
	if name == "" || len(name) > 4095 || strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0 {
		d.bad = fmt.Sprintf("%.60q cannot be a name", name)
		return false
	}
	size := (direntHeader + len(name) + 7) &^ 7
	if size > len(d.buf)-d.used {
		return false
	}
	b := d.buf[d.used : d.used+size]
	binary.NativeEndian.PutUint64(b[0:], ino)
	binary.NativeEndian.PutUint64(b[8:], next)
	binary.NativeEndian.PutUint32(b[16:], uint32(len(name)))
	binary.NativeEndian.PutUint32(b[20:], typ>>12&15)
	clear(b[direntHeader+copy(b[direntHeader:], name):])
	d.used += size
	return true
}

// AddAll adds the names of a listing that is at hand as a whole, from position off on: the n-th name has the
// position n.
func (d *DirBuffer) AddAll(off uint64, list []Dirent) {
	for i := off; i < uint64(len(list)); i++ {
		if !d.Add(list[i].Name, list[i].Ino, list[i].Type, i+1) {
			return
		}
	}
}
