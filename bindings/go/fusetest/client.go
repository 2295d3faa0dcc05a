// Package fusetest tests a filesystem with no mount, no root and no /dev/fuse: a virtual kernel asks what the real
// one would ask, and a client on top of it does what programs do with files.
//
//	func TestHello(t *testing.T) {
//		c := fusetest.Start(t, hello{})
//		b, err := c.ReadFile("/hello.txt")
//		...
//	}
package fusetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/manifuse/manifuse/bindings/go"
	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// Kernel says how the virtual kernel differs from Linux 6.18's; the zero value, in nothing but that it does not offer
// io_uring.
type Kernel struct {
	Minor         uint32 // of the protocol; 0 = 45
	Flags         uint64 // INIT flags that it offers; 0 = those of Linux 6.18
	CloneFailAt   uint32 // the n-th clone and all later ones fail; 0 = none
	CloneErrno    syscall.Errno
	UID, GID, PID uint32        // of the client
	Timeout       time.Duration // within which requests must be answered; 0 = 10 s

	// Queues is the number of possible CPUs, each with a queue of requests over io_uring; 0 = io_uring is not offered.
	// A session with one reader uses it only if Options.Uring is UringRequire.
	Queues uint32
}

// Client is a program that uses a filesystem by way of the virtual kernel. Its methods may be called from any
// goroutines at once; paths begin with "/". Errors are the syscall.Errno that a program would see: ETIMEDOUT where
// the filesystem does not answer in time.
type Client struct {
	// Session serves the filesystem.
	Session *manifuse.Session

	vk   uintptr
	runs sync.WaitGroup
	err  error
	mu   sync.RWMutex // held for reading while the virtual kernel is used
}

// Start serves fs for the length of a test. At its end the test fails if the session did, if requests are left
// unanswered, or if replies were not as the kernel wants them. Of options, at most one counts.
func Start(t testing.TB, fs any, options ...manifuse.Options) *Client {
	t.Helper()
	return Kernel{}.Start(t, fs, options...)
}

// Start is Start on this kernel.
func (k Kernel) Start(t testing.TB, fs any, options ...manifuse.Options) *Client {
	t.Helper()
	c, err := New(fs, k, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		bad := c.BadReplies()
		if err := c.Close(); err != nil {
			t.Errorf("the session ended with: %v", err)
		}
		if bad != 0 {
			t.Errorf("the kernel refused %d replies", bad)
		}
	})
	return c
}

// New serves fs until Close. Of options, at most one counts.
func New(fs any, k Kernel, options ...manifuse.Options) (*Client, error) {
	var o manifuse.Options
	if len(options) > 0 {
		o = options[0]
	}
	s, err := manifuse.New(fs, o)
	if err != nil {
		return nil, err
	}
	vk, rc := raw.VkernelNew(&raw.VkernelOpts{
		StructSize: uint32(unsafe.Sizeof(raw.VkernelOpts{})), Minor: k.Minor, Flags: k.Flags,
		CloneFailAt: k.CloneFailAt, CloneErrno: uint32(k.CloneErrno), UID: k.UID, GID: k.GID, PID: k.PID,
		Queues: k.Queues,
	})
	if rc < 0 {
		_ = s.Close()
		return nil, syscall.Errno(-rc)
	}
	if k.Timeout > 0 {
		raw.MfVkernelSetTimeout(vk, uint(max(k.Timeout/time.Millisecond, 1)))
	}
	if err := raw.AttachVkernel(s, vk); err != nil {
		_ = s.Close()
		raw.MfVkernelFree(vk)
		return nil, err
	}
	c := &Client{Session: s, vk: vk}
	c.runs.Add(1)
	go func() {
		defer c.runs.Done()
		c.err = s.Run(context.Background())
	}()
	return c, nil
}

