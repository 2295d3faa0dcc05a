package raw

/*
#include <stdlib.h>
#include "trampoline.h"
*/
import "C"

import (
	"unsafe"
)

// What the engine's enumerations call things; the rest of Go takes them from here.
const (
	OpLookup      = C.MF_OP_LOOKUP
	OpForget      = C.MF_OP_FORGET
	OpGetattr     = C.MF_OP_GETATTR
	OpSetattr     = C.MF_OP_SETATTR
	OpReadlink    = C.MF_OP_READLINK
	OpSymlink     = C.MF_OP_SYMLINK
	OpMknod       = C.MF_OP_MKNOD
	OpMkdir       = C.MF_OP_MKDIR
	OpUnlink      = C.MF_OP_UNLINK
	OpRmdir       = C.MF_OP_RMDIR
	OpRename      = C.MF_OP_RENAME
	OpLink        = C.MF_OP_LINK
	OpOpen        = C.MF_OP_OPEN
	OpRead        = C.MF_OP_READ
	OpWrite       = C.MF_OP_WRITE
	OpStatfs      = C.MF_OP_STATFS
	OpRelease     = C.MF_OP_RELEASE
	OpFsync       = C.MF_OP_FSYNC
	OpSetxattr    = C.MF_OP_SETXATTR
	OpGetxattr    = C.MF_OP_GETXATTR
	OpListxattr   = C.MF_OP_LISTXATTR
	OpRemovexattr = C.MF_OP_REMOVEXATTR
	OpFlush       = C.MF_OP_FLUSH
	OpOpendir     = C.MF_OP_OPENDIR
	OpReaddir     = C.MF_OP_READDIR
	OpReleasedir  = C.MF_OP_RELEASEDIR
	OpFsyncdir    = C.MF_OP_FSYNCDIR
	OpAccess      = C.MF_OP_ACCESS
	OpCreate      = C.MF_OP_CREATE

	AnswerFD    = C.MF_ANSWER_FD
	AnswerLater = C.MF_ANSWER_LATER
	NoFh        = uint64(C.MF_NO_FH)

	OptDebug     = C.MF_OPT_DEBUG
	OptNoLatency = C.MF_OPT_NO_LATENCY
	OptWriteback = C.MF_OPT_WRITEBACK
	OptNoUnmount = C.MF_OPT_NO_UNMOUNT

	NegotiatedVersion = C.MF_NEGOTIATED_VERSION
	SizeofNegotiated  = C.sizeof_struct_mf_negotiated
)

// Options is struct mf_session_opts in Go's terms: strings that are empty are NULL in C.
type Options struct {
	Flags, Readers, Clone, Uring, ACL     uint32
	Placement                             uint32
	MaxWrite, MaxReadahead, MaxBackground uint32
	TimeGran, MaxOutstanding, StopTimeout uint32
	Want, Unwant                          uint64
	MountOptions, FSName, Subtype         string
}

// toC fills *c; the returned function frees its strings.
func (o *Options) toC(c *C.struct_mf_session_opts) func() {
	C.mf_session_opts_init(c, C.sizeof_struct_mf_session_opts)
	c.flags |= C.uint32_t(o.Flags)
	c.readers = C.uint32_t(o.Readers)
	c.clone_fd = C.uint32_t(o.Clone)
	c.uring = C.uint32_t(o.Uring)
	c.placement = C.uint32_t(o.Placement)
	c.acl = C.uint32_t(o.ACL)
	c.max_write = C.uint32_t(o.MaxWrite)
	c.max_readahead = C.uint32_t(o.MaxReadahead)
	c.max_background = C.uint32_t(o.MaxBackground)
	c.time_gran = C.uint32_t(o.TimeGran)
	c.max_outstanding = C.uint32_t(o.MaxOutstanding)
	c.stop_timeout_ms = C.uint32_t(o.StopTimeout)
	c.want = C.uint64_t(o.Want)
	c.unwant = C.uint64_t(o.Unwant)
	var strings []unsafe.Pointer
	set := func(to **C.char, s string) {
		if s != "" {
			*to = C.CString(s)
			strings = append(strings, unsafe.Pointer(*to))
		}
	}
	set(&c.mount_options, o.MountOptions)
	set(&c.fsname, o.FSName)
	set(&c.subtype, o.Subtype)
	return func() {
		for _, s := range strings {
			C.free(s)
		}
	}
}

