package manifuse

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// steady answers getattr, lookup and read, and allocates nothing itself.
type steady struct{ Defaults }

var steadyAttr = Attr{Mode: syscall.S_IFREG | 0o644, Size: 1 << 20, Timeout: time.Second}

func (*steady) Lookup(r *Request, parent NodeID, name string) (Entry, error) {
	if name == "none" {
		return Entry{}, syscall.ENOENT
	}
	return Entry{Node: 2, Attr: steadyAttr, Timeout: time.Second}, nil
}

func (*steady) Getattr(r *Request, node NodeID, fh Handle) (Attr, error) { return steadyAttr, nil }

func (*steady) Read(r *Request, node NodeID, fh Handle, dst []byte, off int64) (int, error) {
	dst[0] = byte(off)
	return len(dst), nil
}

func (*steady) Readdir(r *Request, node NodeID, fh Handle, off uint64, d *DirBuffer) error {
	for off < 3 && d.Add("name", off+2, syscall.S_IFREG, off+1) {
		off++
	}
	return nil
}

// virtual runs a filesystem on a virtual kernel without fusetest, whose calls allocate.
func virtual(t testing.TB, fs any, queues uint32, o Options) (vk uintptr) {
	s, err := New(fs, o)
	if err != nil {
		t.Fatal(err)
	}
	vk, rc := raw.VkernelNew(&raw.VkernelOpts{StructSize: uint32(unsafe.Sizeof(raw.VkernelOpts{})), Queues: queues})
	if rc < 0 {
		t.Fatal(syscall.Errno(-rc))
	}
	if err := raw.AttachVkernel(s, vk); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Run(context.Background()) }()
	t.Cleanup(func() {
		raw.MfVkernelUnmount(vk)
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = s.Close()
		raw.MfVkernelFree(vk)
	})
	return vk
}

// Requests of the steady state allocate nothing, from the engine's thread to the filesystem and back.
func TestAllocations(t *testing.T) {
	leaveWatchdogAlone(t) // what is counted is the whole program's, and who looks for it allocates
	t.Run("device", func(t *testing.T) { testAllocations(t, virtual(t, &steady{}, 0, Options{Readers: 2})) })
	t.Run("ring", func(t *testing.T) {
		testAllocations(t, virtual(t, &steady{}, 2, Options{Readers: 2, Uring: UringRequire}))
	})
}

