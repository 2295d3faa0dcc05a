package manifuse_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/manifuse/manifuse/bindings/go"
)

// Here mounts are real. The process that serves one never uses it: children do, and each has a deadline.

const childLimit = 15 * time.Second

func needFuse(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no real mounts: %v", err)
	}
	_ = f.Close()
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			t.Skipf("no real mounts: not root, and %v", err)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	needFuse(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// child is a command that is killed with all that it started when its time is over.
func child(t *testing.T, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), childLimit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// again is this test binary in a role.
func again(t *testing.T, role string, args ...string) *exec.Cmd {
	cmd := child(t, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	return cmd
}

func isMounted(dir string) bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && bytes.Contains(b, []byte(" "+dir+" "))
}

// gone waits until nothing is mounted at dir any more.
func gone(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); isMounted(dir); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%s is still mounted", dir)
			_ = child(t, "umount", "-l", dir).Run()
			return
		}
	}
}

// mountPoint is an empty directory that everybody can reach.
func mountPoint(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	dir, err := filepath.EvalSymlinks(dir)
	must(t, err)
	t.Cleanup(func() {
		if isMounted(dir) {
			t.Errorf("a mount was left at %s", dir)
			_ = child(t, "umount", "-l", dir).Run()
		}
	})
	return dir
}

type mounted struct {
	*manifuse.Session
	t    *testing.T
	dir  string
	done chan struct{}
	err  error
}

func serve(t *testing.T, fs any, o manifuse.Options) *mounted {
	t.Helper()
	needFuse(t)
	m := &mounted{t: t, dir: mountPoint(t)}
	s, err := manifuse.New(fs, o)
	must(t, err)
	m.Session = s
	if err := s.Mount(m.dir); err != nil {
		_ = s.Close()
		t.Fatal(err)
	}
	m.run()
	t.Cleanup(func() {
		m.Stop()
		m.wait()
		must(t, m.Close())
		gone(t, m.dir)
	})
	return m
}

func (m *mounted) run() {
	m.done = make(chan struct{})
	go func() {
		defer close(m.done)
		m.err = m.Run(context.Background())
	}()
}

// wait returns what Run returned.
func (m *mounted) wait() error {
	m.t.Helper()
	select {
	case <-m.done:
	case <-time.After(15 * time.Second):
		abort(m.t, m.Info().Connection)
		_ = child(m.t, "umount", "-l", m.dir).Run()
		m.t.Fatal("Run did not return")
	}
	return m.err
}

// sh runs a script with the mount as $D.
func (m *mounted) sh(script string) (string, error) {
	cmd := child(m.t, "sh", "-c", script)
	cmd.Env = append(os.Environ(), "D="+m.dir)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *mounted) wants(script, want string) {
	m.t.Helper()
	if out, err := m.sh(script); out != want || err != nil {
		m.t.Errorf("%s: %.200q, %v; want %q", script, out, err, want)
	}
}

