package manifuse

import (
	"runtime"
	"sync"
	"time"
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

// pace is one reader's own. The runtime's watchdog minds a thread that has run for 10 ms without a decision of the
// scheduler, and a call from C is none: from then on it would look every 20 µs and take the reader's processor away
// each time that it finds it in C (6,600 looks a second, and with two or more clients a tenth of their calls). So each
// reader lets the scheduler decide in time. To do so takes another thread, some 50 µs, so it is left out where it brings
// nothing: a reader that has few calls, or whose handlers wait, loses its processor in any case. Where that other thread
// waits for a CPU, because others compute, it is done more seldom: no more than a 32nd of the time is lost to it.
type pace struct {
	calls  uint32
	looked time.Duration // since epoch, like due
	due    time.Duration
}

const (
	paceCalls    = 16 // between two looks at the clock
	paceInterval = 8 * time.Millisecond
	paceShare    = 32
)

var epoch = time.Now()

// keep is called for each request, before its handler.
func (p *pace) keep() {
	if p.calls++; p.calls%paceCalls != 0 {
		return
	}
	now := time.Since(epoch)
	slow := now-p.looked > paceInterval
	p.looked = now
	if now < p.due || slow {
		return
	}
	runtime.Gosched()
	done := time.Since(epoch)
	p.due = done + max(paceInterval, paceShare*(done-now))
}
