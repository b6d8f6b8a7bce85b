package main

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"dfs"
	"dfs/client"
	"dfs/internal/cli"

	"github.com/spf13/pflag"
)

// options is the configuration of one mount.
type options struct {
	masters    []string
	mountpoint string
	source     string // the masters as they were given, for the mount table

	foreground  bool
	noWait      bool
	fake        bool // as a mount helper: do all but mount
	sloppy      bool // as a mount helper: ignore unknown options
	readOnly    bool
	rootSquash  bool
	allowOther  bool
	debug       bool
	path        string
	opTimeout   time.Duration
	dirty       byteSize
	cache       byteSize
	logLevel    slog.Level
	logFile     string
	pidFile     string
	adminListen string
	completion  string   // print this shell's completion script instead
	kernel      []string // dev, suid, noexec ...
	atime       client.AtimePolicy
	noDirAtime  bool
	remount     bool // as a mount helper: change the kernel's options of the mount that is there
}

func defaultOptions() *options {
	return &options{
		allowOther:  os.Geteuid() == 0,
		path:        "/",
		opTimeout:   time.Minute,
		dirty:       64 << 20,
		cache:       128 << 20,
		adminListen: "127.0.0.1:0",
	}
}

func (o *options) register(f *pflag.FlagSet) {
	f.BoolVarP(&o.foreground, "foreground", "f", o.foreground, "stay in the foreground")
	f.BoolVar(&o.noWait, "no-wait", o.noWait, "fail when the cluster does not answer, instead of waiting for it")
	f.BoolVar(&o.readOnly, "ro", o.readOnly, "mount read-only; the masters refuse changes too")
	f.BoolVar(&o.rootSquash, "root-squash", o.rootSquash, "root of this machine may do what the user nobody (65534) may; the masters check")
	f.BoolVar(&o.allowOther, "allow-other", o.allowOther, "let other users in; needs user_allow_other in /etc/fuse.conf unless root mounts")
	f.StringVar(&o.path, "path", o.path, "folder of the file system to mount")
	f.DurationVar(&o.opTimeout, "op-timeout", o.opTimeout, "how long an operation waits for the cluster before it fails with ETIMEDOUT")
	f.Var(&o.dirty, "dirty", "most memory for bytes not yet written to the servers")
	f.Var(&o.cache, "cache", "most memory for bytes read")
	f.TextVar(&o.logLevel, "log-level", &o.logLevel, "debug, info, warn or error")
	f.StringVar(&o.logFile, "log-file", o.logFile, "append the log to this file; without it: stderr when it is a file or in the foreground, else syslog")
	f.StringVar(&o.pidFile, "pid-file", o.pidFile, "write the process id there once mounted")
	f.StringVar(&o.adminListen, "admin-listen", o.adminListen, "address of /metrics, /healthz and /debug/pprof; empty: none")
	f.BoolVar(&o.debug, "debug", o.debug, "log each request of the kernel")
	f.StringVar(&o.completion, "completion", "", "print the completion script of bash, zsh or fish")
	f.BoolVar(&o.fake, "fake", false, "check everything on the command line, do not mount")
	f.BoolVar(&o.sloppy, "sloppy", false, "ignore unknown mount options")
	_ = f.MarkHidden("fake")
	_ = f.MarkHidden("sloppy")
}

// restrictions are what the masters are asked to refuse.
func (o *options) restrictions() dfs.Restrictions {
	var r dfs.Restrictions
	if o.readOnly {
		r |= dfs.ReadOnly
	}
	if o.rootSquash {
		r |= dfs.SquashRoot
	}
	return r
}

// Options of mount(8) which the kernel or mount itself has already taken care
// of, or which mean nothing to a file system without a local disk.
var ignoredOptions = map[string]bool{
	"defaults": true, "auto": true, "noauto": true, "nofail": true, "_netdev": true,
	"user": true, "nouser": true, "users": true, "owner": true, "group": true,
	"norelatime": true, "lazytime": true, "nolazytime": true, "async": true, "default_permissions": true, "nonempty": true,
}

// atimeOptions say which reads change access times. The kernel leaves those to us.
var atimeOptions = map[string]func(o *options){
	"atime":       func(o *options) { o.atime = client.Relatime },
	"relatime":    func(o *options) { o.atime = client.Relatime },
	"noatime":     func(o *options) { o.atime = client.NoAtime },
	"strictatime": func(o *options) { o.atime = client.StrictAtime },
	"diratime":    func(o *options) { o.noDirAtime = false },
	"nodiratime":  func(o *options) { o.noDirAtime = true },
}

var kernelOptions = map[string]bool{"dev": true, "nodev": true, "suid": true, "nosuid": true, "exec": true, "noexec": true}

