package manifuse

import (
	"log/slog"
	"time"

	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// CloneMode says how the readers after the first get a descriptor of the mount.
type CloneMode uint32

// How the readers after the first get a descriptor of the mount.
const (
	CloneAuto    CloneMode = iota // a clone of the first; where that fails they share it, and Info says why
	CloneOff                      // all share the first
	CloneRequire                  // a clone; where that fails, Mount fails
)

// ACL says whom a session answers. All others get EACCES, without a call into Go.
type ACL uint32

// Whom a session answers.
const (
	ACLOwner        ACL = iota // the user who mounted
	ACLRootAndOwner            // and root; needs allow_other, which it asks for
	ACLAll                     // everybody; likewise
)

// UringMode says whether requests may travel over io_uring.
type UringMode uint32

// Whether requests may travel over io_uring.
const (
	UringAuto UringMode = iota
	UringOff
	UringRequire
)

// Placement says where reader threads run, and how they stand to their clients in the scheduler's eyes.
type Placement uint32

// Values of Options.Placement.
const (
	PlacementAuto   Placement = iota // bound to a CPU each, and yielding to clients, while the machine is quiet
	PlacementPinned                  // each reader bound to a CPU; scheduled as any thread
	PlacementFree                    // wherever the scheduler likes
)

// Options of a session. The zero value of each is its default.
type Options struct {
	Readers int       // threads that take requests; 0 = automatic
	Clone   CloneMode // how they get their descriptors
	Uring   UringMode

	Placement Placement // where they run

	ACL ACL

	MountOptions string // as after -o: "ro,allow_other"
	FSName       string // source shown in /proc/mounts; "" = manifuse
	Subtype      string // type shown there as fuse.SUBTYPE; "" = none

	MaxWrite       int           // bytes of one Write, 4096 to 1 MiB in whole pages; 0 = 1 MiB
	MaxReadahead   int           // bytes; 0 = the kernel's offer
	MaxBackground  int           // requests that nobody waits for in hand at once; 0 = the kernel's default
	MaxOutstanding int           // requests that one reader may have deferred; 0 = 256
	TimeGran       time.Duration // what times are rounded to; 0 = 1 ns
	StopTimeout    time.Duration // how long methods may take to end before the connection is aborted; 0 = 10 s

	Writeback bool   // ask for the kernel's write-back cache
	NoUnmount bool   // the mount outlives Run: for readers beside a main session
	NoLatency bool   // keep no latency histograms
	Want      uint64 // further INIT flags to ask for, and flags not to ask for
	Unwant    uint64

	// Logger gets the engine's lines, errors that are no errno, impossible answers and panics with their stacks.
	// Nil = slog.Default().
	Logger *slog.Logger
	Debug  bool // log each request at LevelDebug
}

func (o *Options) raw() raw.Options {
	r := raw.Options{
		Readers: count(o.Readers), Clone: uint32(o.Clone), Uring: uint32(o.Uring), ACL: uint32(o.ACL),
		Placement: uint32(o.Placement),
		MaxWrite:  count(o.MaxWrite), MaxReadahead: count(o.MaxReadahead), MaxBackground: count(o.MaxBackground),
		MaxOutstanding: count(o.MaxOutstanding), TimeGran: count(int(o.TimeGran)),
		Want: o.Want, Unwant: o.Unwant, MountOptions: o.MountOptions, FSName: o.FSName, Subtype: o.Subtype,
	}
	if o.StopTimeout > 0 {
		r.StopTimeout = count(int(max(o.StopTimeout/time.Millisecond, 1)))
	}
	for flag, on := range map[uint32]bool{
		raw.OptWriteback: o.Writeback, raw.OptNoUnmount: o.NoUnmount, raw.OptNoLatency: o.NoLatency,
		raw.OptDebug: o.Debug,
	} {
		if on {
			r.Flags |= flag
		}
	}
	return r
}

// count keeps a number that C could not hold from becoming one that it accepts.
func count(n int) uint32 {
	if n < 0 || n > 1<<31 {
		return 1 << 31
	}
	return uint32(n)
}
