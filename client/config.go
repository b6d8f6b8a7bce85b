package client

import (
	"fmt"
	"log/slog"
	"time"

	"dfs"
	"dfs/internal/clock"
	"dfs/rpc"
)

// Config says how to reach a cluster, and bounds what a client uses.
type Config struct {
	Masters    []string            // addresses, host:port, of some masters
	Host       string              // this machine's name in the cluster: the nearest replica is on the same host
	Mountpoint string              // for people who list the sessions
	Version    string              // of the program, for the same people
	Restrict   dfs.Restrictions    // what the masters are to refuse
	OpTimeout  time.Duration       // how long an operation waits for the cluster; 0 is 60 s
	DirtyBytes int64               // most memory for bytes that are not committed yet; 0 is 64 MiB
	CacheBytes int64               // most memory for bytes that were read; 0 is 128 MiB
	Logger     *slog.Logger        // nil: none
	Dialer     rpc.Dialer          // nil: TCP
	OnPending  func(bool)          // told whether changes of names and attributes are in memory only; may be nil, must not wait
	Atime      AtimePolicy         // of which reads is told
	NoDirAtime bool                // of those of folders never
	Clock      clock.Clock         // nil: the machine's; for tests
	OnSession  func(dfs.SessionID) // told of each session before it is used; may be nil
}

// Defaults and limits of Config.
const (
	opTimeoutDefault  = time.Minute
	dirtyBytesDefault = 64 << 20
	dirtyBytesMin     = 4 << 20
	cacheBytesDefault = 128 << 20
)

func (c *Config) complete() error {
	if c.OpTimeout == 0 {
		c.OpTimeout = opTimeoutDefault
	}
	if c.DirtyBytes == 0 {
		c.DirtyBytes = dirtyBytesDefault
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = cacheBytesDefault
	}
	if c.Clock == nil {
		c.Clock = clock.Boot
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case len(c.Masters) == 0:
		return rpc.ErrNoMasters
	case c.OpTimeout < 0:
		return fmt.Errorf("operation timeout %v: must be more than nothing", c.OpTimeout)
	case c.DirtyBytes < dirtyBytesMin:
		return fmt.Errorf("%d bytes for what is not written back yet: want at least %d", c.DirtyBytes, dirtyBytesMin)
	case c.CacheBytes < 0:
		return fmt.Errorf("%d bytes of cache: must not be negative", c.CacheBytes)
	}
	return nil
}
