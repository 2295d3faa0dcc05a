package manifuse

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/manifuse/manifuse/bindings/go/internal/raw"
)

// Main is a filesystem program's main function. It parses the command line
//
//	MOUNTPOINT [--readers N] [--clone off|auto|require] [--uring off|auto|require] [-o option[,option]] [--debug]
//
// mounts, and serves in the foreground until the mount is gone or SIGINT, SIGTERM or SIGHUP arrives. Then it returns;
// where anything fails it says so on standard error and ends the program with status 1, or 2 for a bad command line.
//
// Each of tune may change the options that hold where the command line says nothing; its mount options are added to
// those. With MANIFUSE_STATS=1 in the environment, one line of JSON per reader goes to standard error at the end.
func Main(fs any, tune ...func(*Options)) {
	run(false, func(string) (any, error) { return fs, nil }, tune)
}

// MainSource is Main for programs whose command line begins with a SOURCE: open makes the filesystem from it.
func MainSource(open func(source string) (fs any, err error), tune ...func(*Options)) {
	run(true, open, tune)
}

func run(wantsSource bool, open func(string) (any, error), tune []func(*Options)) {
	line, rc := raw.ParseCommandLine(os.Args, wantsSource)
	if line.ShowHelp {
		fmt.Print(line.Text)
		return
	}
	if rc < 0 {
		fmt.Fprintln(os.Stderr, strings.TrimSuffix(line.Text, "\n"))
		os.Exit(2)
	}
	if err := program(&line, open, tune); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
}

func program(line *raw.CommandLine, open func(string) (any, error), tune []func(*Options)) error {
	fs, err := open(line.Source)
	if err != nil {
		return err
	}
	s, err := New(fs, lineOptions(&line.Options, tune))
	if err != nil {
		return err
	}
	defer s.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := s.Mount(line.Mountpoint); err != nil {
		return err
	}
	if err := s.Run(ctx); err != nil {
		return err
	}
	if os.Getenv("MANIFUSE_STATS") == "1" {
		return s.WriteStats(os.Stderr.Fd())
	}
	return nil
}

// lineOptions is what the command line says over what the program says.
func lineOptions(line *raw.Options, tune []func(*Options)) Options {
	var o Options
	for _, t := range tune {
		t(&o)
	}
	if line.Readers != 0 {
		o.Readers = int(line.Readers)
	}
	if line.Clone != 0 {
		o.Clone = CloneMode(line.Clone)
	}
	if line.Uring != 0 {
		o.Uring = UringMode(line.Uring)
	}
	if line.Placement != 0 {
		o.Placement = Placement(line.Placement)
	}
	if line.ACL != 0 {
		o.ACL = ACL(line.ACL)
	}
	if line.MountOptions != "" {
		o.MountOptions = strings.TrimPrefix(o.MountOptions+","+line.MountOptions, ",")
	}
	if line.FSName != "" {
		o.FSName = line.FSName
	}
	if line.Subtype != "" {
		o.Subtype = line.Subtype
	}
	o.Debug = o.Debug || line.Flags&raw.OptDebug != 0
	if o.Debug && o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return o
}
