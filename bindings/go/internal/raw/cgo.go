//go:build !manifuse_system

// Package raw is the engine as Go sees it: the flat functions that SWIG wraps, the records that they fill, and
// the trampolines through which the engine calls Go. The engine's C sources are in this directory because cgo
// compiles only the package's own one. The build tag manifuse_system takes an installed library instead.
package raw

/*
#cgo CFLAGS: -std=c11 -D_GNU_SOURCE -O2 -I${SRCDIR} -fvisibility=hidden -pthread
#cgo LDFLAGS: -pthread
*/
import "C"