// complete applies -o words, then the environment where neither a flag nor a
// word said anything, then the arguments.
func (o *options) complete(f *pflag.FlagSet, words, args []string) error {
	for _, list := range words {
		for word := range strings.SplitSeq(list, ",") {
			if err := o.apply(f, strings.TrimSpace(word)); err != nil {
				return err
			}
		}
	}
	var err error
	f.VisitAll(func(fl *pflag.Flag) {
		name := cli.EnvName(fl.Name)
		value, ok := os.LookupEnv(name)
		if !ok || fl.Changed || fl.Hidden || notOption(fl.Name) || err != nil {
			return
		}
		if serr := fl.Value.Set(value); serr != nil {
			err = cli.Usagef("%s=%s: %w", name, value, serr)
		}
	})
	if err != nil {
		return err
	}
	o.source = os.Getenv(cli.EnvName("masters"))
	if len(args) == 2 {
		o.source = args[0]
	}
	o.mountpoint = args[len(args)-1]
	// mount.fuse3 writes PROGRAM#SOURCE in the old form of /etc/fstab.
	o.source = strings.TrimPrefix(o.source, "dfs#")
	if o.remount {
		return nil // it is about a mount that is there
	}
	if o.masters, err = parseMasters(o.source); err != nil {
		return err
	}
	if o.opTimeout <= 0 {
		return cli.Usagef("op-timeout=%v: must be more than nothing", o.opTimeout)
	}
	if !strings.HasPrefix(o.path, "/") {
		return cli.Usagef("path=%s: must begin with / (the root of the file system)", o.path)
	}
	if o.dirty < minDirty {
		return cli.Usagef("dirty=%s: at least %s", o.dirty.String(), byteSize(minDirty))
	}
	return nil
}

// notOption names the flags that are neither options of -o nor variables.
func notOption(flag string) bool {
	return flag == "options" || flag == "help" || flag == "version" || flag == "completion"
}

// minDirty is room for some records in flight; less would deadlock a writer.
const minDirty = 8 << 20

// apply carries out one word of -o.
func (o *options) apply(f *pflag.FlagSet, word string) error {
	name, value, hasValue := strings.Cut(word, "=")
	switch {
	case word == "" || ignoredOptions[word] || strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") ||
		name == "comment" || name == "fsname" || name == "subtype":
		return nil
	case word == "rw":
		o.readOnly = false
		return nil
	case word == "remount":
		o.remount = true
		return nil
	case atimeOptions[word] != nil:
		atimeOptions[word](o)
		return nil
	case kernelOptions[word]:
		o.kernel = append(o.kernel, word)
		return nil
	}
	fl := f.Lookup(strings.ReplaceAll(name, "_", "-"))
	if fl == nil || fl.Hidden || notOption(fl.Name) {
		if o.sloppy || o.remount { // mount(8) says again what the table of mounts says
			return nil
		}
		return cli.Usagef("unknown mount option %q; dfs-mount --help lists them", name)
	}
	if !hasValue {
		if fl.NoOptDefVal == "" {
			return cli.Usagef("mount option %s: wants a value: %s=...", name, name)
		}
		value = fl.NoOptDefVal
	}
	if err := f.Set(fl.Name, value); err != nil {
		return cli.Usagef("mount option %s=%s: %w", name, value, err)
	}
	return nil
}

// parseMasters splits HOST:PORT,HOST:PORT. Spaces and newlines separate too, so
// that the contents of a file can be given.
func parseMasters(s string) ([]string, error) {
	masters := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
	if len(masters) == 0 {
		return nil, cli.Usagef("no masters: give their addresses, HOST:PORT,HOST:PORT, or set DFS_MASTERS")
	}
	for i, m := range masters {
		switch colons := strings.Count(m, ":"); {
		case colons == 0:
			masters[i] = m + ":" + defaultPort
		case colons > 1 && !strings.Contains(m, "]"):
			return nil, cli.Usagef("masters: %q: want HOST:PORT, or [ADDRESS]:PORT of IPv6", m)
		}
		_, port, _ := strings.Cut(masters[i][strings.LastIndexByte(masters[i], ']')+1:], ":")
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > math.MaxUint16 {
			return nil, cli.Usagef("masters: %q: %q is not a port", m, port)
		}
	}
	return masters, nil
}

// defaultPort is where masters listen by default.
const defaultPort = "7400"

// byteSize is a number of bytes on the command line: 64M, 1G, 1048576.
type byteSize int64

func (b byteSize) String() string {
	n := int64(b)
	for _, unit := range []struct {
		shift int
		name  string
	}{{40, "T"}, {30, "G"}, {20, "M"}, {10, "K"}} {
		if n >= 1<<unit.shift && n%(1<<unit.shift) == 0 {
			return strconv.FormatInt(n>>unit.shift, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// Set reads a number with one of the units K, M, G, T (powers of 1024).
func (b *byteSize) Set(s string) error {
	text, shift := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s), "B"), "I"), 0
	if text != "" {
		if i := strings.IndexByte("KMGT", text[len(text)-1]); i >= 0 {
			shift, text = 10*(i+1), text[:len(text)-1]
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return fmt.Errorf("%q is not a size; want a number with K, M, G or T, for example 64M", s)
	}
	*b = byteSize(n << shift)
	return nil
}

// Type is how help calls the value.
func (b *byteSize) Type() string { return "size" }