// abort ends a connection as an administrator does.
func abort(t *testing.T, connection uint64) {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "fusectl", 0, ""); err != nil {
		t.Skipf("no fusectl: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	must(t, os.WriteFile(fmt.Sprintf("%s/%d/abort", dir, connection), []byte("1"), 0))
}

func TestMountServes(t *testing.T) {
	m := serve(t, &flat{}, manifuse.Options{Readers: 4, Clone: manifuse.CloneRequire, Uring: manifuse.UringOff})
	m.wants("head -c 3 $D/b; ls $D | tr -d '\\n'", "bbbabcdefghijklmnopqrstuvwxyz")
	m.wants("cat $D/none 2>/dev/null || echo none", "none")
	m.wants("for i in 1 2 3 4 5 6 7 8; do for f in a b c d e f g h i j k l; do cat $D/$f; done >/dev/null & done; wait; echo ok", "ok")
	fds, busy, total := map[int]bool{}, 0, uint64(0)
	for _, s := range m.Stats() {
		fds[s.FD] = true
		total += s.Ops["READ"].Requests
		if s.Ops["READ"].Requests > 0 {
			busy++
		}
	}
	if len(fds) != 4 || busy < 2 || total < 96 {
		t.Errorf("%d descriptors, %d readers that read, %d reads: %+v", len(fds), busy, total, m.Stats())
	}
	info := m.Info()
	if info.Readers != 4 || info.Channels != 4 || info.Connection == 0 || info.CloneReason != "" || info.Transport != manifuse.TransportDevice {
		t.Errorf("info %+v", info)
	}
	if m.Mountpoint() != m.dir {
		t.Errorf("mounted at %q, not %q", m.Mountpoint(), m.dir)
	}
}

func TestMountDefaults(t *testing.T) {
	m := serve(t, &flat{}, manifuse.Options{})
	m.wants("for i in 1 2 3 4; do cat $D/? >/dev/null & done; wait; head -c 2 $D/z", "zz")
}

func TestMountSharedDescriptor(t *testing.T) {
	m := serve(t, &flat{}, manifuse.Options{Readers: 4, Clone: manifuse.CloneOff, Uring: manifuse.UringOff})
	m.wants("for i in 1 2 3 4 5 6; do cat $D/? >/dev/null & done; wait; head -c 2 $D/z", "zz")
	if info := m.Info(); info.Channels != 1 || info.Readers != 4 || info.CloneReason == "" {
		t.Errorf("info %+v", info)
	}
}

func TestMountTwoBlockedHandlers(t *testing.T) {
	var inside sync.WaitGroup
	inside.Add(2)
	readers := make(chan int, 2)
	gate := make(chan struct{})
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, dst []byte, off int64) (int, error) {
		if off > 0 {
			return 0, nil
		}
		readers <- r.Reader()
		inside.Done()
		select {
		case <-gate:
			return copy(dst, "x"), nil
		case <-r.Context().Done():
			return 0, syscall.EINTR
		}
	}}
	m := serve(t, f, manifuse.Options{Readers: 2, Uring: manifuse.UringOff})
	out := make(chan string, 2)
	for _, name := range []string{"a", "b"} {
		go func() {
			s, _ := m.sh("head -c 1 $D/" + name)
			out <- s
		}()
	}
	within(t, 10*time.Second, "both handlers", inside.Wait)
	if a, b := <-readers, <-readers; a == b {
		t.Errorf("reader %d runs both", a)
	}
	for i, s := range m.Stats() {
		if s.InFlight != 1 {
			t.Errorf("reader %d has %d requests in hand, want 1", i, s.InFlight)
		}
	}
	close(gate)
	if a, b := <-out, <-out; a != "x" || b != "x" {
		t.Errorf("answers %q, %q", a, b)
	}
}

func TestMountFromInitialized(t *testing.T) {
	blocked, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	main := &flat{read: func(r *manifuse.Request, node manifuse.NodeID, dst []byte, off int64) (int, error) {
		once.Do(func() { close(blocked) })
		<-gate
		return 0, nil
	}}
	var joined atomic.Int64
	other := &flat{read: func(r *manifuse.Request, node manifuse.NodeID, dst []byte, off int64) (int, error) {
		if off > 0 {
			return 0, nil
		}
		joined.Add(1)
		return copy(dst, "joined"), nil
	}}
	m := serve(t, main, manifuse.Options{Readers: 1, Uring: manifuse.UringOff})
	read := make(chan struct{})
	go func() {
		_, _ = m.sh("cat $D/a")
		close(read)
	}()
	within(t, 10*time.Second, "the only reader's handler", func() { <-blocked })

	f, err := m.CloneFD()
	must(t, err)
	r, err := manifuse.FromInitialized(other, f, m.Negotiated(), manifuse.Options{})
	must(t, err)
	if _, err := f.Stat(); err == nil {
		t.Error("the file was not taken over")
	}
	if r.Negotiated().MaxWrite != m.Negotiated().MaxWrite || r.Negotiated().Flags != m.Negotiated().Flags {
		t.Errorf("terms %+v became %+v", m.Negotiated(), r.Negotiated())
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(context.Background()) }()
	m.wants("cat $D/b", "joined")
	close(gate)
	within(t, 10*time.Second, "the first read", func() { <-read }) // until then the mount is busy
	if joined.Load() == 0 || r.Stats()[0].Requests == 0 {
		t.Error("the joined session served nothing")
	}
	m.wants("umount $D", "")
	within(t, 10*time.Second, "the joined session", func() {
		if err := <-done; err != nil {
			t.Errorf("the joined session ended with %v", err)
		}
	})
	must(t, r.Close())

	null, err := os.Open("/dev/null")
	must(t, err)
	defer null.Close()
	if _, err := manifuse.FromInitialized(other, null, m.Negotiated(), manifuse.Options{}); err == nil {
		t.Error("/dev/null was joined")
	}
	if _, err := null.Stat(); err != nil {
		t.Errorf("the file was taken over in spite of an error: %v", err)
	}
	if _, err := manifuse.FromInitialized(other, null, manifuse.Negotiated{}, manifuse.Options{}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("no terms: %v", err)
	}
}

