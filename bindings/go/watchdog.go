package manifuse

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// The runtime's watchdog (sysmon) is a thread that looks for others which sit in the system with a processor. As long as it
// finds any, and where handlers wait it always does, it looks every 20 µs, of which the kernel makes 70: that takes a
// twelfth of a CPU, each look keeps readers waiting that come back to Go meanwhile, and with one handler in a hundred
// asleep for 10 ms it costs a tenth of all calls. The runtime has no way to say how often. The kernel has one to say that a
// thread's sleeps need not be exact (proc_pid_timerslack_ns(5), Linux 4.6); of another thread it takes CAP_SYS_NICE, without
// which all stays as it is. All else that the watchdog is for is a matter of 10 ms. Threads that it starts inherit the
// slack and keep it: Go's timers, whose unit is a millisecond where a program has nothing to do, may be as much later.
const watchdogSlack = 500 * time.Microsecond

// To find it: who is seen so often asleep in the runtime's usleep, others being there for microseconds at most.
const (
	watchdogSeen  = 8
	watchdogLooks = 50
	watchdogPause = 5 * time.Millisecond
)

// watchdog is what is known of it, with processors.mu held.
type watchdog struct {
	tid     int    // 0: not found so far
	slack   string // its own, to give back; "" = nothing was changed
	seeking bool
	denied  bool // for want of permission, or of such a file
}

func (w *watchdog) calm() bool { return w.slack != "" }

// seek says whether somebody is to look for it, who then calls sought.
func (w *watchdog) seek() bool {
	if w.seeking || w.denied || w.calm() {
		return false
	}
	w.seeking = true
	return true
}

func (w *watchdog) sought(tid int, wanted bool) {
	w.seeking = false
	if !wanted {
		return
	}
	w.tid = tid
	path := slackPath(tid)
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, strconv.AppendInt(nil, int64(watchdogSlack), 10), 0)
	}
	if err != nil {
		w.denied = true
		return
	}
	w.slack = strings.TrimSpace(string(old))
}

func (w *watchdog) release() {
	if w.calm() {
		_ = os.WriteFile(slackPath(w.tid), []byte(w.slack), 0)
		w.slack = ""
	}
}

func slackPath(tid int) string { return fmt.Sprintf("/proc/%d/timerslack_ns", tid) }

// findWatchdog returns the watchdog's thread, if that has something to do.
func findWatchdog() (tid int, found bool) {
	seen := map[string]int{}
	for range watchdogLooks {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return 0, false
		}
		for _, t := range threads {
			if !inUsleep(t.Name()) {
				continue
			}
			if seen[t.Name()]++; seen[t.Name()] == watchdogSeen {
				tid, err = strconv.Atoi(t.Name())
				return tid, err == nil
			}
		}
		time.Sleep(watchdogPause)
	}
	return 0, false
}

// inUsleep says whether a thread waits in a system call that the runtime's usleep has made.
func inUsleep(tid string) bool {
	text, err := os.ReadFile("/proc/self/task/" + tid + "/syscall") // number, arguments, stack pointer, program counter
	if err != nil {
		return false
	}
	last := text[bytes.LastIndexByte(text, ' ')+1:]
	pc, err := strconv.ParseUint(string(bytes.TrimSpace(last)), 0, 64)
	if err != nil {
		return false // "running"
	}
	f := runtime.FuncForPC(uintptr(pc))
	return f != nil && f.Name() == "runtime.usleep"
}