// Close unmounts, waits for the session to end and frees everything. It returns the error of Session.Run, or one that
// says that requests were left unanswered. A second Close does nothing.
func (c *Client) Close() error {
	c.mu.RLock()
	vk := c.vk
	if vk != 0 {
		raw.MfVkernelUnmount(vk)
	}
	c.mu.RUnlock()
	if vk == 0 {
		return nil
	}
	c.runs.Wait()
	err := c.err
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := raw.MfVkernelPending(vk); left != 0 && err == nil {
		err = fmt.Errorf("fusetest: %d requests were left unanswered", left)
	}
	if e := c.Session.Close(); err == nil {
		err = e
	}
	raw.MfVkernelFree(vk)
	c.vk = 0
	return err
}

// Wait waits until the session has ended of itself, for example by Abort, and returns the error of Session.Run.
func (c *Client) Wait() error {
	c.runs.Wait()
	return c.err
}

// errClosed is returned by all methods after Close.
var errClosed = errors.New("fusetest: the client is closed")

func (c *Client) do(f func(vk uintptr) int) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.vk == 0 {
		return errClosed
	}
	if rc := f(c.vk); rc < 0 {
		return syscall.Errno(-rc)
	}
	return nil
}

// Unmount unmounts as umount -l does: the readers see the end.
func (c *Client) Unmount() {
	_ = c.do(func(vk uintptr) int { raw.MfVkernelUnmount(vk); return 0 })
}

// Abort ends the connection as an administrator does.
func (c *Client) Abort() {
	_ = c.do(func(vk uintptr) int { raw.MfVkernelAbort(vk); return 0 })
}

// Pending counts the requests that are queued or in hand.
func (c *Client) Pending() (n uint64) {
	_ = c.do(func(vk uintptr) int { n = raw.MfVkernelPending(vk); return 0 })
	return n
}

// Reads counts the requests that were read from a descriptor: 0 is the first, n the n-th clone.
func (c *Client) Reads(channel int) (n uint64) {
	_ = c.do(func(vk uintptr) int { n = raw.MfVkernelReads(vk, uint(channel)); return 0 })
	return n
}

// BadReplies counts replies that the kernel refused. A correct engine has none.
func (c *Client) BadReplies() (n uint64) {
	_ = c.do(func(vk uintptr) int { n = raw.MfVkernelBadReplies(vk); return 0 })
	return n
}

// Raw sends one request, everything after its 40-byte header being in, and returns the body of the answer.
func (c *Client) Raw(opcode uint32, node manifuse.NodeID, in []byte) (out []byte, err error) {
	out = make([]byte, 1<<20)
	err = c.do(func(vk uintptr) int {
		n, rc := raw.ClientRaw(vk, opcode, uint64(node), in, out)
		out = out[:min(n, len(out))]
		return rc
	})
	return out, err
}

// Send sends one request without waiting for its answer and returns its number.
func (c *Client) Send(opcode uint32, node manifuse.NodeID, in []byte) (unique uint64, err error) {
	err = c.do(func(vk uintptr) int { return raw.MfClientSend(vk, uint(opcode), uint64(node), in, &unique) })
	return unique, err
}

// Await waits for the answer to Send and returns its body.
func (c *Client) Await(unique uint64) (out []byte, err error) {
	out = make([]byte, 1<<20)
	err = c.do(func(vk uintptr) int {
		n, rc := raw.ClientWait(vk, unique, out)
		out = out[:min(n, len(out))]
		return rc
	})
	return out, err
}

// Interrupt says that the program that waits for a request got a signal.
func (c *Client) Interrupt(unique uint64) error {
	return c.do(func(vk uintptr) int { return raw.MfClientInterrupt(vk, unique) })
}

// Lookup, and the methods down to Release, are single requests by node, as the kernel sends them. Each Entry is a
// reference that Forget gives back.
func (c *Client) Lookup(parent manifuse.NodeID, name string) (manifuse.Entry, error) {
	r := raw.Entry{StructSize: uint32(unsafe.Sizeof(raw.Entry{}))}
	err := c.do(func(vk uintptr) int { return raw.MfClientLookup(vk, uint64(parent), name, &r) })
	return manifuse.Entry{
		Node: manifuse.NodeID(r.Node), Generation: r.Generation, Attr: attr(&r.Attr, r.AttrTimeout),
		Timeout: time.Duration(r.EntryTimeout),
	}, err
}

