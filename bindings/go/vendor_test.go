package manifuse_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const vendorProgram = `package main

import (
	"fmt"

	"github.com/manifuse/manifuse/bindings/go"
)

func main() { fmt.Print("engine ", manifuse.Version()) }
`

// A module elsewhere can use this one, also when it is vendored: which copies only the directories of packages that
// are imported. A change to the engine's C file alone must make it build anew.
func TestVendoredBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the engine")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip(err)
	}
	root, err := filepath.Abs("../..")
	must(t, err)
	dir := t.TempDir()
	write := func(name, text string) {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	write("main.go", vendorProgram)
	write("go.mod", "module example.org/user\n\ngo 1.22\n\nrequire github.com/manifuse/manifuse v0.0.0\n\n"+
		"replace github.com/manifuse/manifuse => "+root+"\n")
	tool := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=-buildvcs=false", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	tool("go", "mod", "vendor")
	tool("go", "build", "-mod=vendor", "-o", "user", ".")
	if out := tool(filepath.Join(dir, "user")); !strings.HasPrefix(out, "engine 0.") {
		t.Errorf("the program says %q", out)
	}
	const core = "manifuse_core.c"
	if out := tool("go", "build", "-mod=vendor", "-n", "-o", "user", "."); strings.Contains(out, core) {
		t.Error("the build cache does not keep the engine")
	}
	f, err := os.OpenFile(filepath.Join(dir, "vendor/github.com/manifuse/manifuse/bindings/go/internal/raw", core),
		os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString("/* changed */\n")
	must(t, err)
	must(t, f.Close())
	if out := tool("go", "build", "-mod=vendor", "-n", "-o", "user", "."); !strings.Contains(out, core) {
		t.Error("a change to the engine's C file does not make it build anew")
	}
}