func testAllocations(t *testing.T, vk uintptr) {
	var attr raw.Attr
	entry := raw.Entry{StructSize: uint32(unsafe.Sizeof(raw.Entry{}))}
	buf := make([]byte, 4096)
	for name, ask := range map[string]func() int{
		"getattr":     func() int { return raw.MfClientGetattr(vk, 2, &attr) },
		"lookup":      func() int { return raw.MfClientLookup(vk, 1, "some name", &entry) },
		"lookup none": func() int { return raw.MfClientLookup(vk, 1, "none", &entry) + int(syscall.ENOENT) },
		"read":        func() int { return int(raw.MfClientRead(vk, 2, 0, buf, 100)) - len(buf) },
	} {
		rc := 0
		for i := 0; i < 100; i++ { // each reader sees the name once
			rc |= ask()
		}
		n := testing.AllocsPerRun(200, func() { rc |= ask() })
		if n != 0 || rc != 0 {
			t.Errorf("%s: %v allocations, result %d", name, n, rc)
		}
	}
	s, err := newServer(&steady{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	readdir := raw.Call{Op: raw.OpReaddir, Node: 1, Length: 4096, Buf: unsafe.Pointer(&buf[0]), BufSize: 4096}
	if n := testing.AllocsPerRun(100, func() { s.Upcall(&readdir) }); n != 0 || readdir.Answer.DataLen != 96 {
		t.Errorf("readdir: %v allocations, %d bytes", n, readdir.Answer.DataLen)
	}
}

// What Add writes is what the engine would write.
func TestDirents(t *testing.T) {
	for _, size := range []int{0, 10, 31, 32, 64, 100, 1000, 5000} {
		a, b := make([]byte, size), make([]byte, size)
		d := DirBuffer{buf: a}
		used := uint64(0)
		for i := uint64(0); i < 50; i++ {
			name := fmt.Sprintf("%0*d", 1+i*i%300, i)
			typ := []uint32{0, syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK}[i%4]
			n := raw.MfDirentPut(b, used, name, i<<33, uint(typ), i+1)
			if added := d.Add(name, i<<33, typ, i+1); added != (n >= 0) {
				t.Fatalf("size %d, name %d: added %v, the engine says %d", size, i, added, n)
			}
			if n < 0 {
				break
			}
			used += uint64(n)
		}
		if d.used != int(used) || string(a[:used]) != string(b[:used]) {
			t.Errorf("size %d: %d bytes differ from the engine's %d", size, d.used, used)
		}
	}
}

func TestHandlerTable(t *testing.T) {
	a, b := &server{}, &server{}
	i, j := raw.Register(a), raw.Register(b)
	if i == 0 || j == 0 || i == j {
		t.Errorf("indexes %d, %d", i, j)
	}
	raw.Unregister(i)
	if k := raw.Register(a); k != i {
		t.Errorf("index %d was not used again, but %d", i, k)
	}
	raw.Unregister(i)
	raw.Unregister(j)
}

// BenchmarkUpcall is what Go costs a request: from the engine's thread into the filesystem's method and back.
func BenchmarkUpcall(b *testing.B) {
	name := raw.Alloc(16)
	defer raw.Free(name)
	copy(name, "f0123")
	buf := raw.Alloc(4096)
	defer raw.Free(buf)
	for _, c := range []struct {
		name string
		call raw.Call
	}{
		{"unimplemented", raw.Call{Op: raw.OpMkdir}},
		{"getattr", raw.Call{Op: raw.OpGetattr, Node: 2}},
		{"lookup", raw.Call{Op: raw.OpLookup, Node: 1, Name: unsafe.Pointer(&name[0]), NameLen: 5}},
		{"read", raw.Call{Op: raw.OpRead, Node: 2, Length: 4096, Buf: unsafe.Pointer(&buf[0]), BufSize: 4096}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, err := newServer(&steady{}, nil)
			if err != nil {
				b.Fatal(err)
			}
			index := raw.Register(s)
			defer raw.Unregister(index)
			b.ReportMetric(raw.Measure(index, &c.call, b.N), "ns/upcall")
		})
	}
}

// BenchmarkCallback is the part of it that the Go runtime takes: a call from a C thread that does nothing.
func BenchmarkCallback(b *testing.B) {
	index := raw.Register(idle{})
	defer raw.Unregister(index)
	b.ReportMetric(raw.Measure(index, &raw.Call{}, b.N), "ns/upcall")
}

type idle struct{ raw.Handler }

func (idle) Upcall(*raw.Call) int32 { return 0 }

// BenchmarkMethods is the rest of it, without the runtime's part.
func BenchmarkMethods(b *testing.B) {
	s, err := newServer(&steady{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	name := []byte("f0123")
	buf := make([]byte, 4096)
	for _, c := range []struct {
		name string
		call raw.Call
	}{
		{"getattr", raw.Call{Op: raw.OpGetattr, Node: 2}},
		{"lookup", raw.Call{Op: raw.OpLookup, Node: 1, Name: unsafe.Pointer(&name[0]), NameLen: 5}},
		{"read", raw.Call{Op: raw.OpRead, Node: 2, Length: 4096, Buf: unsafe.Pointer(&buf[0]), BufSize: 4096}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; i < b.N; i++ {
				s.Upcall(&c.call)
			}
		})
	}
}

// BenchmarkVirtual is a whole request on the virtual kernel, two switches of threads included.
func BenchmarkVirtual(b *testing.B) {
	vk := virtual(b, &steady{}, 0, Options{Readers: 1})
	var attr raw.Attr
	b.ReportAllocs()
	for i := 0; i < b.N; i++ {
		raw.MfClientGetattr(vk, 2, &attr)
	}
	runtime.KeepAlive(&attr)
}

func TestProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	for range 100 {
		addReader()
	}
	if n := runtime.GOMAXPROCS(0); n <= before || n > 2*before+2 {
		t.Errorf("%d processors with 100 readers, %d without", n, before)
	}
	for range 100 {
		removeReader()
	}
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d processors afterwards, %d before", n, before)
	}
	addReader()
	runtime.GOMAXPROCS(before + 10)
	removeReader()
	if n := runtime.GOMAXPROCS(before); n != before+10 {
		t.Errorf("what the program set became %d", n)
	}
}

