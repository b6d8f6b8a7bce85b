package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"dfs/test/posix"
)

var (
	full = flag.Bool("full", false, "the full sizes of the issue instead of those for a small machine")
	keep = flag.Bool("keep", false, "keep the folders with logs and data")
	bin  = flag.String("bin", "", "folder with the binaries to test; empty: they are built")
)

// binaries is the folder with the four programs, built once.
var binaries string

func TestMain(m *testing.M) {
	if posix.ServeLocker() {
		return
	}
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 0, fmt.Errorf("these tests mount file systems: run them as root, or run scripts/test quick")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return 0, fmt.Errorf("no /dev/fuse: load the kernel module fuse (%w)", err)
	}
	if *bin != "" {
		binaries = *bin
		code := m.Run()
		shared.stop()
		return code, nil
	}
	dir, err := os.MkdirTemp("", "dfs-e2e-bin-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "./cmd/...")
	build.Dir = repository()
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build: %w\n%s", err, out)
	}
	binaries = dir
	code := m.Run()
	shared.stop()
	return code, nil
}

// repository is the root of this module.
func repository() string {
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	return filepath.Dir(filepath.Dir(dir))
}
