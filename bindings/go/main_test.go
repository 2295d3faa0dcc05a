package manifuse_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/manifuse/manifuse/bindings/go"
)

// The tests run their own binary again where another process has to serve: the role says as what.
const roleVar = "MANIFUSE_TEST_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch role := os.Getenv(roleVar); role {
	case "":
		os.Exit(m.Run())
	case "main":
		manifuse.Main(&flat{})
	case "main without /dev": // in a mount namespace of its own
		err = syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
		if err == nil {
			err = syscall.Mount("none", "/dev", "tmpfs", 0, "")
		}
		if err == nil {
			manifuse.Main(&flat{})
		}
	case "attach":
		err = attachRole()
	case "join":
		err = joinRole()
	default:
		err = fmt.Errorf("no role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// attachRole serves a mount from inherited descriptors; the argument says how many.
func attachRole() error {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	var files []*os.File
	for i := 0; i < n; i++ {
		files = append(files, os.NewFile(uintptr(3+i), "/dev/fuse"))
	}
	s, err := manifuse.New(&flat{}, manifuse.Options{ACL: manifuse.ACLAll})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.AttachFDs(files...); err != nil {
		return err
	}
	fmt.Printf("uid %d channels %d\n", os.Getuid(), s.Info().Channels)
	if err := s.Run(context.Background()); err != nil {
		return err
	}
	return s.WriteStats(1)
}

// joinRole serves with a descriptor and terms that come over the socket that is descriptor 3.
func joinRole() error {
	terms, oob := make([]byte, 1024), make([]byte, 1024)
	n, oobn, _, _, err := syscall.Recvmsg(3, terms, oob, 0)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return err
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	var neg manifuse.Negotiated
	if err := neg.UnmarshalBinary(terms[:n]); err != nil {
		return err
	}
	s, err := manifuse.FromInitialized(&flat{}, os.NewFile(uintptr(fds[0]), "/dev/fuse"), neg, manifuse.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("joined")
	if err := s.Run(context.Background()); err != nil {
		return err
	}
	fmt.Printf("requests %d\n", s.Stats()[0].Requests)
	return nil
}
