package main

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"dfs/internal/cli"

	"github.com/spf13/pflag"
)

func parse(t *testing.T, args ...string) (*options, error) {
	t.Helper()
	opts := defaultOptions()
	f := pflag.NewFlagSet("dfs-mount", pflag.ContinueOnError)
	opts.register(f)
	var words []string
	f.StringArrayVarP(&words, "options", "o", nil, "")
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return opts, opts.complete(f, words, f.Args())
}

func TestOptionsOfFlagsWordsAndEnvironment(t *testing.T) {
	t.Setenv("DFS_OP_TIMEOUT", "7s")
	t.Setenv("DFS_DIRTY", "32M")
	opts, err := parse(t, "-o", "op-timeout=3s,ro,noatime,_netdev,x-systemd.automount,allow_other,suid,path=/sub", "--cache=1G", "-o", "log-level=debug", "a:1,b", "/mnt")
	if err != nil {
		t.Fatal(err)
	}
	if opts.opTimeout != 3*time.Second || !opts.readOnly || !opts.allowOther || opts.path != "/sub" || opts.cache != 1<<30 || opts.dirty != 32<<20 {
		t.Errorf("got %+v", opts)
	}
	if want := []string{"a:1", "b:7400"}; !reflect.DeepEqual(opts.masters, want) {
		t.Errorf("masters %q, want %q", opts.masters, want)
	}
	if want := []string{"suid"}; !reflect.DeepEqual(opts.kernel, want) {
		t.Errorf("kernel options %q, want %q", opts.kernel, want)
	}
}

func TestMastersOfEnvironment(t *testing.T) {
	t.Setenv("DFS_MASTERS", "127.0.0.1:1000\n[::1]:2000\n")
	opts, err := parse(t, "/mnt")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"127.0.0.1:1000", "[::1]:2000"}; !reflect.DeepEqual(opts.masters, want) {
		t.Errorf("masters %q, want %q", opts.masters, want)
	}
	if opts.mountpoint != "/mnt" {
		t.Errorf("mountpoint %q", opts.mountpoint)
	}
}

func TestMistakesAreOneLineAndExitCode2(t *testing.T) {
	t.Setenv("DFS_MASTERS", "")
	os.Unsetenv("DFS_MASTERS")
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{}, "want MASTERS and MOUNTPOINT"},
		{[]string{"a", "b", "c"}, "want MASTERS and MOUNTPOINT"},
		{[]string{dir}, "no masters"},
		{[]string{"host:port", dir}, "is not a port"},
		{[]string{"fe80::1", dir}, "want HOST:PORT"},
		{[]string{"-o", "frobnicate", "a", dir}, `unknown mount option "frobnicate"`},
		{[]string{"-o", "op-timeout", "a", dir}, "wants a value"},
		{[]string{"-o", "op-timeout=soon", "a", dir}, "op-timeout=soon"},
		{[]string{"--op-timeout=-1s", "a", dir}, "must be more than nothing"},
		{[]string{"-o", "dirty=lots", "a", dir}, "is not a size"},
		{[]string{"-o", "dirty=1K", "a", dir}, "at least 8M"},
		{[]string{"-o", "path=sub", "a", dir}, "must begin with /"},
		{[]string{"--no-such-flag", "a", dir}, "unknown flag"},
	} {
		err := run(context.Background(), append([]string{"dfs-mount"}, c.args...))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want one line with %q", c.args, err, c.want)
			continue
		}
		if code := cli.Code(err); code != cli.ExitUsage {
			t.Errorf("%q: exit code %d", c.args, code)
		}
	}
}

func TestMountpointMustBeFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "is not a folder", filepath.Join(dir, "x"): "no such file"} {
		err := run(context.Background(), []string{"dfs-mount", "127.0.0.1:1", path})
		if err == nil || !strings.Contains(err.Error(), want) || cli.Code(err) != cli.ExitError {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

func TestMountHelperArguments(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"a:1,b:2 /mnt -o rw,op-timeout=5s", "a:1,b:2 /mnt -o rw,op-timeout=5s"},
		{"a:1 /mnt -n -v -o ro -t fuse.dfs", "a:1 /mnt -o ro"},
		{"a:1 /mnt -sf", "a:1 /mnt --sloppy --fake"},
		{"a:1 /mnt -r", "a:1 /mnt -o ro"},
	} {
		got, err := helperArgs(strings.Fields(c.in))
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%q: got %q, %v; want %q", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{"a:1 /mnt -o", "a:1 /mnt -Z", "a:1 /mnt -N ns"} {
		if _, err := helperArgs(strings.Fields(in)); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
	// mount -f only checks; -s ignores what we do not know.
	if err := run(context.Background(), []string{"/sbin/mount.fuse.dfs", "dfs#a:1", "/nowhere", "-fs", "-o", "rw,strange"}); err != nil {
		t.Errorf("fake mount: %v", err)
	}
}

func TestByteSize(t *testing.T) {
	for in, want := range map[string]byteSize{"0": 0, "4096": 4096, "64M": 64 << 20, "1g": 1 << 30, "2GiB": 2 << 30, "3KB": 3 << 10, "1T": 1 << 40} {
		var b byteSize
		if err := b.Set(in); err != nil || b != want {
			t.Errorf("%q: got %d, %v", in, b, err)
		}
	}
	for _, in := range []string{"", "M", "-1", "1.5G", "9999999T", "12X"} {
		var b byteSize
		if err := b.Set(in); err == nil {
			t.Errorf("%q: got %d, want an error", in, b)
		}
	}
	if s := byteSize(64 << 20).String(); s != "64M" {
		t.Errorf("String: %s", s)
	}
}