// SessionNew makes a session that calls the handler of that index. What it returns first is a handle.
func SessionNew(handler uintptr, implemented uint64, o *Options, e *Error) (uintptr, int) {
	opts := (*C.struct_mf_session_opts)(C.calloc(1, C.sizeof_struct_mf_session_opts))
	defer C.free(unsafe.Pointer(opts))
	defer o.toC(opts)()
	var s *C.struct_mf_session
	rc := C.mf__go_session_new(C.uintptr_t(handler), C.uint64_t(implemented), opts, &s,
		(*C.struct_mf_error)(unsafe.Pointer(e)))
	return uintptr(unsafe.Pointer(s)), int(rc)
}

// SessionFromFD makes a session on a descriptor whose connection is initialised. It takes fd over on success.
func SessionFromFD(handler uintptr, implemented uint64, o *Options, fd int, neg *Negotiated, e *Error) (uintptr, int) {
	opts := (*C.struct_mf_session_opts)(C.calloc(1, C.sizeof_struct_mf_session_opts))
	defer C.free(unsafe.Pointer(opts))
	defer o.toC(opts)()
	var s *C.struct_mf_session
	rc := C.mf__go_session_from_fd(C.uintptr_t(handler), C.uint64_t(implemented), opts, C.int(fd),
		(*C.struct_mf_negotiated)(unsafe.Pointer(neg)), &s, (*C.struct_mf_error)(unsafe.Pointer(e)))
	return uintptr(unsafe.Pointer(s)), int(rc)
}

// SessionAttachFDs takes the descriptors over on success.
func SessionAttachFDs(s uintptr, fds []int32, e *Error) int {
	return int(C.mf_session_attach_fds(session(s), (*C.int)(unsafe.Pointer(unsafe.SliceData(fds))),
		C.uint32_t(len(fds)), (*C.struct_mf_error)(unsafe.Pointer(e))))
}

// SessionMountpoint is "" before a mount.
func SessionMountpoint(s uintptr) string { return C.GoString(C.mf_session_mountpoint(session(s))) }

// Version is the version of the engine that runs.
func Version() string { return C.GoString(C.mf_version()) }

// OpName is an operation's name in capitals, "" for a number that is none.
func OpName(op uint32) string { return C.GoString(C.mf_op_name(C.uint32_t(op))) }

// ReqBuffer is the memory in which an answer of bytes may be built; nil where the request has none.
func ReqBuffer(req uintptr) []byte {
	var n C.uint64_t
	p := C.mf_req_buffer((*C.struct_mf_req)(pointer(req)), &n)
	if p == nil {
		return nil
	}
	return unsafe.Slice((*byte)(p), int(n))
}

// CommandLine is struct mf_cmdline in Go's terms.
type CommandLine struct {
	ShowHelp           bool
	Source, Mountpoint string
	Text               string // usage or what is wrong
	Options            Options
}

// ParseCommandLine parses a program's arguments, args[0] being its name.
func ParseCommandLine(args []string, wantsSource bool) (CommandLine, int) {
	argv := make([]*C.char, len(args)+1)
	for i, a := range args {
		argv[i] = C.CString(a)
		defer C.free(unsafe.Pointer(argv[i]))
	}
	c := (*C.struct_mf_cmdline)(C.calloc(1, C.sizeof_struct_mf_cmdline))
	defer C.free(unsafe.Pointer(c))
	c.size = C.sizeof_struct_mf_cmdline
	wants := C.int(0)
	if wantsSource {
		wants = 1
	}
	cargv := (**C.char)(C.calloc(C.size_t(len(argv)), C.size_t(unsafe.Sizeof(argv[0]))))
	defer C.free(unsafe.Pointer(cargv))
	copy(unsafe.Slice(cargv, len(argv)), argv)
	rc := C.mf_cmdline_parse(C.int(len(args)), cargv, wants, c)
	o := &c.opts
	return CommandLine{
		ShowHelp:   c.show_help != 0,
		Source:     C.GoString(c.source),
		Mountpoint: C.GoString(c.mountpoint),
		Text:       C.GoString(&c.text[0]),
		Options: Options{
			Flags: uint32(o.flags), Readers: uint32(o.readers), Clone: uint32(o.clone_fd), Uring: uint32(o.uring),
			Placement: uint32(o.placement),
			ACL:       uint32(o.acl), MountOptions: C.GoString(o.mount_options), FSName: C.GoString(o.fsname),
			Subtype: C.GoString(o.subtype),
		},
	}, int(rc)
}

