package replica

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"dfs"
	"dfs/meta"
)

// statusMiB reads a figure of this process from the kernel.
func statusMiB(b *testing.B, name string) float64 {
	b.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		b.Skip("no /proc")
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), name+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatalf("no %s", name)
	return 0
}

// BenchmarkInodes makes b.N files through a group of one master, kills it, and
// starts it again until all are there: with -benchtime 5000000x it shows what a
// large name space costs.
func BenchmarkInodes(b *testing.B) {
	const perCall, perFolder = 512, 1000
	config := Config{ID: 1, Dir: b.TempDir(), Bootstrap: true}
	n, err := Start(config)
	if err != nil {
		b.Fatal(err)
	}
	eventually(b, "it leads", func() bool { return n.Status().Leading })
	mustPropose(b, n, meta.Command{Op: &meta.Bootstrap{Cluster: 7, Buckets: 16}})
	session := mustPropose(b, n, meta.Command{Op: &meta.OpenSession{Nonce: 1}})
	seq, acked, inos := uint64(0), uint64(0), session.Inodes
	command := func(op meta.Op) meta.Command {
		seq++
		return meta.Command{Session: session.Session, Seq: seq, Acked: acked, Time: dfs.Time{Sec: int64(seq)}, Op: op}
	}
	next := func() dfs.Ino {
		if inos.From == inos.To {
			inos = mustPropose(b, n, command(&meta.GrantIDs{Inodes: true})).Inodes
		}
		inos.From++
		return dfs.Ino(inos.From - 1)
	}
	b.ResetTimer()
	folder := dfs.RootIno
	for made := 0; made < b.N; {
		var commands []meta.Command
		for len(commands) < perCall && made < b.N {
			ino := next()
			c := &meta.Create{Parent: folder, Name: fmt.Sprintf("some-file-%d.txt", made), Ino: ino, Mode: dfs.TypeFile | 0o644, Excl: true}
			if made%perFolder == 0 {
				c.Parent, c.Name, c.Mode = dfs.RootIno, fmt.Sprintf("folder-%d", made), dfs.TypeDir|0o755
				folder = ino
			}
			commands = append(commands, command(c))
			made++
		}
		replies, err := n.ProposeAll(b.Context(), commands)
		if err != nil {
			b.Fatal(err)
		}
		acked = seq
		for i, r := range replies {
			if r.Errno != dfs.OK || r.Duplicate || r.Expired {
				b.Fatalf("%+v: %+v", commands[i].Op, r)
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(statusMiB(b, "VmRSS"), "MiB-rss")
	b.ReportMetric(statusMiB(b, "VmHWM"), "MiB-rss-max")
	disk, _ := n.Usage()
	b.ReportMetric(float64(disk)/(1<<20), "MiB-disk")
	last := n.Applied()
	if err := n.Abandon(); err != nil {
		b.Fatal(err)
	}
	config.Bootstrap = false
	begin := time.Now()
	if n, err = Start(config); err != nil {
		b.Fatal(err)
	}
	if err := n.WaitApplied(b.Context(), last-1); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(begin).Seconds(), "s-restart")
	if err := n.Close(); err != nil {
		b.Fatal(err)
	}
}
