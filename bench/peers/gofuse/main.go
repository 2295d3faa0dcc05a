// Command gofuse-null serves the filesystem null on go-fuse's raw API, the
// fastest that go-fuse offers.
//
//	gofuse-null MOUNTPOINT [--slow]
//
// --slow: the files are those of bench/slow_fs.h whose handlers sleep.
//
// The library starts and stops its own readers on one shared descriptor, at
// most GOMAXPROCS+1 of them. Of bench/responder.c's INIT flags, INIT_EXT is set by
// go-fuse itself and the rest is asked for below.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	files    = 10000
	fileSize = 64 << 10
	bigSize  = 4 << 30
	file0    = 2
	big      = file0 + files
	made0    = big + 1 // c000
	made     = 256
	maxWrite = 1 << 20

	setTimerSlack = 29 // prctl
)

var (
	zeros   [maxWrite]byte
	isThere [made]atomic.Bool
)

// null answers what it does not define with ENOSYS, so that the kernel stops
// asking.
type null struct {
	fuse.RawFileSystem
}

func fillAttr(a *fuse.Attr, node uint64) {
	a.Ino = node
	a.Blksize = 4096
	if node == fuse.FUSE_ROOT_ID {
		a.Mode = syscall.S_IFDIR | 0o755
		a.Nlink = 2
		return
	}
	a.Mode = syscall.S_IFREG | 0o444
	a.Nlink = 1
	a.Size = fileSize
	if node >= big {
		a.Mode = syscall.S_IFREG | 0o644
		a.Size = 0
	}
	if node == big {
		a.Size = bigSize
	}
	a.Blocks = a.Size / 512
}

// number is what stands behind the first letter, in so many digits, or -1.
func number(name string, digits int) int {
	if len(name) != digits+1 {
		return -1
	}
	n, err := strconv.ParseUint(name[1:], 10, 16)
	if err != nil {
		return -1
	}
	return int(n)
}

func findMade(name string) uint64 {
	if n := number(name, 3); n >= 0 && n < made && name[0] == 'c' {
		return made0 + uint64(n)
	}
	return 0
}

func findName(name string) uint64 {
	if name == "big" {
		return big
	}
	if n := number(name, 4); n >= 0 && name[0] == 'f' {
		return file0 + uint64(n)
	}
	if node := findMade(name); node != 0 && isThere[node-made0].Load() {
		return node
	}
	return 0
}

func (null) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	node := findName(name)
	if h.NodeId != fuse.FUSE_ROOT_ID || node == 0 {
		return fuse.ENOENT
	}
	out.NodeId = node // time-outs stay 0
	fillAttr(&out.Attr, node)
	return fuse.OK
}

func (null) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	fillAttr(&out.Attr, in.NodeId)
	return fuse.OK
}

func (null) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY && in.NodeId < big {
		return fuse.EROFS
	}
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	if in.NodeId == big {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
	return fuse.OK
}

func (null) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	var size uint64 = fileSize
	if in.NodeId == big {
		size = bigSize
	}
	n := uint64(in.Size)
	if in.Offset >= size {
		n = 0
	} else if n > size-in.Offset {
		n = size - in.Offset
	}
	return fuse.ReadResultData(zeros[:n]), fuse.OK
}

func (null) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if in.NodeId != big {
		return 0, fuse.EROFS
	}
	return uint32(len(data)), fuse.OK
}

func (null) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	node := findMade(name)
	if node == 0 {
		return fuse.EROFS
	}
	if isThere[node-made0].Swap(true) {
		return fuse.Status(syscall.EEXIST)
	}
	out.NodeId = node
	fillAttr(&out.Attr, node)
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	return fuse.OK
}

func (null) Unlink(_ <-chan struct{}, _ *fuse.InHeader, name string) fuse.Status {
	node := findMade(name)
	if node == 0 {
		return fuse.EROFS
	}
	if !isThere[node-made0].Swap(false) {
		return fuse.ENOENT
	}
	return fuse.OK
}

func (null) Release(<-chan struct{}, *fuse.ReleaseIn) {}

func (null) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

func (null) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	for i := in.Offset; i <= files; i++ {
		name := "big"
		if i < files {
			name = fmt.Sprintf("f%04d", i)
		}
		if !out.AddDirEntry(fuse.DirEntry{Name: name, Mode: syscall.S_IFREG, Ino: file0 + i}) {
			break
		}
	}
	return fuse.OK
}

var slowNames = []string{"fast", "sleep1ms", "sleep10ms-1in100"}

// slow has files whose handlers sleep in the system, as those of bench/handlers/go do.
type slow struct {
	null
	count *atomic.Uint64
}

func (slow) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	for i, n := range slowNames {
		if n == name && h.NodeId == fuse.FUSE_ROOT_ID {
			out.NodeId = file0 + uint64(i)
			fillAttr(&out.Attr, out.NodeId)
			return fuse.OK
		}
	}
	return fuse.ENOENT
}

func sleep(d time.Duration) {
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1, 0)
	ts := syscall.NsecToTimespec(d.Nanoseconds())
	for syscall.Nanosleep(&ts, &ts) == syscall.EINTR {
	}
}

func (s slow) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	switch slowNames[in.NodeId-file0] {
	case "sleep1ms":
		sleep(time.Millisecond)
	case "sleep10ms-1in100":
		if s.count.Add(1)%100 == 0 {
			sleep(10 * time.Millisecond)
		}
	}
	return s.null.Read(cancel, in, buf)
}

func main() {
	if len(os.Args) < 2 || len(os.Args) > 3 || len(os.Args) == 3 && os.Args[2] != "--slow" {
		fmt.Fprintln(os.Stderr, "usage: gofuse-null MOUNTPOINT [--slow]")
		os.Exit(2)
	}
	var fs fuse.RawFileSystem = null{fuse.NewDefaultRawFileSystem()}
	if len(os.Args) == 3 {
		fs = slow{null{fuse.NewDefaultRawFileSystem()}, new(atomic.Uint64)}
	}
	server, err := fuse.NewServer(fs, os.Args[1], &fuse.MountOptions{
		AllowOther:         true,
		MaxWrite:           maxWrite,
		DirectMountStrict:  true,
		DisableReadDirPlus: true,
		DisableXAttrs:      true,
		FsName:             "gofuse",
		Name:               "gofuse",
		ExtraCapabilities:  fuse.CAP_ASYNC_DIO | fuse.CAP_ATOMIC_O_TRUNC,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "gofuse-null: mount:", err)
		os.Exit(1)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		if err := server.Unmount(); err != nil {
			fmt.Fprintln(os.Stderr, "gofuse-null: unmount:", err)
			os.Exit(1)
		}
	}()
	server.Serve()
}
