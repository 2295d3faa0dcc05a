package manifuse

import (
	"runtime"
	"sync"
)

// Go code runs on processors (GOMAXPROCS). A reader that has returned from a handler keeps its one until the runtime's
// watchdog takes it away, 20 µs to 10 ms later, although it sits in the kernel: with as many readers as processors
// a further reader's handler, or any goroutine of the program, waits for that. So there are some more of them while
// readers run; the system still runs no more threads than there are CPUs.
var processors struct {
	mu      sync.Mutex
	readers int
	own     int // before there were readers
	set     int // what was set for them; 0 = nothing
}

func addReader() {
	p := &processors
	p.mu.Lock()
	defer p.mu.Unlock()
	now := runtime.GOMAXPROCS(0)
	if p.set == 0 {
		p.own = now
	}
	p.readers++
	if want := p.own + min(p.readers, p.own+2); want > now {
		runtime.GOMAXPROCS(want)
		p.set = want
	}
}

// The last one takes back what was set, unless the program has set something else meanwhile.
func removeReader() {
	p := &processors
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readers--; p.readers > 0 || p.set == 0 {
		return
	}
	if runtime.GOMAXPROCS(0) == p.set {
		runtime.GOMAXPROCS(p.own)
	}
	p.set = 0
}