// Forget gives references back.
func (c *Client) Forget(node manifuse.NodeID, lookups uint64) error {
	return c.do(func(vk uintptr) int { return raw.MfClientForget(vk, uint64(node), lookups) })
}

// Getattr asks for a node's attributes.
func (c *Client) Getattr(node manifuse.NodeID) (manifuse.Attr, error) {
	var r raw.Attr
	err := c.do(func(vk uintptr) int { return raw.MfClientGetattr(vk, uint64(node), &r) })
	return attr(&r, 0), err
}

// Open opens a node.
func (c *Client) Open(node manifuse.NodeID, flags uint32) (fh manifuse.Handle, err error) {
	var r uint64
	err = c.do(func(vk uintptr) int { return raw.MfClientOpen(vk, uint64(node), uint(flags), &r) })
	return manifuse.Handle(r), err
}

// Read reads into dst.
func (c *Client) Read(node manifuse.NodeID, fh manifuse.Handle, dst []byte, off int64) (n int, err error) {
	err = c.do(func(vk uintptr) int {
		n = int(raw.MfClientRead(vk, uint64(node), uint64(fh), dst, uint64(off)))
		return n
	})
	return max(n, 0), err
}

// Write writes src.
func (c *Client) Write(node manifuse.NodeID, fh manifuse.Handle, src []byte, off int64) (n int, err error) {
	err = c.do(func(vk uintptr) int {
		n = int(raw.MfClientWrite(vk, uint64(node), uint64(fh), src, uint64(off)))
		return n
	})
	return max(n, 0), err
}

// Release closes a handle.
func (c *Client) Release(node manifuse.NodeID, fh manifuse.Handle) error {
	return c.do(func(vk uintptr) int { return raw.MfClientRelease(vk, uint64(node), uint64(fh)) })
}

// Stat tells a file's attributes, of a symbolic link the link's own.
func (c *Client) Stat(path string) (manifuse.Attr, error) {
	var r raw.Attr
	err := c.do(func(vk uintptr) int { return raw.MfClientStat(vk, path, &r) })
	return attr(&r, 0), err
}

