package raw

/*
#include <stdint.h>
#include <manifuse/types.h>
*/
import "C"

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// Handler is what the engine calls. The methods run on the engine's threads, several at once; none may panic.
type Handler interface {
	// Upcall handles one request: what mf_upcall_ops.upcall says.
	Upcall(c *Call) int32
	ReaderStart(reader uint32)
	ReaderEnd(reader uint32)
	Destroy()
	Interrupted(unique uint64)
	Log(level uint32, text string)
}

// The engine holds a handler by its index in this table. The table is replaced, never written, so that an
// upcall reads it without a lock: 1 ns, where runtime/cgo.Handle takes 20 (a lookup in a sync.Map).
var (
	handlers   atomic.Pointer[[]Handler]
	handlersMu sync.Mutex
)

// Register puts a handler into the table and returns its index.
func Register(h Handler) uintptr {
	handlersMu.Lock()
	defer handlersMu.Unlock()
	old := []Handler{nil} // index 0 stays empty: it is what C has where nothing was set
	if p := handlers.Load(); p != nil {
		old = *p
	}
	table := append([]Handler(nil), old...)
	for i := 1; i < len(table); i++ {
		if table[i] == nil {
			table[i] = h
			handlers.Store(&table)
			return uintptr(i)
		}
	}
	table = append(table, h)
	handlers.Store(&table)
	return uintptr(len(table) - 1)
}

// Unregister frees an index. Nothing of the engine may use it any more.
func Unregister(index uintptr) {
	handlersMu.Lock()
	defer handlersMu.Unlock()
	table := append([]Handler(nil), *handlers.Load()...)
	table[index] = nil
	handlers.Store(&table)
}

func handler(index C.uintptr_t) Handler { return (*handlers.Load())[index] }

//export mf__go_upcall
func mf__go_upcall(call *C.struct_mf_call, index C.uintptr_t) C.int32_t {
	return C.int32_t(handler(index).Upcall((*Call)(unsafe.Pointer(call))))
}

//export mf__go_reader_start
func mf__go_reader_start(index C.uintptr_t, reader C.uint32_t) {
	handler(index).ReaderStart(uint32(reader))
}

//export mf__go_reader_end
func mf__go_reader_end(index C.uintptr_t, reader C.uint32_t) {
	handler(index).ReaderEnd(uint32(reader))
}

//export mf__go_destroy
func mf__go_destroy(index C.uintptr_t) { handler(index).Destroy() }

//export mf__go_interrupted
func mf__go_interrupted(index C.uintptr_t, unique C.uint64_t) {
	handler(index).Interrupted(uint64(unique))
}

//export mf__go_log
func mf__go_log(index C.uintptr_t, level C.uint32_t, text *C.char) {
	handler(index).Log(uint32(level), C.GoString(text))
}