// VkernelNew makes a virtual kernel; nil means its defaults.
func VkernelNew(o *VkernelOpts) (uintptr, int) {
	var vk *C.struct_mf_vkernel
	rc := C.mf_vkernel_new((*C.struct_mf_vkernel_opts)(unsafe.Pointer(o)), &vk)
	return uintptr(unsafe.Pointer(vk)), int(rc)
}

// ClientRaw sends one request and waits; it returns the length of the answer's body in out.
func ClientRaw(vk uintptr, opcode uint32, node uint64, in, out []byte) (int, int) {
	n := C.uint64_t(len(out))
	rc := C.mf_client_raw(vkernel(vk), C.uint32_t(opcode), C.uint64_t(node), unsafe.Pointer(unsafe.SliceData(in)),
		C.uint64_t(len(in)), unsafe.Pointer(unsafe.SliceData(out)), &n)
	return int(n), int(rc)
}

// ClientWait waits for the answer of MfClientSend.
func ClientWait(vk uintptr, unique uint64, out []byte) (int, int) {
	n := C.uint64_t(len(out))
	rc := C.mf_client_wait(vkernel(vk), C.uint64_t(unique), unsafe.Pointer(unsafe.SliceData(out)), &n)
	return int(n), int(rc)
}

// ClientReadFile reads a whole file into buf and returns its length.
func ClientReadFile(vk uintptr, path string, buf []byte) (int, int) {
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	n := C.uint64_t(len(buf))
	rc := C.mf_client_read_file(vkernel(vk), p, unsafe.Pointer(unsafe.SliceData(buf)), &n)
	return int(n), int(rc)
}

// ClientList puts the names of a directory into buf, each with a NUL, and returns how long they are.
func ClientList(vk uintptr, path string, buf []byte) (int, int) {
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	n := C.uint64_t(len(buf))
	rc := C.mf_client_list(vkernel(vk), p, (*C.char)(unsafe.Pointer(unsafe.SliceData(buf))), &n)
	return int(n), int(rc)
}

// ClientReadlink puts the target into buf and returns its length.
func ClientReadlink(vk uintptr, path string, buf []byte) (int, int) {
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	n := C.uint64_t(len(buf))
	rc := C.mf_client_readlink(vkernel(vk), p, (*C.char)(unsafe.Pointer(unsafe.SliceData(buf))), &n)
	return int(n), int(rc)
}

// Measure calls the handler n times from a C thread and returns the nanoseconds that one call takes.
func Measure(handler uintptr, call *Call, n int) float64 {
	c := (*C.struct_mf_call)(C.calloc(1, C.sizeof_struct_mf_call))
	defer C.free(unsafe.Pointer(c))
	*(*Call)(unsafe.Pointer(c)) = *call
	return float64(C.mf__go_measure(C.uintptr_t(handler), c, C.uint64_t(n))) / float64(n)
}

// Alloc returns n bytes of C memory, zeroed. Free gives them back.
func Alloc(n int) []byte { return unsafe.Slice((*byte)(C.calloc(1, C.size_t(n))), n) }

// Free gives back what Alloc returned.
func Free(b []byte) { C.free(unsafe.Pointer(unsafe.SliceData(b))) }

func session(h uintptr) *C.struct_mf_session { return (*C.struct_mf_session)(pointer(h)) }
func vkernel(h uintptr) *C.struct_mf_vkernel { return (*C.struct_mf_vkernel)(pointer(h)) }

// pointer makes an address of C memory a pointer again, in the one way that vet takes for what it is.
func pointer(h uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&h)) }
