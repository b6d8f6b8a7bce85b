package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dfs"

	"golang.org/x/sys/unix"
)

// snapshot is every file below a folder with its content, to prove that a refusal
// destroyed nothing. Locks may change.
func snapshot(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	all := map[string][sha256.Size]byte{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.EqualFold(d.Name(), "lock") {
			return err
		}
		data, err := os.ReadFile(path)
		// A fragment's first block also holds the mark that its writer is gone, and
		// space that was set aside behind the last record may be given back.
		if strings.Contains(path, "/chunks/") {
			data = data[min(len(data), dfs.PageBytes):]
		}
		all[path] = sha256.Sum256(bytes.TrimRight(data, "\x00"))
		return err
	}))
	return all
}

func untouched(t *testing.T, what, dir string, before map[string][sha256.Size]byte) {
	t.Helper()
	after := snapshot(t, dir)
	for path, sum := range before {
		if after[path] != sum {
			t.Errorf("%s: %s has changed", what, path)
		}
	}
}

// data is the folder of a daemon of this cluster.
func (c *cluster) data(name string) string { return filepath.Join(c.dir, name) }

func TestDaemonsRefuseWhatIsNotTheirs(t *testing.T) {
	c := newCluster(t, options{})
	other := newCluster(t, options{masters: 1, chunks: 3})
	must(t, os.WriteFile(filepath.Join(c.mount(t).dir, "f"), random(100_000, 1), 0o644))
	master, chunk := c.masters[1], c.chunks[0]
	must(t, master.stop())
	must(t, chunk.stop())
	masterData, chunkData := snapshot(t, c.data("master-2")), snapshot(t, c.data("chunk-1"))
	run := func(p *process, more ...string) []string {
		args := append([]string{filepath.Base(p.args[0])}, p.args[1:]...)
		return append(args, more...)
	}

	refusal(t, "an unknown flag", "--frobnicate", run(master, "--frobnicate")...)
	refusal(t, "a master without a folder", "--dir", "dfs-master", "--name", "m")
	refusal(t, "a chunk server without masters", "--masters", "dfs-chunk", "--name", "c", "--dir", t.TempDir())
	refusal(t, "a new cluster over a master of another", "started to join", run(master, "--bootstrap")...)
	refusal(t, "another name", "is of master master-2", run(master, "--name", "somebody")...)
	refusal(t, "a master without a cluster to join", "--bootstrap", "dfs-master", "--name", "m", "--dir", filepath.Join(t.TempDir(), "new"),
		"--listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0")
	refusal(t, "an address in use", "address already in use", run(master, "--listen", c.addrs[0])...)
	refusal(t, "a chunk server of another cluster", "cluster", run(chunk, "--masters", strings.Join(other.addrs, ","))...)
	foreign := t.TempDir()
	must(t, os.WriteFile(filepath.Join(foreign, "thesis.txt"), []byte("x"), 0o644))
	refusal(t, "a chunk server in a folder with something else", "thesis.txt", run(chunk, "--dir", foreign)...)
	refusal(t, "a folder that is in use", "in use", run(c.chunks[1], "--listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0")...)

	damage := func(what, want string, p *process, path string, change func([]byte) []byte) {
		t.Helper()
		data, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, change(bytes.Clone(data)), 0o644))
		refusal(t, what, want, run(p)...)
		must(t, os.WriteFile(path, data, 0o644))
	}
	identity, disk := filepath.Join(c.data("master-2"), "identity"), filepath.Join(c.data("chunk-1"), "dfs.json")
	damage("a damaged identity of a master", "damaged", master, identity, func(b []byte) []byte { b[len(b)/3] ^= 1; return b })
	damage("a master's folder of a later version", "version 99", master, identity, func(b []byte) []byte {
		line, _, _ := bytes.Cut(b, []byte("\n"))
		line = append(bytes.Replace(line, []byte(`"version":1`), []byte(`"version":99`), 1), '\n')
		return fmt.Appendf(line, "%08x\n", crc32.Checksum(line, crc32.MakeTable(crc32.Castagnoli)))
	})
	damage("a damaged identity of a disk", "dfs.json", chunk, disk, func(b []byte) []byte { return b[:len(b)/2] })
	damage("a disk of a later version", "newer version", chunk, disk, func(b []byte) []byte {
		return bytes.Replace(b, []byte(`"format": 1`), []byte(`"format": 99`), 1)
	})

	untouched(t, "master-2", c.data("master-2"), masterData)
	untouched(t, "chunk-1", c.data("chunk-1"), chunkData)
	must(t, master.start())
	must(t, chunk.start())
	must(t, c.waitHealthy(healthyTimeout))
}

// TestDamagedRaftLogIsRefused: entries that were acknowledged must not be taken
// for a torn tail and cut off.
func TestDamagedRaftLogIsRefused(t *testing.T) {
	c := newCluster(t, options{masters: 1})
	m := c.mount(t)
	for i := range 50 {
		mkdir(t, filepath.Join(m.dir, fmt.Sprint("d", i)))
	}
	must(t, m.umount(stopTimeout))
	master := c.masters[0]
	master.kill()
	logs, err := filepath.Glob(filepath.Join(c.data("master-1"), "raft", "*.log"))
	must(t, err)
	if len(logs) == 0 {
		t.Fatal("no segment of the Raft log")
	}
	whole, err := os.ReadFile(logs[0])
	must(t, err)
	used := len(bytes.TrimRight(whole, "\x00"))
	damaged := bytes.Clone(whole)
	copy(damaged[used/2:], "damage damage damage damage")
	must(t, os.WriteFile(logs[0], damaged, 0o644))
	refusal(t, "a damaged Raft log", filepath.Base(logs[0]), append([]string{"dfs-master"}, master.args[1:]...)...)
	must(t, os.WriteFile(logs[0], whole, 0o644))
	must(t, master.start())
	must(t, c.waitHealthy(healthyTimeout))
	entries, err := os.ReadDir(c.mount(t).dir)
	if err != nil || len(entries) != 50 {
		t.Errorf("with the log as it was: %d folders, %v", len(entries), err)
	}
}

func TestDamagedBytesNeverReachAProgram(t *testing.T) {
	c := newCluster(t, options{})
	m := c.mount(t)
	want := random(4<<20, 5)
	path := filepath.Join(m.dir, "f")
	must(t, writeSynced(path, want))
	damage := func(server string) {
		n := 0
		must(t, filepath.WalkDir(c.data(server), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			at := bytes.Index(data, want[300_000:300_064])
			if at < 0 {
				return nil
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			n++
			_, err = f.WriteAt([]byte("rotten"), int64(at))
			return err
		}))
		if n == 0 {
			t.Fatalf("%s has no copy of the bytes", server)
		}
	}
	read := func() ([]byte, error) {
		m := c.mount(t) // caches nothing of it
		return os.ReadFile(filepath.Join(m.dir, "f"))
	}
	for _, server := range []string{"chunk-1", "chunk-2"} {
		damage(server)
		got, err := read()
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("wrong bytes after the copy of %s was damaged", server)
		}
	}
	damage("chunk-3")
	got, err := read()
	if !errors.Is(err, unix.EIO) {
		t.Errorf("all copies are damaged: %v (%d bytes, right: %v), want EIO", err, len(got), bytes.Equal(got, want))
	}
}
