// Package manifuse serves filesystems that are written in Go through the kernel's FUSE protocol.
//
// A filesystem is any value with methods from the small interfaces of this package, one per operation: what it
// does not have is refused by the engine in C, without entering Go, and the kernel remembers most of that.
//
//	type hello struct{ manifuse.Defaults }
//
//	func (hello) Lookup(r *manifuse.Request, parent manifuse.NodeID, name string) (manifuse.Entry, error) {
//		return manifuse.Entry{}, syscall.ENOENT
//	}
//
//	func main() { manifuse.Main(hello{}) } // hello MOUNTPOINT [--readers N] [--clone auto] ...
//
// # Threads
//
// Several readers take requests from one mount, each on its own descriptor where the kernel clones it. Their
// threads are the engine's, and each calls the filesystem's methods itself: methods run in parallel as soon as
// there is more than one reader. A method may block as any Go function may; it then occupies its reader.
// [Request.Defer] lets it answer later and gives the reader back.
//
// While readers run, GOMAXPROCS is up to twice what the program has, and two more: a reader keeps a processor for a while
// after each call. Where there are many, because methods block often or the program asks for them, it is up to five times
// that, and the thread by which the runtime looks after others that block does so every half millisecond, not every 20 to
// 70 µs: without CAP_SYS_NICE neither is done. Timers may be as much later then, and stay so on threads that the runtime
// starts meanwhile; all else ends with the last reader. A value that the program sets meanwhile stays.
//
// # Errors
//
// A [syscall.Errno] inside an error is the answer. What [io/fs] and [context] call ErrNotExist, ErrExist,
// ErrPermission, ErrInvalid, ErrClosed, Canceled and DeadlineExceeded becomes ENOENT, EEXIST, EACCES, EINVAL,
// EBADF, EINTR and ETIMEDOUT. Everything else, an answer that makes no sense and a panic become EIO and a line in the log, with
// the operation and the node.
//
// # Memory
//
// Strings belong to the filesystem and may be kept. Byte slices that a method is given are the engine's memory:
// they are valid until the request is answered. So is the [Request], until the method returns.
//
// The package needs cgo and a C compiler on Linux; it compiles the engine's C sources itself. The build tag
// manifuse_system links an installed library instead, found by pkg-config.
package manifuse
