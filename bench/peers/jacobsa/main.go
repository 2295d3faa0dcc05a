// Command jacobsa-null serves the filesystem null on jacobsa/fuse.
//
//	jacobsa-null MOUNTPOINT
//
// What the library does not permit: one goroutine reads the device and starts another one for each request; it asks
// for no AUTO_INVAL_DATA, so it is not asked for a file's size at each sequential read, as the others are.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/jacobsa/fuse"
	"github.com/jacobsa/fuse/fuseops"
	"github.com/jacobsa/fuse/fuseutil"
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
)

var (
	zeros   [maxWrite]byte
	isThere [made]atomic.Bool
)

// null answers what it does not define with ENOSYS, so that the kernel stops asking.
type null struct {
	fuseutil.NotImplementedFileSystem
}

func attr(node fuseops.InodeID) fuseops.InodeAttributes {
	switch {
	case node == fuseops.RootInodeID:
		return fuseops.InodeAttributes{Mode: os.ModeDir | 0o755, Nlink: 2}
	case node < big:
		return fuseops.InodeAttributes{Mode: 0o444, Nlink: 1, Size: fileSize}
	case node == big:
		return fuseops.InodeAttributes{Mode: 0o644, Nlink: 1, Size: bigSize}
	}
	return fuseops.InodeAttributes{Mode: 0o644, Nlink: 1}
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

func findMade(name string) fuseops.InodeID {
	if n := number(name, 3); n >= 0 && n < made && name[0] == 'c' {
		return fuseops.InodeID(made0 + n)
	}
	return 0
}

func findName(name string) fuseops.InodeID {
	if name == "big" {
		return big
	}
	if n := number(name, 4); n >= 0 && name[0] == 'f' {
		return fuseops.InodeID(file0 + n)
	}
	if node := findMade(name); node != 0 && isThere[node-made0].Load() {
		return node
	}
	return 0
}

func (*null) LookUpInode(_ context.Context, op *fuseops.LookUpInodeOp) error {
	node := findName(op.Name)
	if op.Parent != fuseops.RootInodeID || node == 0 {
		return fuse.ENOENT
	}
	op.Entry.Child = node // time-outs stay 0
	op.Entry.Attributes = attr(node)
	return nil
}

func (*null) GetInodeAttributes(_ context.Context, op *fuseops.GetInodeAttributesOp) error {
	op.Attributes = attr(op.Inode)
	return nil
}

func (*null) ForgetInode(context.Context, *fuseops.ForgetInodeOp) error { return nil }

func (*null) BatchForget(context.Context, *fuseops.BatchForgetOp) error { return nil }

func (*null) OpenFile(_ context.Context, op *fuseops.OpenFileOp) error {
	if !op.OpenFlags.IsReadOnly() && op.Inode < big {
		return syscall.EROFS
	}
	op.KeepPageCache = op.Inode == big
	op.UseDirectIO = op.Inode != big
	return nil
}

func (*null) ReadFile(_ context.Context, op *fuseops.ReadFileOp) error {
	left := int64(attr(op.Inode).Size) - op.Offset
	n := max(0, min(op.Size, left))
	op.Data = [][]byte{zeros[:n]}
	op.BytesRead = int(n)
	return nil
}

func (*null) WriteFile(_ context.Context, op *fuseops.WriteFileOp) error {
	if op.Inode != big {
		return syscall.EROFS
	}
	return nil
}

func (*null) CreateFile(_ context.Context, op *fuseops.CreateFileOp) error {
	node := findMade(op.Name)
	if node == 0 {
		return syscall.EROFS
	}
	if isThere[node-made0].Swap(true) {
		return fuse.EEXIST
	}
	op.Entry.Child = node
	op.Entry.Attributes = attr(node)
	return nil
}

func (*null) Unlink(_ context.Context, op *fuseops.UnlinkOp) error {
	node := findMade(op.Name)
	if node == 0 {
		return syscall.EROFS
	}
	if !isThere[node-made0].Swap(false) {
		return fuse.ENOENT
	}
	return nil
}

func (*null) ReleaseFileHandle(context.Context, *fuseops.ReleaseFileHandleOp) error { return nil }

func (*null) OpenDir(context.Context, *fuseops.OpenDirOp) error { return fuse.ENOSYS }

func (*null) ReadDir(_ context.Context, op *fuseops.ReadDirOp) error {
	for i := uint64(op.Offset); i <= files; i++ {
		name := "big"
		if i < files {
			name = fmt.Sprintf("f%04d", i)
		}
		n := fuseutil.WriteDirent(op.Dst[op.BytesRead:], fuseutil.Dirent{
			Offset: fuseops.DirOffset(i + 1),
			Inode:  fuseops.InodeID(file0 + i),
			Name:   name,
			Type:   fuseutil.DT_File,
		})
		if n == 0 {
			break
		}
		op.BytesRead += n
	}
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: jacobsa-null MOUNTPOINT")
		os.Exit(2)
	}
	mfs, err := fuse.Mount(os.Args[1], fuseutil.NewFileSystemServer(&null{}), &fuse.MountConfig{
		FSName:                    "jacobsa",
		Subtype:                   "jacobsa",
		Options:                   map[string]string{"allow_other": ""},
		DisableDefaultPermissions: true,
		DisableWritebackCaching:   true,
		EnableNoOpendirSupport:    true,
		EnableAsyncReads:          true,
		EnableAsyncDIO:            true,
		EnableParallelDirOps:      true,
		MaxWrite:                  maxWrite,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "jacobsa-null: mount:", err)
		os.Exit(1)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		if err := fuse.Unmount(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, "jacobsa-null: unmount:", err)
			os.Exit(1)
		}
	}()
	if err := mfs.Join(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "jacobsa-null:", err)
		os.Exit(1)
	}
}