// settledWatchdog is what is known of it once nobody looks for it.
func settledWatchdog(t *testing.T) watchdog {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		processors.mu.Lock()
		dog := processors.dog
		processors.mu.Unlock()
		if !dog.seeking {
			return dog
		}
	}
	t.Fatal("the search does not end")
	return watchdog{}
}

func leaveWatchdogAlone(t *testing.T) {
	settledWatchdog(t)
	set := func(denied bool) (was bool) {
		processors.mu.Lock()
		defer processors.mu.Unlock()
		was, processors.dog.denied = processors.dog.denied, denied
		return was
	}
	was := set(true)
	t.Cleanup(func() { set(was) })
}

// Many readers, while some threads sit in the system: the watchdog looks less often, there are more processors, and
// afterwards all is as it was.
func TestWatchdog(t *testing.T) {
	own := runtime.GOMAXPROCS(0)
	readers := 5*own + 20
	var done atomic.Bool
	var sleepers sync.WaitGroup
	for range 8 {
		sleepers.Add(1)
		go func() {
			defer sleepers.Done()
			for ts := (syscall.Timespec{Nsec: 1e6}); !done.Load(); {
				_ = syscall.Nanosleep(&ts, nil)
			}
		}()
	}
	defer sleepers.Wait()
	defer done.Store(true)
	settledWatchdog(t)
	for range readers {
		addReader()
	}
	dog := settledWatchdog(t)
	if dog.tid == 0 {
		t.Error("not found")
	}
	slack := func() string {
		text, err := os.ReadFile(slackPath(dog.tid))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	want := own + own + 2
	if dog.denied {
		t.Log("not permitted")
	} else {
		want = own + max(own+2, calmShare*own)
		if s := slack(); s != "500000" {
			t.Errorf("its slack is %s ns", s)
		}
	}
	if n := runtime.GOMAXPROCS(0); n != want {
		t.Errorf("%d processors for %d readers, not %d", n, readers, want)
	}
	for range readers {
		removeReader()
	}
	if n := runtime.GOMAXPROCS(0); n != own {
		t.Errorf("%d processors afterwards, %d before", n, own)
	}
	if !dog.denied && slack() != dog.slack {
		t.Errorf("its slack is %s ns afterwards, and was %s", slack(), dog.slack)
	}
}

// A reader lets the scheduler decide after some milliseconds of calls, and not at each; not where there are few calls.
func TestPace(t *testing.T) {
	var p pace
	turn := func() time.Duration {
		p.looked = time.Since(epoch) + time.Hour // however long the calls take here, they count as quick
		for range paceCalls {
			p.keep()
		}
		return p.due
	}
	p.looked = -time.Hour
	for range paceCalls {
		p.keep()
	}
	if p.due != 0 {
		t.Fatalf("it was done after %d calls in an hour: the next one is due at %v", paceCalls, p.due)
	}
	first := turn()
	if first < paceInterval {
		t.Fatalf("the next one is due at %v", first)
	}
	if now := time.Since(epoch); first < now {
		t.Fatalf("%v is over at %v", first, now)
	}
	p.due += time.Hour
	if due := turn(); due != first+time.Hour {
		t.Errorf("it was done at once again: %v, and then %v", first, due)
	}
	p.due = 0
	if due := turn(); due <= first {
		t.Errorf("it was not done when it was due: %v, and then %v", first, due)
	}
}
