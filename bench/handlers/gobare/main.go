// Gobare has the handlers of bench/handlers/go that blocked.py measures a server by, under a loop without engine, which
// bench/slow_go.h makes a part of it: bench/responder.c, or with -tags ring bench/ring_responder.c.
package main

/*
#include <stddef.h>
#include <stdint.h>

int loop_main(int argc, char **argv);
void bare_answer(uintptr_t who, uint64_t unique, uint64_t length);
*/
import "C"

import (
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	first         = 2
	setTimerSlack = 29 // prctl
)

var (
	names = []string{"fast", "sleep1ms", "sleep10ms-1in100", "foreign1ms"} // in the order of slow_fs.h
	count atomic.Uint64
)

//export bare_lookup
func bare_lookup(name *C.char, length C.size_t) C.uint64_t {
	for i, n := range names {
		if n == unsafe.String((*byte)(unsafe.Pointer(name)), int(length)) {
			return first + C.uint64_t(i)
		}
	}
	return 0
}

//export bare_getattr
func bare_getattr(C.uint64_t) {}

// sleep waits in the system, as in bench/handlers/go.
func sleep(d time.Duration) {
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1, 0)
	ts := syscall.NsecToTimespec(d.Nanoseconds())
	for syscall.Nanosleep(&ts, &ts) == syscall.EINTR {
	}
}

//export bare_read
func bare_read(node C.uint64_t, size C.int64_t) C.int64_t {
	switch names[node-first] {
	case "sleep1ms":
		sleep(time.Millisecond)
	case "sleep10ms-1in100":
		if count.Add(1)%100 == 0 {
			sleep(10 * time.Millisecond)
		}
	}
	return size
}

//export bare_defer
func bare_defer(who C.uintptr_t, unique, length C.uint64_t) {
	go func() {
		sleep(time.Millisecond)
		C.bare_answer(who, unique, length)
	}()
}

func main() {
	var args []*C.char
	for _, arg := range append(os.Args, "--slow") {
		args = append(args, C.CString(arg))
	}
	os.Exit(int(C.loop_main(C.int(len(args)), (**C.char)(unsafe.Pointer(&append(args, nil)[0])))))
}