func TestMountJoinedFromAnotherProcess(t *testing.T) {
	blocked, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f := &flat{read: func(r *manifuse.Request, node manifuse.NodeID, dst []byte, off int64) (int, error) {
		once.Do(func() { close(blocked) })
		<-gate
		return 0, nil
	}}
	m := serve(t, f, manifuse.Options{Readers: 1, Uring: manifuse.UringOff})
	go func() { _, _ = m.sh("cat $D/a") }()
	within(t, 10*time.Second, "the only reader's handler", func() { <-blocked })

	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	ours, theirs := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
	defer ours.Close()
	cmd := again(t, "join")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	_ = theirs.Close()

	clone, err := m.CloneFD()
	must(t, err)
	terms, err := m.Negotiated().MarshalBinary()
	must(t, err)
	must(t, syscall.Sendmsg(int(ours.Fd()), terms, syscall.UnixRights(int(clone.Fd())), nil, 0))
	must(t, clone.Close())
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() || lines.Text() != "joined" {
		t.Fatalf("the other process says %q", lines.Text())
	}
	m.wants("head -c 3 $D/b; head -c 1 $D/c", "bbbc") // only the other process is free to answer
	close(gate)
	m.wants("umount $D", "")
	var requests int
	if !lines.Scan() {
		t.Error("the other process did not end cleanly")
	} else if _, err := fmt.Sscanf(lines.Text(), "requests %d", &requests); err != nil || requests == 0 {
		t.Errorf("the other process says %q", lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// cloneOf makes a clone as somebody without this package would.
func cloneOf(t *testing.T, f *os.File) *os.File {
	c, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	must(t, err)
	fd := uint32(f.Fd())
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, c.Fd(), 0x8004e500, uintptr(unsafe.Pointer(&fd))); errno != 0 {
		t.Fatal(errno)
	}
	return c
}

func TestMountAttachedUnprivileged(t *testing.T) {
	needRoot(t)
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			dir := mountPoint(t)
			f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
			must(t, err)
			must(t, syscall.Mount("elsewhere", dir, "fuse", syscall.MS_NOSUID|syscall.MS_NODEV,
				fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", f.Fd())))
			unmount := func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }
			defer unmount()
			files := []*os.File{f}
			for len(files) < n {
				files = append(files, cloneOf(t, f))
			}
			cmd := again(t, "attach", fmt.Sprint(n))
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
			cmd.ExtraFiles = files
			cmd.Stderr = os.Stderr
			stdout, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			for _, f := range files {
				must(t, f.Close())
			}
			lines := bufio.NewScanner(stdout)
			if !lines.Scan() || lines.Text() != fmt.Sprintf("uid 65534 channels %d", n) {
				t.Errorf("the server says %q", lines.Text())
			}
			out, err := child(t, "sh", "-c", "for i in 1 2 3 4; do cat "+dir+"/? >/dev/null & done; wait; head -c 2 "+dir+"/q").CombinedOutput()
			if string(out) != "qq" || err != nil {
				t.Errorf("read %.100q, %v", out, err)
			}
			unmount()
			readers := 0
			for lines.Scan() {
				readers++
			}
			if err := cmd.Wait(); err != nil || readers < n {
				t.Errorf("the server ended with %v, %d readers", err, readers)
			}
		})
	}
}