// ReadFile reads a whole file.
func (c *Client) ReadFile(path string) ([]byte, error) {
	for size := 1 << 16; ; size *= 8 {
		b := make([]byte, size)
		n := 0
		err := c.do(func(vk uintptr) (rc int) {
			n, rc = raw.ClientReadFile(vk, path, b)
			return rc
		})
		if err == syscall.EFBIG && size < 1<<31 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}

// WriteFile makes or truncates a file and writes it.
func (c *Client) WriteFile(path string, data []byte, mode uint32) error {
	return c.do(func(vk uintptr) int { return raw.MfClientWriteFile(vk, path, data, uint(mode)) })
}

// ReadDir tells the names in a directory, without "." and "..".
func (c *Client) ReadDir(path string) ([]string, error) {
	for size := 1 << 16; ; size *= 8 {
		b := make([]byte, size)
		n := 0
		err := c.do(func(vk uintptr) (rc int) {
			n, rc = raw.ClientList(vk, path, b)
			return rc
		})
		if err == syscall.ERANGE && size < 1<<31 {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, nil
		}
		return strings.Split(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00"), nil
	}
}

// Readlink tells a symbolic link's target.
func (c *Client) Readlink(path string) (string, error) {
	b := make([]byte, 4096)
	n := 0
	err := c.do(func(vk uintptr) (rc int) {
		n, rc = raw.ClientReadlink(vk, path, b)
		return rc
	})
	return string(b[:n]), err
}

// Mkdir makes a directory.
func (c *Client) Mkdir(path string, mode uint32) error {
	return c.do(func(vk uintptr) int { return raw.MfClientMkdir(vk, path, uint(mode)) })
}

// Symlink makes a symbolic link at path.
func (c *Client) Symlink(path, target string) error {
	return c.do(func(vk uintptr) int { return raw.MfClientSymlink(vk, path, target) })
}

// Mknod makes a node; the type is in mode.
func (c *Client) Mknod(path string, mode, rdev uint32) error {
	return c.do(func(vk uintptr) int { return raw.MfClientMknod(vk, path, uint(mode), uint(rdev)) })
}

// Link gives a file a further name.
func (c *Client) Link(path, newPath string) error {
	return c.do(func(vk uintptr) int { return raw.MfClientLink(vk, path, newPath) })
}

// Unlink removes a file.
func (c *Client) Unlink(path string) error {
	return c.do(func(vk uintptr) int { return raw.MfClientUnlink(vk, path) })
}

// Rmdir removes a directory.
func (c *Client) Rmdir(path string) error {
	return c.do(func(vk uintptr) int { return raw.MfClientRmdir(vk, path) })
}

// Rename moves a file. Flags are renameat2(2)'s.
func (c *Client) Rename(path, newPath string, flags uint32) error {
	return c.do(func(vk uintptr) int { return raw.MfClientRename(vk, path, newPath, uint(flags)) })
}

// Truncate sets a file's length.
func (c *Client) Truncate(path string, size int64) error {
	return c.do(func(vk uintptr) int { return raw.MfClientTruncate(vk, path, uint64(size)) })
}

// Chmod sets a file's permission bits.
func (c *Client) Chmod(path string, mode uint32) error {
	return c.do(func(vk uintptr) int { return raw.MfClientChmod(vk, path, uint(mode)) })
}

// Statfs describes the filesystem.
func (c *Client) Statfs() (manifuse.Statfs, error) {
	r := raw.Statfs{StructSize: uint32(unsafe.Sizeof(raw.Statfs{}))}
	err := c.do(func(vk uintptr) int { return raw.MfClientStatfs(vk, &r) })
	return manifuse.Statfs{
		Blocks: r.Blocks, Bfree: r.Bfree, Bavail: r.Bavail, Files: r.Files, Ffree: r.Ffree, Bsize: r.Bsize,
		Namelen: r.Namelen, Frsize: r.Frsize,
	}, err
}

// Access asks whether the client may use a file: mask is of R_OK, W_OK and X_OK.
func (c *Client) Access(path string, mask uint32) error {
	return c.do(func(vk uintptr) int { return raw.MfClientAccess(vk, path, uint(mask)) })
}

// Setxattr sets an extended attribute.
func (c *Client) Setxattr(path, name string, value []byte, flags uint32) error {
	return c.do(func(vk uintptr) int { return raw.MfClientSetxattr(vk, path, name, value, uint(flags)) })
}

// Getxattr tells an extended attribute's value; with size 0 it asks for the length alone, and tells that.
func (c *Client) Getxattr(path, name string, size int) (value []byte, length int, err error) {
	value = make([]byte, size)
	err = c.do(func(vk uintptr) int {
		length = int(raw.MfClientGetxattr(vk, path, name, value))
		return length
	})
	return value[:min(max(length, 0), size)], max(length, 0), err
}

// Listxattr tells the names of a file's extended attributes.
func (c *Client) Listxattr(path string) ([]string, error) {
	b := make([]byte, 1<<16)
	n := 0
	err := c.do(func(vk uintptr) int {
		n = int(raw.MfClientListxattr(vk, path, b))
		return n
	})
	if err != nil || n == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00"), nil
}

// Removexattr removes an extended attribute.
func (c *Client) Removexattr(path, name string) error {
	return c.do(func(vk uintptr) int { return raw.MfClientRemovexattr(vk, path, name) })
}

func attr(r *raw.Attr, timeout uint64) manifuse.Attr {
	return manifuse.Attr{
		Ino: r.Ino, Size: r.Size, Blocks: r.Blocks, Atime: r.Atime, Mtime: r.Mtime, Ctime: r.Ctime,
		AtimeNsec: r.Atimensec, MtimeNsec: r.Mtimensec, CtimeNsec: r.Ctimensec, Mode: r.Mode, Nlink: r.Nlink,
		UID: r.UID, GID: r.GID, Rdev: r.Rdev, Blksize: r.Blksize, Flags: r.Flags, Timeout: time.Duration(timeout),
	}
}
