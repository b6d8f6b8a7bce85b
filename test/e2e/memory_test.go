package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Memory that the processes may have used at most, in MiB.
const (
	mountMemory = 512
	chunkMemory = 256
)

// peak is the most memory that a process has had, in MiB.
func (p *process) peak(t *testing.T) int {
	t.Helper()
	return peakOf(t, p.cmd.Process.Pid)
}

// peak of a mount is that of the process that serves it.
func (m *mount) peak(t *testing.T) int {
	t.Helper()
	return peakOf(t, m.worker())
}

func peakOf(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	var kib int
	_, err = fmt.Sscanf(rest, "%d", &kib)
	must(t, err)
	return kib >> 10
}

func TestStreamsStayWithinMemory(t *testing.T) {
	size := 512 << 20
	if *full {
		size = 4 << 30
	}
	c := newCluster(t, options{})
	m := c.mount(t)
	path := filepath.Join(m.dir, "stream")
	block := random(1<<20, 1)
	f, err := os.Create(path)
	must(t, err)
	for at := 0; at < size; at += len(block) {
		_, err := f.Write(block)
		must(t, err)
	}
	must(t, f.Close())
	dropCaches(t)
	f, err = os.Open(path)
	must(t, err)
	defer f.Close()
	buf := make([]byte, len(block))
	for at := 0; at < size; at += len(block) {
		if _, err := f.ReadAt(buf, int64(at)); err != nil || !bytes.Equal(buf, block) {
			t.Fatalf("at %d: %v, right: %v", at, err, bytes.Equal(buf, block))
		}
	}
	if mib := m.peak(t); mib > mountMemory {
		t.Errorf("dfs-mount had %d MiB, want at most %d", mib, mountMemory)
	}
	for _, p := range c.chunks {
		mib := p.peak(t)
		if mib > chunkMemory {
			t.Errorf("%s had %d MiB, want at most %d", p.name, mib, chunkMemory)
		}
		t.Logf("%s had %d MiB", p.name, mib)
	}
	t.Logf("dfs-mount had %d MiB", m.peak(t))
}