func TestMountAtDescriptor(t *testing.T) {
	needRoot(t)
	dir := mountPoint(t)
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	must(t, err)
	must(t, syscall.Mount("elsewhere", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", f.Fd())))
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	s, err := manifuse.New(&flat{}, manifuse.Options{})
	must(t, err)
	fd, err := syscall.Dup(int(f.Fd())) // the engine closes what it is given by number
	must(t, err)
	must(t, f.Close())
	must(t, s.Mount(fmt.Sprintf("/dev/fd/%d", fd)))
	m := &mounted{Session: s, t: t, dir: dir}
	m.run()
	m.wants("head -c 2 $D/c", "cc")
	m.Stop()
	must(t, m.wait())
	must(t, s.Close())
}

func TestMountACL(t *testing.T) {
	needRoot(t)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	for _, x := range []struct {
		acl    manifuse.ACL
		nobody bool
	}{{manifuse.ACLOwner, false}, {manifuse.ACLRootAndOwner, false}, {manifuse.ACLAll, true}} {
		m := serve(t, &flat{}, manifuse.Options{ACL: x.acl, Readers: 3})
		m.wants("head -c 1 $D/a", "a")
		for i := 0; i < 6; i++ { // whichever reader it is
			cmd := child(t, "cat", m.dir+"/b")
			cmd.SysProcAttr.Credential = nobody
			out, err := cmd.CombinedOutput()
			if (err == nil) != x.nobody {
				t.Errorf("ACL %d: a stranger got %.60q, %v", x.acl, out, err)
			}
		}
	}
}

func TestMountInterrupt(t *testing.T) {
	entered := make(chan struct{}, 10)
	ended := make(chan error, 10)
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, _ []byte, _ int64) (int, error) {
		entered <- struct{}{}
		select {
		case <-r.Context().Done():
			ended <- r.Context().Err()
			return 0, r.Context().Err()
		case <-time.After(10 * time.Second):
			ended <- nil
			return 0, syscall.ETIME
		}
	}}
	m := serve(t, f, manifuse.Options{Readers: 2})
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL, syscall.SIGTERM} {
		cmd := child(t, "cat", m.dir+"/a")
		must(t, cmd.Start())
		<-entered
		must(t, cmd.Process.Signal(sig))
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%v did not interrupt the handler", sig)
			}
		case <-time.After(12 * time.Second):
			t.Fatal("the handler did not end")
		}
		_ = cmd.Wait()
	}
}

// load keeps a mount busy until the test ends or the mount does.
func load(t *testing.T, dir string) (stop func()) {
	cmd := child(t, "sh", "-c", "for i in 1 2 3 4; do while cat "+dir+"/? >/dev/null 2>&1; do :; done & done; wait")
	must(t, cmd.Start())
	return func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}
}

func TestMountEnds(t *testing.T) {
	for _, x := range []struct {
		name string
		end  func(m *mounted)
		want error
	}{
		{"umount", func(m *mounted) { m.wants("while ! umount $D 2>/dev/null; do sleep 0.05; done", "") }, nil},
		{"umount -l", func(m *mounted) { m.wants("umount -l $D", "") }, nil},
		{"Unmount", func(m *mounted) { must(m.t, m.Unmount()) }, nil},
		{"Stop", func(m *mounted) { m.Stop() }, nil},
		{"Close", func(m *mounted) { must(m.t, m.Close()) }, nil},
		{"abort", func(m *mounted) { abort(m.t, m.Info().Connection) }, syscall.ECONNABORTED},
	} {
		t.Run(x.name, func(t *testing.T) {
			needRoot(t)
			m := serve(t, &flat{}, manifuse.Options{Readers: 3})
			stop := load(t, m.dir)
			defer stop()
			m.wants("head -c 1 $D/a", "a")
			if x.name == "umount" { // refuses while somebody is inside
				stop()
			}
			x.end(m)
			if err := m.wait(); !errors.Is(err, x.want) {
				t.Errorf("Run returned %v, want %v", err, x.want)
			}
			gone(t, m.dir)
		})
	}
}

func TestMountContextDone(t *testing.T) {
	needFuse(t)
	dir := mountPoint(t)
	s, err := manifuse.New(&flat{}, manifuse.Options{})
	must(t, err)
	must(t, s.Mount(dir))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	out, err := child(t, "head", "-c1", dir+"/k").Output()
	if string(out) != "k" || err != nil {
		t.Errorf("read %q, %v", out, err)
	}
	if err := s.Run(ctx); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("a second Run: %v", err)
	}
	cancel()
	within(t, 10*time.Second, "Run", func() { must(t, <-done) })
	gone(t, dir)
	must(t, s.Close())
}

