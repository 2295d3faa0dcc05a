package manifuse

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// Reply answers a request after its method has returned. Exactly one of its methods answers; each further answer
// is [ErrAnswered] and touches nothing. All may be called on any goroutine. The byte slices that the method was
// given stay valid until then. A Reply that is lost without an answer is answered with EIO and logged.
type Reply struct {
	srv    *server
	req    uintptr
	op     uint32
	node   uint64
	length uint64
	ctx    *requestContext
	done   atomic.Bool
	dead   error // the request could not be kept
}

// Defer keeps the request: what the method returns is not the answer, the Reply's is. The reader is free for
// other requests when the method returns. Forget has no answer and cannot be deferred.
func (r *Request) Defer() *Reply {
	if r.reply != nil {
		return r.reply
	}
	c := r.call
	if r.ctx == nil {
		r.ctx = r.srv.newContext(c)
	}
	reply := &Reply{srv: r.srv, req: c.Req, op: c.Op, node: c.Node, length: c.Length, ctx: r.ctx}
	if err := check("defer", raw.MfReqDefer(c.Req), nil); err != nil {
		reply.dead = err
		reply.done.Store(true)
		return reply
	}
	runtime.SetFinalizer(reply, (*Reply).lost)
	r.reply = reply
	return reply
}

func (p *Reply) lost() {
	p.srv.log.Error("a deferred request was never answered", "op", raw.OpName(p.op), "node", p.node)
	_ = p.Err(syscall.EIO)
}

// Context is the request's: cancelled when the caller gives up, the session stops or the request is answered.
func (p *Reply) Context() context.Context { return p.ctx }

// send answers once.
func (p *Reply) send(answer func() int) error {
	if !p.done.CompareAndSwap(false, true) {
		if p.dead != nil {
			return p.dead
		}
		return ErrAnswered
	}
	runtime.SetFinalizer(p, nil)
	p.ctx.end()
	if _, err := p.srv.enter(); err != nil {
		return err
	}
	defer p.srv.leave()
	return check("answer", answer(), nil)
}

// Err answers with an error, as a method's would be; nil is success where there is nothing else to tell.
func (p *Reply) Err(err error) error {
	e := syscall.Errno(0)
	if err != nil {
		e = p.srv.errno(p.op, p.node, err)
	}
	return p.send(func() int { return raw.MfReplyErr(p.req, int(e)) })
}

// Entry answers Lookup, Symlink, Mknod, Mkdir and Link.
func (p *Reply) Entry(e Entry) error {
	v := e.raw()
	return p.send(func() int { return raw.MfReplyEntry(p.req, &v) })
}

// Attr answers Getattr and Setattr.
func (p *Reply) Attr(a Attr) error {
	return p.send(func() int { return raw.MfReplyAttr(p.req, rawAttr(&a), nanoseconds(a.Timeout)) })
}

// Open answers Open and Opendir.
func (p *Reply) Open(o Open) error {
	v := o.raw()
	return p.send(func() int { return raw.MfReplyOpen(p.req, &v) })
}

// Create answers Create.
func (p *Reply) Create(e Entry, o Open) error {
	entry, open := e.raw(), o.raw()
	return p.send(func() int { return raw.MfReplyCreate(p.req, &entry, &open) })
}

// Data answers Read, Readlink and, as Getxattr and Listxattr would be, those. It is copied.
func (p *Reply) Data(b []byte) error {
	if p.op == raw.OpGetxattr || p.op == raw.OpListxattr {
		switch {
		case p.length == 0:
			return p.send(func() int { return raw.MfReplyXattrSize(p.req, uint64(len(b))) })
		case uint64(len(b)) > p.length:
			return p.Err(syscall.ERANGE)
		}
	}
	return p.send(func() int { return raw.MfReplyData(p.req, b) })
}

// Filled answers Read with the first n bytes of the dst that the method was given.
func (p *Reply) Filled(n int) error {
	return p.send(func() int { return raw.MfReplyBuffer(p.req, uint64(n)) })
}

// FD answers Read with up to n bytes of a file from offset off.
func (p *Reply) FD(fd uintptr, off int64, n int) error {
	return p.send(func() int { return raw.MfReplyFd(p.req, int(fd), uint64(off), uint64(max(n, 0))) })
}

// Written answers Write.
func (p *Reply) Written(n int) error {
	return p.send(func() int { return raw.MfReplyWrite(p.req, uint64(n)) })
}

// Statfs answers Statfs.
func (p *Reply) Statfs(st Statfs) error {
	v := st.raw()
	return p.send(func() int { return raw.MfReplyStatfs(p.req, &v) })
}

// Names answers Listxattr.
func (p *Reply) Names(names []string) error {
	list, bad := xattrList(names)
	if bad != "" {
		return p.Err(fmt.Errorf("%.60q cannot be the name of an attribute", strings.TrimSuffix(bad, " ")))
	}
	return p.Data([]byte(list))
}

// Dirents answers Readdir: fill adds the names. It runs before Dirents returns.
func (p *Reply) Dirents(fill func(d *DirBuffer)) error {
	if p.done.Load() {
		return ErrAnswered
	}
	if _, err := p.srv.enter(); err != nil {
		return err
	}
	b := raw.ReqBuffer(p.req)
	p.srv.leave()
	d := DirBuffer{buf: b[:min(uint64(len(b)), p.length)]}
	fill(&d)
	if d.bad != "" {
		return p.Err(fmt.Errorf("impossible answer: %s", d.bad))
	}
	return p.Filled(d.used)
}
