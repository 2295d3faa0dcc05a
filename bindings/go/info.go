package manifuse

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// Transport says how requests travel.
type Transport uint32

// How requests travel.
const (
	TransportDevice Transport = 1 // /dev/fuse
	TransportUring  Transport = 2
	TransportMemory Transport = 3 // a virtual kernel
)

func (t Transport) String() string {
	switch t {
	case TransportDevice:
		return "device"
	case TransportUring:
		return "io_uring"
	case TransportMemory:
		return "memory"
	}
	return fmt.Sprintf("transport %d", uint32(t))
}

// Negotiated is what the kernel and a session agreed upon. As bytes it may go to another process of this machine.
type Negotiated struct {
	Major, Minor  uint32 // of the protocol, as it is spoken
	KernelMinor   uint32
	MaxWrite      uint32 // bytes
	MaxPages      uint32
	MaxReadahead  uint32 // bytes
	MaxBackground uint32
	TimeGran      uint32 // nanoseconds
	Flags         uint64 // INIT flags in force
	Offered       uint64 // INIT flags that the kernel offered
	Implemented   uint64 // operations that are not refused; bit 1 << opcode
	ACL           ACL
	OwnerUID      uint32
	OwnerGID      uint32
	Transport     Transport
	Connection    uint64 // the kernel's number of the connection; 0 = unknown
}

// Negotiated is what the handshake agreed upon; zero before it.
func (s *Session) Negotiated() Negotiated {
	var r raw.Negotiated
	err := s.call("negotiated", func(h uintptr, _ *raw.Error) int {
		return raw.MfSessionNegotiated(h, &r, uint(unsafe.Sizeof(r)))
	})
	if err != nil {
		return Negotiated{}
	}
	return negotiated(&r)
}

// Check says whether this version of the engine can join a connection of those terms.
func (n Negotiated) Check() error {
	r, e := n.raw(), newRawError()
	return check("check", raw.MfNegotiatedCheck(&r, e), e)
}

// MarshalBinary implements encoding.BinaryMarshaler: the engine's own form, in host order, with its version.
func (n Negotiated) MarshalBinary() ([]byte, error) {
	r := n.raw()
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))...), nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler. It refuses what this version cannot read.
func (n *Negotiated) UnmarshalBinary(b []byte) error {
	var r raw.Negotiated
	to := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	if len(b) < 8 {
		return &Error{Op: "unmarshal", Errno: syscall.EINVAL, Text: "the terms of a connection are longer"}
	}
	rest := b[min(copy(to, b), len(b)):]
	if r.Version != raw.NegotiatedVersion || int(r.StructSize) != len(b) {
		return &Error{Op: "unmarshal", Errno: syscall.EINVAL, Text: "these are not the terms of a connection"}
	}
	for _, c := range rest {
		if c != 0 {
			return &Error{Op: "unmarshal", Errno: syscall.E2BIG, Text: "the terms come from a newer version"}
		}
	}
	*n = negotiated(&r)
	return nil
}

func negotiated(r *raw.Negotiated) Negotiated {
	return Negotiated{
		Major: r.Major, Minor: r.Minor, KernelMinor: r.KernelMinor, MaxWrite: r.MaxWrite, MaxPages: r.MaxPages,
		MaxReadahead: r.MaxReadahead, MaxBackground: r.MaxBackground, TimeGran: r.TimeGran, Flags: r.Flags,
		Offered: r.Offered, Implemented: r.Implemented, ACL: ACL(r.ACL), OwnerUID: r.OwnerUID, OwnerGID: r.OwnerGID,
		Transport: Transport(r.Transport), Connection: r.Connection,
	}
}

func (n *Negotiated) raw() raw.Negotiated {
	return raw.Negotiated{
		StructSize: raw.SizeofNegotiated, Version: raw.NegotiatedVersion,
		Major: n.Major, Minor: n.Minor, KernelMinor: n.KernelMinor, MaxWrite: n.MaxWrite, MaxPages: n.MaxPages,
		MaxReadahead: n.MaxReadahead, MaxBackground: n.MaxBackground, TimeGran: n.TimeGran, Flags: n.Flags,
		Offered: n.Offered, Implemented: n.Implemented, ACL: uint32(n.ACL), OwnerUID: n.OwnerUID,
		OwnerGID: n.OwnerGID, Transport: uint32(n.Transport), Connection: n.Connection,
	}
}