func TestMountHandlerThatNeverAnswers(t *testing.T) {
	entered, gate := make(chan struct{}, 10), make(chan struct{})
	f := &flat{read: func(r *manifuse.Request, _ manifuse.NodeID, dst []byte, _ int64) (int, error) {
		entered <- struct{}{}
		<-gate
		return len(dst), nil
	}}
	m := serve(t, f, manifuse.Options{Readers: 2, StopTimeout: 300 * time.Millisecond})
	client := make(chan error, 1)
	go func() {
		_, err := m.sh("cat $D/a")
		client <- err
	}()
	<-entered
	m.Stop()
	if err := m.wait(); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("Run returned %v", err)
	}
	if err := <-client; err == nil {
		t.Error("the client got an answer")
	}
	gone(t, m.dir)
	close(gate) // the handler comes back into a session that is over
	time.Sleep(50 * time.Millisecond)
}

func TestMountFaults(t *testing.T) {
	var log logbook
	f := &faulty{}
	m := serve(t, f, manifuse.Options{Logger: log.logger(), Readers: 2})
	for name, want := range map[string]string{
		"a": "panic in a filesystem", "b": "-3 bytes where", "c": "bytes where", "d": "what a pity",
	} {
		out, err := m.sh("cat $D/" + name)
		if err == nil || !strings.Contains(out, "Input/output error") {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		log.wants(t, want)
	}
	out, err := m.sh("ls $D")
	if err == nil || !strings.Contains(out, "Input/output error") {
		t.Errorf("ls: %q, %v", out, err)
	}
	log.wants(t, "cannot be a name")
	m.wants("stat -c %s $D/e", "4096")
}

type faulty struct{ flat }

func (f *faulty) Read(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, dst []byte, off int64) (int, error) {
	switch node {
	case 2:
		panic("no")
	case 3:
		return -3, nil
	case 4:
		return len(dst) + 1, nil
	}
	return 0, errors.New("what a pity")
}

func (f *faulty) Readdir(r *manifuse.Request, node manifuse.NodeID, fh manifuse.Handle, off uint64, d *manifuse.DirBuffer) error {
	d.Add("good", 5, 0, 1)
	d.Add("not/good", 5, 0, 2)
	return nil
}

// program starts this binary as a filesystem program and waits until it serves.
func program(t *testing.T, dir string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := again(t, "main", append([]string{dir}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = append(cmd.Env, "MANIFUSE_STATS=1")
	must(t, cmd.Start())
	for deadline := time.Now().Add(10 * time.Second); !isMounted(dir); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the program does not mount: %s", &stderr)
		}
	}
	return cmd, &stderr
}

func TestMountProgramSignals(t *testing.T) {
	needFuse(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			dir := mountPoint(t)
			cmd, stderr := program(t, dir, "-readers", "3", "--clone", "auto", "--uring=off")
			stop := load(t, dir)
			defer stop()
			time.Sleep(200 * time.Millisecond)
			must(t, cmd.Process.Signal(sig))
			if err := cmd.Wait(); err != nil {
				t.Errorf("the program ended with %v: %s", err, stderr)
			}
			gone(t, dir)
			if n := strings.Count(stderr.String(), `"requests":`); n != 3 {
				t.Errorf("statistics of %d readers: %s", n, stderr)
			}
		})
	}
}

// A program that is killed leaves a dead mount, which can be unmounted.
func TestMountProgramKilled(t *testing.T) {
	needRoot(t)
	dir := mountPoint(t)
	cmd, _ := program(t, dir)
	stop := load(t, dir)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	stop()
	out, err := child(t, "cat", dir+"/a").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("not connected")) && !bytes.Contains(out, []byte("connection abort")) {
		t.Errorf("a mount without a server says %q, %v", out, err)
	}
	must(t, child(t, "umount", "-l", dir).Run())
	gone(t, dir)
}

func TestProgramCommandLine(t *testing.T) {
	for _, x := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"--help"}, 0, "--readers"},
		{nil, 2, "MOUNTPOINT"},
		{[]string{"/mnt", "--readers", "many"}, 2, "readers"},
		{[]string{"/mnt", "--nonsense"}, 2, "nonsense"},
		{[]string{"/no/such/directory"}, 1, "/no/such/directory"},
	} {
		out, err := again(t, "main", x.args...).CombinedOutput()
		code := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		}
		if code != x.code || !strings.Contains(string(out), x.text) {
			t.Errorf("%q: status %d, %s", x.args, code, out)
		}
	}
}

