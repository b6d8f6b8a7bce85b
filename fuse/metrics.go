package fuse

import (
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"
)

// op names a kind of request in logs and metrics.
type op int

const (
	opLookup op = iota
	opGetAttr
	opSetAttr
	opReadlink
	opSymlink
	opMknod
	opMkdir
	opUnlink
	opRmdir
	opRename
	opLink
	opOpen
	opCreate
	opRead
	opWrite

	opFlush
	opFsync
	opOpenDir
	opReadDir
	opReadDirPlus
	opFsyncDir
	opStatFS
	opStatx
	opGetXattr
	opSetXattr
	opListXattr
	opRemoveXattr
	opGetLk
	opSetLk
	opSetLkw
	opTmpfile
	opFallocate
	opCopyFileRange
	opLseek
	opCount
)

var opNames = [opCount]string{
	"lookup", "getattr", "setattr", "readlink", "symlink", "mknod", "mkdir", "unlink", "rmdir", "rename", "link",
	"open", "create", "read", "write", "flush", "fsync", "opendir", "readdir", "readdirplus",
	"fsyncdir", "statfs", "statx", "getxattr", "setxattr", "listxattr", "removexattr", "getlk", "setlk", "setlkw", "tmpfile",
	"fallocate", "copyfilerange", "lseek",
}

// opMetrics counts the requests of one kind.
type opMetrics struct {
	name    string
	seconds prometheus.Observer
	errors  prometheus.Counter
}

func (m *opMetrics) observe(took time.Duration, status gofuse.Status) {
	m.seconds.Observe(took.Seconds())
	if !status.Ok() {
		m.errors.Inc()
	}
}

// newMetrics makes the counters, and registers them when there is a registry.
func newMetrics(registry prometheus.Registerer) [opCount]opMetrics {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "dfs_fuse_request_seconds",
		Help:    "Time from the kernel's request to our answer.",
		Buckets: prometheus.ExponentialBuckets(10e-6, 4, 12), // 10 us to 42 s
	}, []string{"op"})
	failed := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dfs_fuse_request_errors_total",
		Help: "Requests answered with an errno, ENOENT of a lookup included.",
	}, []string{"op"})
	if registry != nil {
		registry.MustRegister(seconds, failed)
	}
	var m [opCount]opMetrics
	for i := range m {
		m[i] = opMetrics{name: opNames[i], seconds: seconds.WithLabelValues(opNames[i]), errors: failed.WithLabelValues(opNames[i])}
	}
	return m
}
