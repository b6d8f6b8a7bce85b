// Package cli is what the four binaries share at their edge: exit codes, usage
// errors, flags that are also variables of the environment, the logger and the
// version. It holds no state.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit codes, the same for every binary.
const (
	ExitOK        = 0
	ExitError     = 1
	ExitUsage     = 2
	ExitUnhealthy = 3 // the cluster is not healthy
	ExitTimeout   = 4 // waited as long as asked
	ExitRefused   = 5 // refused for safety
)

// ExitCode is an error that says with which code the process ends. Its text may
// be empty when all was already said.
type ExitCode struct {
	Code int
	Err  error
}

func (e *ExitCode) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

func (e *ExitCode) Unwrap() error { return e.Err }

// Usagef is a mistake on the command line: exit code 2.
func Usagef(format string, args ...any) error {
	return &ExitCode{Code: ExitUsage, Err: fmt.Errorf(format, args...)}
}

// Refusedf is something that would break a promise: exit code 5.
func Refusedf(format string, args ...any) error {
	return &ExitCode{Code: ExitRefused, Err: fmt.Errorf(format, args...)}
}

// Code is the exit code for what a command returned.
func Code(err error) int {
	var code *ExitCode
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &code):
		return code.Code
	case errors.Is(err, context.DeadlineExceeded):
		return ExitTimeout
	}
	return ExitError
}

// Run executes the command tree with args (without the program's name), cancels
// its context on SIGINT and SIGTERM, prints the error and returns the exit code.
// A second signal ends the process at once, as the default does.
func Run(ctx context.Context, cmd *cobra.Command, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	prepare(cmd)
	cmd.SetArgs(args)
	found, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", cmd.Name(), text)
	}
	if code := Code(err); code != ExitUsage {
		return code
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "See '%s --help'.\n", found.CommandPath())
	return ExitUsage
}

// prepare makes cobra's own complaints usage errors and keeps it from printing
// the whole help after each error.
func prepare(cmd *cobra.Command) {
	cmd.SilenceUsage = true
	cmd.SilenceErrors = true
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return Usagef("%w", err) })
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error { return asUsage(check(c, args)) }
	}
	for _, sub := range cmd.Commands() {
		prepare(sub)
	}
}

func asUsage(err error) error {
	if err == nil {
		return nil
	}
	return Usagef("%w", err)
}

// Group makes a command which only holds others answer an unknown word with an
// error, not with its help and success.
func Group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subs...)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		hint := ""
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf(", did you mean %q?", near[0])
		}
		return Usagef("unknown command %q for %q%s", args[0], c.CommandPath(), hint)
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	return cmd
}

// EnvName is the variable of the environment for a flag: --op-timeout is
// DFS_OP_TIMEOUT.
func EnvName(flag string) string {
	return "DFS_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// BindEnv sets each flag that the command line did not set from its variable of
// the environment.
func BindEnv(flags *pflag.FlagSet) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := os.LookupEnv(EnvName(f.Name))
		if failed != nil || !ok || value == "" || f.Changed || f.Hidden || f.Name == "help" || f.Name == "version" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			failed = Usagef("%s=%s: %w", EnvName(f.Name), value, err)
		}
	})
	return failed
}

// Logger is the logger of a daemon: text, one line each.
func Logger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, Usagef("--log-level=%s: want debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}

// Version is the version of this build: the module's, or the commit it was built
// from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			commit = "-" + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	return "devel" + commit + dirty
}