func TestMountFailures(t *testing.T) {
	needFuse(t)
	dir := mountPoint(t)
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, x := range []struct {
		at, options string
		want        syscall.Errno
		text        string
	}{
		{"/no/such/directory", "", syscall.ENOENT, "/no/such/directory"},
		{file, "", syscall.ENOTDIR, file},
		{"", "", syscall.EINVAL, "mount point"},
		{dir, "colour=blue", syscall.EINVAL, "colour"},
		{dir, "max_read=lots", syscall.EINVAL, "max_read"},
	} {
		s, err := manifuse.New(&flat{}, manifuse.Options{MountOptions: x.options})
		if err == nil {
			err = s.Mount(x.at)
			must(t, s.Close())
		}
		var e *manifuse.Error
		if !errors.As(err, &e) || !errors.Is(err, x.want) || !strings.Contains(e.Text, x.text) {
			t.Errorf("mount at %q with %q: %v, want %v", x.at, x.options, err, x.want)
		}
	}
	must(t, os.Remove(file))
	s, err := manifuse.New(&flat{}, manifuse.Options{})
	must(t, err)
	defer s.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	must(t, err)
	defer null.Close()
	if err := s.AttachFDs(null); err == nil {
		t.Error("/dev/null was attached")
	}
	if _, err := null.Stat(); err != nil {
		t.Errorf("the file was taken over in spite of an error: %v", err)
	}
}

func TestMountFailuresOfPrograms(t *testing.T) {
	needRoot(t)
	dir := mountPoint(t)
	fails := func(what string, cmd *exec.Cmd, texts ...string) {
		t.Helper()
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s: %v, %s", what, err, out)
		}
		for _, text := range texts {
			if strings.Contains(string(out), text) {
				return
			}
		}
		t.Errorf("%s: %s", what, out)
	}
	cmd := again(t, "main", dir)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	cmd.Env = append(cmd.Env, "PATH=/nowhere")
	fails("no permission", cmd, "permi", "fusermount3", "/dev/fuse")

	cmd = again(t, "main without /dev", dir)
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	fails("no /dev/fuse", cmd, "/dev/fuse")
}

func TestMountForkDuringService(t *testing.T) {
	m := serve(t, &flat{}, manifuse.Options{Readers: 3})
	stop := load(t, m.dir)
	defer stop()
	sleeper := child(t, "sleep", "30")
	must(t, sleeper.Start())
	defer func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	}()
	for i := 0; i < 30; i++ {
		must(t, child(t, "true").Run())
	}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", sleeper.Process.Pid))
	must(t, err)
	for _, l := range links {
		if to, _ := os.Readlink(l); strings.Contains(to, "/dev/fuse") {
			t.Errorf("a child has %s -> %s", l, to)
		}
	}
	m.Stop()
	must(t, m.wait())
	gone(t, m.dir)
}

func TestMountCycles(t *testing.T) {
	needFuse(t)
	dir := mountPoint(t)
	cycle := func() {
		s, err := manifuse.New(&flat{}, manifuse.Options{Readers: 4})
		must(t, err)
		must(t, s.Mount(dir))
		done := make(chan error, 1)
		go func() { done <- s.Run(context.Background()) }()
		out, err := child(t, "head", "-c1", dir+"/k").CombinedOutput()
		if string(out) != "k" || err != nil {
			t.Errorf("read %q, %v", out, err)
		}
		s.Stop()
		within(t, 10*time.Second, "Run", func() { must(t, <-done) })
		must(t, s.Close())
		if isMounted(dir) {
			t.Fatal("still mounted")
		}
	}
	for i := 0; i < 5; i++ {
		cycle()
	}
	goroutines, threads, fds := runtime.NumGoroutine(), countDir(t, "/proc/self/task"), countDir(t, "/proc/self/fd")
	for i := 0; i < 50; i++ {
		cycle()
	}
	// Each child has a context of its own, which the end of the test cancels; they have no goroutines.
	settles(t, "goroutines", func() (int, int) { return runtime.NumGoroutine(), goroutines })
	settles(t, "threads", func() (int, int) { return countDir(t, "/proc/self/task"), threads + 3 })
	settles(t, "descriptors", func() (int, int) { return countDir(t, "/proc/self/fd"), fds })
}
