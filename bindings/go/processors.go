package manifuse

import (
	"runtime"
	"sync"
	"time"
)

// Go code runs on processors (GOMAXPROCS). A reader that has returned from a handler keeps its one until the runtime's
// watchdog takes it away, 20 µs to 10 ms later, although it sits in the kernel: with as many readers as processors
// a further reader's handler, or any goroutine of the program, waits for that. So there are some more of them while
// readers run; the system still runs no more threads than there are CPUs. The more there are the longer the watchdog's looks
// take, and those of threads that look for a goroutine to run: there are many only where it can be made to look seldom.
var processors struct {
	mu      sync.Mutex
	readers int
	own     int // before there were readers
	set     int // what was set for them; 0 = nothing
	dog     watchdog
}

// For readers beside a watchdog that looks seldom, in those of the program. With one for each reader handlers that leave
// their answer to a goroutine make 2 % fewer calls (34 processors on 2 CPUs instead of 10), and others no more.
const calmShare = 4

func addReader() {
	p := &processors
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.set == 0 {
		p.own = runtime.GOMAXPROCS(0)
	}
	p.readers++
	fitProcessors()
	if manyReaders() && p.dog.seek() {
		go calmWatchdog()
	}
}

// usualProcessors is how many readers have one more each, mu held.
func usualProcessors() int { return processors.own + 2 }

func manyReaders() bool { return processors.readers > usualProcessors() }

// fitProcessors sets as many as the readers are to have, mu held. There are no fewer until the last reader has gone.
func fitProcessors() {
	p := &processors
	most := usualProcessors()
	if p.dog.calm() {
		most = max(most, calmShare*p.own)
	}
	if want := p.own + min(p.readers, most); want > runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(want)
		p.set = want
	}
}

// calmWatchdog looks for the watchdog for a while: it is to be found while requests come, whose handlers' waiting is what
// makes readers many, if the program did not ask for as many.
func calmWatchdog() {
	p := &processors
	tid, found := findWatchdog()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dog.sought(tid, found && manyReaders())
	fitProcessors()
}

// The last one takes back what was set, unless the program has set something else meanwhile.
func removeReader() {
	p := &processors
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readers--; p.readers > 0 {
		return
	}
	p.dog.release()
	if p.set != 0 && runtime.GOMAXPROCS(0) == p.set {
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