// Info is what a session became.
type Info struct {
	Readers         int // that serve, or will
	Channels        int // distinct descriptors among them
	Transport       Transport
	CloneError      syscall.Errno // of the first clone that failed; 0 = none did
	FailedReaders   int           // that died; each was replaced or the session ended
	Connection      uint64        // N of /sys/fs/fuse/connections/N; 0 = unknown
	CloneReason     string        // why readers share a descriptor; "" where none do
	TransportReason string        // why this transport is in use
	Growths         uint64        // readers that joined because methods waited
	Shrinks         uint64        // readers that left again
	Placement       string        // where readers run and how they are scheduled now, and why
}

// Info tells what the session became.
func (s *Session) Info() Info {
	r := raw.Info{StructSize: uint32(unsafe.Sizeof(raw.Info{}))}
	_ = s.call("info", func(h uintptr, _ *raw.Error) int { return raw.MfSessionInfo(h, &r) })
	return Info{
		Readers: int(r.Readers), Channels: int(r.Channels), Transport: Transport(r.Transport),
		CloneError: syscall.Errno(r.CloneError), FailedReaders: int(r.FailedReaders), Connection: r.Connection,
		CloneReason: cstring(r.CloneReason[:]), TransportReason: cstring(r.TransportReason[:]),
		Growths: r.Growths, Shrinks: r.Shrinks, Placement: cstring(r.Placement[:]),
	}
}

// OpStats counts one operation.
type OpStats struct {
	Requests uint64
	Errors   uint64 // answered with an error
	BytesIn  uint64
	BytesOut uint64
}

// ReaderStats counts what one reader did since the session began.
type ReaderStats struct {
	Reader     int
	FD         int // the descriptor that it reads; -1 = it has none
	TID        int // thread id; 0 = it does not run
	Requests   uint64
	Replies    uint64
	Errors     uint64
	BytesIn    uint64
	BytesOut   uint64
	InFlight   uint64 // not answered yet
	Wakeups    uint64 // returns from waiting for a request
	Malformed  uint64 // messages that did not decode
	Forgotten  uint64 // requests that were given back without an answer
	Interrupts uint64
	Ops        map[string]OpStats // by the operation's name, "LOOKUP"; those that were asked
	Latency    [32]uint64         // [i]: answers that took at most 2^i ns and more than 2^(i-1); every seventeenth is timed
}

// Stats counts what the readers did, by index. It may be called while they serve.
func (s *Session) Stats() []ReaderStats {
	var all []ReaderStats
	for i := uint(0); ; i++ {
		r := &raw.ReaderStats{StructSize: uint32(unsafe.Sizeof(raw.ReaderStats{}))}
		if s.call("stats", func(h uintptr, _ *raw.Error) int { return raw.MfSessionStats(h, i, r) }) != nil {
			return all
		}
		st := ReaderStats{
			Reader: int(r.Reader), FD: int(r.FD), TID: int(r.TID), Requests: r.Requests, Replies: r.Replies,
			Errors: r.Errors, BytesIn: r.BytesIn, BytesOut: r.BytesOut, InFlight: r.InFlight, Wakeups: r.Wakeups,
			Malformed: r.Malformed, Forgotten: r.Forgotten, Interrupts: r.Interrupts, Ops: map[string]OpStats{},
			Latency: r.Latency,
		}
		for op, n := range r.Ops {
			if n.Requests != 0 {
				st.Ops[raw.OpName(uint32(op))] = OpStats(n)
			}
		}
		all = append(all, st)
	}
}

// WriteStats writes one line of JSON per reader, one for the device, and one per ring, to a descriptor.
func (s *Session) WriteStats(fd uintptr) error {
	return s.call("stats", func(h uintptr, _ *raw.Error) int { return raw.MfSessionWriteStats(h, int(fd)) })
}
