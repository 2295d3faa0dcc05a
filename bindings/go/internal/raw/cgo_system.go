//go:build manifuse_system

package raw

/*
#cgo pkg-config: manifuse
#cgo CFLAGS: -std=c11 -D_GNU_SOURCE -O2 -fvisibility=hidden -pthread
#cgo LDFLAGS: -pthread
*/
import "C"
