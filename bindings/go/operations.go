package manifuse

import (
	"io"
	"reflect"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// methods are a filesystem's, by operation; nil where it has none.
type methods struct {
	lookuper      Lookuper
	forgetter     Forgetter
	manyForgetter ManyForgetter
	getattrer     Getattrer
	setattrer     Setattrer
	readlinker    Readlinker
	symlinker     Symlinker
	mknoder       Mknoder
	mkdirer       Mkdirer
	unlinker      Unlinker
	rmdirer       Rmdirer
	renamer       Renamer
	linker        Linker
	opener        Opener
	creater       Creater
	reader        Reader
	writer        Writer
	flusher       Flusher
	releaser      Releaser
	fsyncer       Fsyncer
	opendirer     Opendirer
	readdirer     Readdirer
	releasedirer  Releasedirer
	fsyncdirer    Fsyncdirer
	statfser      Statfser
	accesser      Accesser
	setxattrer    Setxattrer
	getxattrer    Getxattrer
	listxattrer   Listxattrer
	removexattrer Removexattrer
	destroyer     Destroyer
}

// operation is one row of the table of operations: what a filesystem must have for it, and how it is called.
type operation struct {
	op     uint32
	method string
	wants  reflect.Type
	bind   func(*methods, any) bool
	call   func(*server, *readerState, *raw.Call) int32
}

func row[T any](op uint32, slot func(*methods) *T, call func(*server, *readerState, *raw.Call) int32) operation {
	wants := reflect.TypeOf((*T)(nil)).Elem()
	return operation{op, wants.Method(0).Name, wants, func(m *methods, fs any) bool {
		v, ok := fs.(T)
		*slot(m) = v
		return ok
	}, call}
}

var operations []operation

func init() {
	operations = []operation{
		row(raw.OpLookup, func(m *methods) *Lookuper { return &m.lookuper }, callLookup),
		row(raw.OpForget, func(m *methods) *Forgetter { return &m.forgetter }, callForget),
		row(raw.OpForget, func(m *methods) *ManyForgetter { return &m.manyForgetter }, callForgetMany),
		row(raw.OpGetattr, func(m *methods) *Getattrer { return &m.getattrer }, callGetattr),
		row(raw.OpSetattr, func(m *methods) *Setattrer { return &m.setattrer }, callSetattr),
		row(raw.OpReadlink, func(m *methods) *Readlinker { return &m.readlinker }, callReadlink),
		row(raw.OpSymlink, func(m *methods) *Symlinker { return &m.symlinker }, callSymlink),
		row(raw.OpMknod, func(m *methods) *Mknoder { return &m.mknoder }, callMknod),
		row(raw.OpMkdir, func(m *methods) *Mkdirer { return &m.mkdirer }, callMkdir),
		row(raw.OpUnlink, func(m *methods) *Unlinker { return &m.unlinker }, callUnlink),
		row(raw.OpRmdir, func(m *methods) *Rmdirer { return &m.rmdirer }, callRmdir),
		row(raw.OpRename, func(m *methods) *Renamer { return &m.renamer }, callRename),
		row(raw.OpLink, func(m *methods) *Linker { return &m.linker }, callLink),
		row(raw.OpOpen, func(m *methods) *Opener { return &m.opener }, callOpen),
		row(raw.OpCreate, func(m *methods) *Creater { return &m.creater }, callCreate),
		row(raw.OpRead, func(m *methods) *Reader { return &m.reader }, callRead),
		row(raw.OpWrite, func(m *methods) *Writer { return &m.writer }, callWrite),
		row(raw.OpFlush, func(m *methods) *Flusher { return &m.flusher }, callFlush),
		row(raw.OpRelease, func(m *methods) *Releaser { return &m.releaser }, callRelease),
		row(raw.OpFsync, func(m *methods) *Fsyncer { return &m.fsyncer }, callFsync),
		row(raw.OpOpendir, func(m *methods) *Opendirer { return &m.opendirer }, callOpendir),
		row(raw.OpReaddir, func(m *methods) *Readdirer { return &m.readdirer }, callReaddir),
		row(raw.OpReleasedir, func(m *methods) *Releasedirer { return &m.releasedirer }, callReleasedir),
		row(raw.OpFsyncdir, func(m *methods) *Fsyncdirer { return &m.fsyncdirer }, callFsyncdir),
		row(raw.OpStatfs, func(m *methods) *Statfser { return &m.statfser }, callStatfs),
		row(raw.OpAccess, func(m *methods) *Accesser { return &m.accesser }, callAccess),
		row(raw.OpSetxattr, func(m *methods) *Setxattrer { return &m.setxattrer }, callSetxattr),
		row(raw.OpGetxattr, func(m *methods) *Getxattrer { return &m.getxattrer }, callGetxattr),
		row(raw.OpListxattr, func(m *methods) *Listxattrer { return &m.listxattrer }, callListxattr),
		row(raw.OpRemovexattr, func(m *methods) *Removexattrer { return &m.removexattrer }, callRemovexattr),
	}
}

func callLookup(s *server, rd *readerState, c *raw.Call) int32 {
	e, err := s.fs.lookuper.Lookup(&rd.req, NodeID(c.Node), rd.names.get(c.Name, c.NameLen))
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	answerEntry(&c.Answer, &e)
	return 0
}

func forgets(c *raw.Call) []raw.Forget { return unsafe.Slice((*raw.Forget)(c.Data), int(c.Length)) }

func callForget(s *server, rd *readerState, c *raw.Call) int32 {
	for _, f := range forgets(c) {
		s.fs.forgetter.Forget(&rd.req, NodeID(f.Node), f.Nlookup)
	}
	return 0
}

func callForgetMany(s *server, rd *readerState, c *raw.Call) int32 {
	rd.many = rd.many[:0]
	for _, f := range forgets(c) {
		rd.many = append(rd.many, Forgotten{NodeID(f.Node), f.Nlookup})
	}
	s.fs.manyForgetter.ForgetMany(&rd.req, rd.many)
	return 0
}

func callGetattr(s *server, rd *readerState, c *raw.Call) int32 {
	a, err := s.fs.getattrer.Getattr(&rd.req, NodeID(c.Node), Handle(c.Fh))
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	answerAttr(&c.Answer, &a)
	return 0
}

func callSetattr(s *server, rd *readerState, c *raw.Call) int32 {
	rd.set.Valid = SetFlags(c.Valid)
	*rawAttr(&rd.set.Attr) = c.Attr
	a, err := s.fs.setattrer.Setattr(&rd.req, NodeID(c.Node), Handle(c.Fh), &rd.set)
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	answerAttr(&c.Answer, &a)
	return 0
}

func callReadlink(s *server, rd *readerState, c *raw.Call) int32 {
	target, err := s.fs.readlinker.Readlink(&rd.req, NodeID(c.Node))
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	if target == "" || len(target) > 4095 || strings.IndexByte(target, 0) >= 0 {
		return s.nonsense(c, "%.60q cannot be a link's target", target)
	}
	return rd.answerBytes(c, target)
}

func callSymlink(s *server, rd *readerState, c *raw.Call) int32 {
	target := string(unsafe.Slice((*byte)(c.Name2), c.Name2Len))
	e, err := s.fs.symlinker.Symlink(&rd.req, NodeID(c.Node), rd.names.get(c.Name, c.NameLen), target)
	return s.made(rd, c, &e, err)
}

func callMknod(s *server, rd *readerState, c *raw.Call) int32 {
	e, err := s.fs.mknoder.Mknod(&rd.req, NodeID(c.Node), rd.names.get(c.Name, c.NameLen), c.Mode, c.Rdev)
	return s.made(rd, c, &e, err)
}

func callMkdir(s *server, rd *readerState, c *raw.Call) int32 {
	e, err := s.fs.mkdirer.Mkdir(&rd.req, NodeID(c.Node), rd.names.get(c.Name, c.NameLen), c.Mode)
	return s.made(rd, c, &e, err)
}

func callUnlink(s *server, rd *readerState, c *raw.Call) int32 {
	return s.done(rd, c, s.fs.unlinker.Unlink(&rd.req, NodeID(c.Node), rd.names.get(c.Name, c.NameLen)))
}

func callRmdir(s *server, rd *readerState, c *raw.Call) int32 {
	return s.done(rd, c, s.fs.rmdirer.Rmdir(&rd.req, NodeID(c.Node), rd.names.get(c.Name, c.NameLen)))
}

func callRename(s *server, rd *readerState, c *raw.Call) int32 {
	return s.done(rd, c, s.fs.renamer.Rename(&rd.req, NodeID(c.Node), rd.names.get(c.Name, c.NameLen), NodeID(c.Node2),
		rd.names.get(c.Name2, c.Name2Len), c.Flags))
}

func callLink(s *server, rd *readerState, c *raw.Call) int32 {
	e, err := s.fs.linker.Link(&rd.req, NodeID(c.Node), NodeID(c.Node2), rd.names.get(c.Name2, c.Name2Len))
	return s.made(rd, c, &e, err)
}

func callOpen(s *server, rd *readerState, c *raw.Call) int32 {
	o, err := s.fs.opener.Open(&rd.req, NodeID(c.Node), c.Flags)
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	answerOpen(&c.Answer, &o)
	return 0
}

func callCreate(s *server, rd *readerState, c *raw.Call) int32 {
	e, o, err := s.fs.creater.Create(&rd.req, NodeID(c.Node), rd.names.get(c.Name, c.NameLen), c.Mode, c.Flags)
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	answerEntry(&c.Answer, &e)
	answerOpen(&c.Answer, &o)
	return 0
}

func callRead(s *server, rd *readerState, c *raw.Call) int32 {
	dst := unsafe.Slice((*byte)(c.Buf), int(min(c.Length, c.BufSize)))
	n, err := s.fs.reader.Read(&rd.req, NodeID(c.Node), Handle(c.Fh), dst, int64(c.Offset))
	if err != nil && err != io.EOF || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	if rd.req.answered {
		if c.Answer.DataLen > c.Length {
			return s.nonsense(c, "%d bytes where %d were asked", c.Answer.DataLen, c.Length)
		}
		return 0
	}
	if uint(n) > uint(len(dst)) {
		return s.nonsense(c, "%d bytes where %d were asked", n, len(dst))
	}
	c.Answer.DataLen = uint64(n)
	return 0
}

func callWrite(s *server, rd *readerState, c *raw.Call) int32 {
	src := unsafe.Slice((*byte)(c.Data), int(c.Length))
	n, err := s.fs.writer.Write(&rd.req, NodeID(c.Node), Handle(c.Fh), src, int64(c.Offset))
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	if uint(n) > uint(len(src)) {
		return s.nonsense(c, "%d bytes where %d were given", n, len(src))
	}
	c.Answer.Value = uint64(n)
	return 0
}

func callFlush(s *server, rd *readerState, c *raw.Call) int32 {
	return s.done(rd, c, s.fs.flusher.Flush(&rd.req, NodeID(c.Node), Handle(c.Fh)))
}

func callRelease(s *server, rd *readerState, c *raw.Call) int32 {
	return s.done(rd, c, s.fs.releaser.Release(&rd.req, NodeID(c.Node), Handle(c.Fh), c.Flags))
}

func callFsync(s *server, rd *readerState, c *raw.Call) int32 {
	return s.done(rd, c, s.fs.fsyncer.Fsync(&rd.req, NodeID(c.Node), Handle(c.Fh), c.Flags&1 != 0))
}

func callOpendir(s *server, rd *readerState, c *raw.Call) int32 {
	o, err := s.fs.opendirer.Opendir(&rd.req, NodeID(c.Node), c.Flags)
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	answerOpen(&c.Answer, &o)
	return 0
}

func callReaddir(s *server, rd *readerState, c *raw.Call) int32 {
	d := &rd.dir
	*d = DirBuffer{buf: unsafe.Slice((*byte)(c.Buf), int(min(c.Length, c.BufSize)))}
	err := s.fs.readdirer.Readdir(&rd.req, NodeID(c.Node), Handle(c.Fh), c.Offset, d)
	used, bad := d.used, d.bad
	*d = DirBuffer{}
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	if bad != "" {
		return s.nonsense(c, "%s", bad)
	}
	c.Answer.DataLen = uint64(used)
	return 0
}

func callReleasedir(s *server, rd *readerState, c *raw.Call) int32 {
	return s.done(rd, c, s.fs.releasedirer.Releasedir(&rd.req, NodeID(c.Node), Handle(c.Fh), c.Flags))
}

func callFsyncdir(s *server, rd *readerState, c *raw.Call) int32 {
	return s.done(rd, c, s.fs.fsyncdirer.Fsyncdir(&rd.req, NodeID(c.Node), Handle(c.Fh), c.Flags&1 != 0))
}

func callStatfs(s *server, rd *readerState, c *raw.Call) int32 {
	st, err := s.fs.statfser.Statfs(&rd.req, NodeID(c.Node))
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	record := st.raw()
	rd.answerBytes(c, unsafe.String((*byte)(unsafe.Pointer(&record)), unsafe.Sizeof(record)))
	if c.Answer.Data == 0 {
		c.Answer.Data = uintptr(c.Buf)
	}
	return 0
}

func callAccess(s *server, rd *readerState, c *raw.Call) int32 {
	return s.done(rd, c, s.fs.accesser.Access(&rd.req, NodeID(c.Node), c.Flags))
}

func callSetxattr(s *server, rd *readerState, c *raw.Call) int32 {
	return s.done(rd, c, s.fs.setxattrer.Setxattr(&rd.req, NodeID(c.Node), rd.names.get(c.Name, c.NameLen),
		unsafe.Slice((*byte)(c.Data), int(c.Length)), c.Flags))
}

func callGetxattr(s *server, rd *readerState, c *raw.Call) int32 {
	value, err := s.fs.getxattrer.Getxattr(&rd.req, NodeID(c.Node), rd.names.get(c.Name, c.NameLen))
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	return s.answerSized(rd, c, unsafe.String(unsafe.SliceData(value), len(value)))
}

func callListxattr(s *server, rd *readerState, c *raw.Call) int32 {
	names, err := s.fs.listxattrer.Listxattr(&rd.req, NodeID(c.Node))
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	list, bad := xattrList(names)
	if bad != "" {
		return s.nonsense(c, "%.60q cannot be the name of an attribute", bad)
	}
	return s.answerSized(rd, c, list)
}

func callRemovexattr(s *server, rd *readerState, c *raw.Call) int32 {
	return s.done(rd, c, s.fs.removexattrer.Removexattr(&rd.req, NodeID(c.Node), rd.names.get(c.Name, c.NameLen)))
}

// xattrList is the list as the kernel wants it, or the first name that cannot be one.
func xattrList(names []string) (list, bad string) {
	var b strings.Builder
	for _, name := range names {
		if name == "" || len(name) > 255 || strings.IndexByte(name, 0) >= 0 {
			return "", name + " "
		}
		b.WriteString(name)
		b.WriteByte(0)
	}
	return b.String(), ""
}

func (s *server) done(rd *readerState, c *raw.Call, err error) int32 {
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	return 0
}

func (s *server) made(rd *readerState, c *raw.Call, e *Entry, err error) int32 {
	if err != nil || rd.req.reply != nil {
		return s.refuse(rd, c, err)
	}
	answerEntry(&c.Answer, e)
	return 0
}

// answerSized answers an attribute's value: whole, or its size where that is asked.
func (s *server) answerSized(rd *readerState, c *raw.Call, b string) int32 {
	switch {
	case c.Length == 0:
		c.Answer.Value = uint64(len(b))
		return 0
	case uint64(len(b)) > c.Length:
		return -int32(syscall.ERANGE)
	}
	return rd.answerBytes(c, b)
}

// answerBytes puts an answer where it stays until it is sent: the request's own buffer, or memory of the reader.
func (rd *readerState) answerBytes(c *raw.Call, b string) int32 {
	c.Answer.DataLen = uint64(len(b))
	if uint64(len(b)) <= c.BufSize {
		copy(unsafe.Slice((*byte)(c.Buf), len(b)), b)
		return 0
	}
	if len(b) > len(rd.scratch) {
		if rd.scratch != nil {
			raw.Free(rd.scratch)
		}
		rd.scratch = raw.Alloc(max(4096, len(b)))
	}
	copy(rd.scratch, b)
	c.Answer.Data = uintptr(unsafe.Pointer(unsafe.SliceData(rd.scratch)))
	return 0
}

// rawAttr is the part of an Attr that the engine has.
func rawAttr(a *Attr) *raw.Attr { return (*raw.Attr)(unsafe.Pointer(a)) }

// An Attr begins as the engine's does; these do not compile where it does not.
const (
	_ = -(unsafe.Offsetof(Attr{}.Timeout) ^ unsafe.Sizeof(raw.Attr{}))
	_ = -(unsafe.Offsetof(Attr{}.Atime) ^ unsafe.Offsetof(raw.Attr{}.Atime))
	_ = -(unsafe.Offsetof(Attr{}.AtimeNsec) ^ unsafe.Offsetof(raw.Attr{}.Atimensec))
	_ = -(unsafe.Offsetof(Attr{}.Mode) ^ unsafe.Offsetof(raw.Attr{}.Mode))
	_ = -(unsafe.Offsetof(Attr{}.Flags) ^ unsafe.Offsetof(raw.Attr{}.Flags))
)

func answerAttr(to *raw.Answer, a *Attr) {
	to.Attr = *rawAttr(a)
	to.AttrTimeout = nanoseconds(a.Timeout)
}

func answerEntry(to *raw.Answer, e *Entry) {
	to.Node = uint64(e.Node)
	to.Generation = e.Generation
	to.EntryTimeout = nanoseconds(e.Timeout)
	to.Attr = *rawAttr(&e.Attr)
	to.AttrTimeout = nanoseconds(e.attrTimeout())
}

func answerOpen(to *raw.Answer, o *Open) {
	to.Fh = uint64(o.Handle)
	to.OpenFlags = uint32(o.Flags)
	to.BackingID = o.BackingID
}

func (e *Entry) attrTimeout() time.Duration {
	if e.Attr.Timeout != 0 {
		return e.Attr.Timeout
	}
	return e.Timeout
}

func nanoseconds(d time.Duration) uint64 { return uint64(max(d, 0)) }

func (e *Entry) raw() raw.Entry {
	return raw.Entry{
		StructSize: uint32(unsafe.Sizeof(raw.Entry{})), Node: uint64(e.Node), Generation: e.Generation,
		EntryTimeout: nanoseconds(e.Timeout), AttrTimeout: nanoseconds(e.attrTimeout()), Attr: *rawAttr(&e.Attr),
	}
}

func (o *Open) raw() raw.Open {
	return raw.Open{
		StructSize: uint32(unsafe.Sizeof(raw.Open{})), Flags: uint32(o.Flags), Fh: uint64(o.Handle),
		BackingID: o.BackingID,
	}
}

func (st *Statfs) raw() raw.Statfs {
	return raw.Statfs{
		StructSize: uint32(unsafe.Sizeof(raw.Statfs{})), Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail,
		Files: st.Files, Ffree: st.Ffree, Bsize: st.Bsize, Namelen: st.Namelen, Frsize: st.Frsize,
	}
}
