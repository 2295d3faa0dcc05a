// Slow serves handlers that take their time, as bench/handlers/slow.c says: slow MOUNTPOINT [options]
package main

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/manifuse/manifuse/bindings/go"
)

const (
	size  = 64 << 10
	first = manifuse.Root + 1

	clockThreadCPU = 3
	setTimerSlack  = 29 // prctl
)

var names = []string{
	"fast", "sleep1ms", "sleep5ms", "sleep10ms-1in100", "foreign1ms", "wait", "compute200us", "never",
}

type slow struct {
	manifuse.Defaults
	zeros [size]byte
	count atomic.Uint64
}

func attr(node manifuse.NodeID) manifuse.Attr {
	if node == manifuse.Root {
		return manifuse.Attr{Mode: syscall.S_IFDIR | 0o555, Nlink: 2}
	}
	return manifuse.Attr{Mode: syscall.S_IFREG | 0o444, Nlink: 1, Size: size}
}

func (*slow) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	for i, n := range names {
		if n == name {
			node := first + manifuse.NodeID(i)
			return manifuse.Entry{Node: node, Attr: attr(node)}, nil
		}
	}
	return manifuse.Entry{}, syscall.ENOENT
}

func (*slow) Getattr(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle) (manifuse.Attr, error) {
	return attr(node), nil
}

func (*slow) Open(r *manifuse.Request, node manifuse.NodeID, flags uint32) (manifuse.Open, error) {
	return manifuse.Open{Flags: manifuse.OpenDirectIO}, nil
}

func threadCPU() int64 {
	var t syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockThreadCPU, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano()
}

// sleep waits in the system. Go's own timers are up to 0.6 ms late where a process has nothing else to do, and
// what is measured here is the library: the kernel's 50 µs of slack are no part of it either.
func sleep(d time.Duration) {
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1, 0)
	ts := syscall.NsecToTimespec(d.Nanoseconds())
	for syscall.Nanosleep(&ts, &ts) == syscall.EINTR {
	}
}

func compute(d time.Duration) {
	runtime.LockOSThread() // the clock is the thread's
	defer runtime.UnlockOSThread()
	for end := threadCPU() + int64(d); threadCPU() < end; {
	}
}

func (s *slow) Read(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, dst []byte, off int64) (int, error) {
	n := int(min(int64(len(dst)), max(size-off, 0)))
	switch names[node-first] {
	case "sleep1ms":
		sleep(time.Millisecond)
	case "sleep5ms":
		sleep(5 * time.Millisecond)
	case "sleep10ms-1in100":
		if s.count.Add(1)%100 == 0 {
			sleep(10 * time.Millisecond)
		}
	case "foreign1ms":
		reply := r.Defer()
		go func() {
			sleep(time.Millisecond)
			_ = reply.Data(s.zeros[:n])
		}()
		return 0, nil
	case "wait":
		<-r.Context().Done()
		return 0, syscall.EINTR
	case "compute200us":
		compute(200 * time.Microsecond)
	case "never":
		select {}
	}
	return copy(dst, s.zeros[:n]), nil
}

func main() {
	manifuse.Main(&slow{})
}
