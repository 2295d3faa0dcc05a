package manifuse

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// Error says which call failed, why, and where the engine knows it, in words, what to do about it.
type Error struct {
	Op    string
	Errno syscall.Errno
	Text  string
}

func (e *Error) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("manifuse: %s: %s", e.Op, e.Errno.Error())
	}
	return fmt.Sprintf("manifuse: %s: %s", e.Op, e.Text)
}

// Unwrap returns the Errno, so that errors.Is(err, fs.ErrNotExist) and its like work.
func (e *Error) Unwrap() error { return e.Errno }

// Errors of answers given to a [Reply].
var (
	// ErrAnswered: the request has its answer already, and nothing was touched.
	ErrAnswered = errors.New("manifuse: the request has been answered already")
	// ErrClosed: the session is closed.
	ErrClosed = fmt.Errorf("manifuse: the session is %w", fs.ErrClosed)
)

// check makes an error of a negative result, with the engine's words where it has some.
func check(op string, rc int, e *raw.Error) error {
	if rc >= 0 {
		return nil
	}
	err := &Error{Op: op, Errno: syscall.Errno(-rc)}
	if e != nil {
		err.Text = cstring(e.Text[:])
	}
	return err
}

func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// errnoOf finds the errno that stands for an error; false where none does.
func errnoOf(err error) (syscall.Errno, bool) {
	if e, ok := err.(syscall.Errno); ok && e > 0 && e < 512 {
		return e, true
	}
	var e syscall.Errno
	switch {
	case errors.As(err, &e):
		if e <= 0 || e >= 512 { // the kernel takes no other
			return syscall.EIO, false
		}
		return e, true
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT, true
	case errors.Is(err, fs.ErrExist):
		return syscall.EEXIST, true
	case errors.Is(err, fs.ErrPermission):
		return syscall.EACCES, true
	case errors.Is(err, fs.ErrInvalid):
		return syscall.EINVAL, true
	case errors.Is(err, fs.ErrClosed):
		return syscall.EBADF, true
	case errors.Is(err, context.Canceled):
		return syscall.EINTR, true
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return syscall.ETIMEDOUT, true
	}
	return syscall.EIO, false
}
