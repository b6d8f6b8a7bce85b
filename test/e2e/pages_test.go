package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var adminLine = regexp.MustCompile(`msg=admin address=(\S+)`)

// requests is how many requests of a kind the kernel has sent to a mount.
func (m *mount) requests(t *testing.T, op string) int {
	t.Helper()
	log, err := os.ReadFile(m.log)
	must(t, err)
	found := adminLine.FindSubmatch(log)
	if found == nil {
		t.Fatalf("%s tells no admin address", m.name)
	}
	resp, err := http.Get(fmt.Sprintf("http://%s/metrics", found[1]))
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	n := regexp.MustCompile(`dfs_fuse_request_seconds_count\{op="` + op + `"\} (\d+)`).FindSubmatch(text)
	if n == nil {
		t.Fatalf("no count of %s requests", op)
	}
	count, err := strconv.Atoi(string(n[1]))
	must(t, err)
	return count
}

func TestKernelKeepsWhatItsMountHasWritten(t *testing.T) {
	m := shared.get(t).mount(t)
	name := filepath.Join(m.dir, "own-pages")
	data := random(4<<20, 1)
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	_, err = f.Write(data)
	must(t, err)
	before, err := f.Stat()
	must(t, err)
	time.Sleep(2 * time.Millisecond) // the next write has another time
	_, err = f.WriteAt(data[:5000], 1<<20)
	must(t, err)
	copy(data[1<<20:], data[:5000])
	must(t, f.Sync())
	after, err := os.Stat(name)
	must(t, err)
	if !after.ModTime().After(before.ModTime()) || after.Size() != int64(len(data)) {
		t.Errorf("%v with %d bytes after %v", after.ModTime(), after.Size(), before.ModTime())
	}
	reads := m.requests(t, "read")
	got, err := os.ReadFile(name)
	must(t, err)
	if !bytes.Equal(got, data) {
		t.Error("other bytes")
	}
	if n := m.requests(t, "read") - reads; n != 0 {
		t.Errorf("%d requests for bytes that the kernel had", n)
	}
}

// Two mounts change one file in all ways that matter to the kernel's cache of its bytes,
// and after each change both read it, through files that were open before and new ones.
func TestPagesOfTwoMounts(t *testing.T) {
	c := shared.get(t)
	mounts := []*mount{c.mount(t), c.mount(t)}
	rng := rand.New(rand.NewPCG(7, uint64(os.Getpid())))
	const sizeMax = 1 << 20
	name := func(i int) string { return filepath.Join(mounts[i].dir, "shared-pages") }
	var model []byte
	must(t, os.WriteFile(name(0), nil, 0o644))
	open := make([]*os.File, len(mounts))
	for i := range mounts {
		var err error
		open[i], err = os.OpenFile(name(i), os.O_RDWR, 0)
		must(t, err)
		defer func() { open[i].Close() }()
	}
	put := func(off int, b []byte) {
		if end := off + len(b); end > len(model) {
			model = append(model, make([]byte, end-len(model))...)
		}
		copy(model[off:], b)
	}
	fixed := time.Unix(1_700_000_000, 123)
	for round := range 400 {
		who := rng.IntN(len(mounts))
		if rng.IntN(3) > 0 {
			who = round / 20 % len(mounts) // for a while mostly one, so that it has the lease
		}
		b := random(1+rng.IntN(100_000), rng.Uint64())
		off := rng.IntN(len(model) + 5000)
		what := ""
		switch rng.IntN(8) {
		case 0:
			what = "rewrites it"
			must(t, os.WriteFile(name(who), b, 0o644))
			model = bytes.Clone(b)
		case 1:
			what = "appends"
			f, err := os.OpenFile(name(who), os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			_, err = f.Write(b)
			must(t, err)
			must(t, f.Close())
			model = append(model, b...)
		case 2:
			what = "truncates"
			must(t, open[who].Truncate(int64(off)))
			model = append(model, make([]byte, max(0, off-len(model)))...)[:off]
		case 3:
			what = "writes and sets an old time"
			_, err := open[who].WriteAt(b, int64(off))
			must(t, err)
			put(off, b)
			at := fixed.Add(time.Duration(round)) // see docs/coherence.md for what the same time does
			must(t, os.Chtimes(name(who), at, at))
		case 4:
			what = "opens anew and writes"
			must(t, open[who].Close())
			var err error
			open[who], err = os.OpenFile(name(who), os.O_RDWR, 0)
			must(t, err)
			_, err = open[who].WriteAt(b, int64(off))
			must(t, err)
			put(off, b)
		default:
			what = "writes"
			_, err := open[who].WriteAt(b, int64(off))
			must(t, err)
			put(off, b)
		}
		if len(model) > sizeMax {
			must(t, open[who].Truncate(sizeMax/2))
			model = model[:sizeMax/2]
		}
		for i := range mounts {
			info, err := open[i].Stat()
			must(t, err)
			if info.Size() != int64(len(model)) {
				t.Fatalf("round %d: mount %d %s: mount %d sees %d bytes, not %d", round, who, what, i, info.Size(), len(model))
			}
			got := make([]byte, len(model)+1)
			n, err := open[i].ReadAt(got, 0)
			if err != io.EOF || !bytes.Equal(got[:n], model) {
				t.Fatalf("round %d: mount %d %s: mount %d reads %d bytes, not the %d that are there (%v)", round, who, what, i, n, len(model), err)
			}
			if rng.IntN(4) == 0 {
				got, err := os.ReadFile(name(i))
				if err != nil || !bytes.Equal(got, model) {
					t.Fatalf("round %d: mount %d %s: mount %d opens it and reads other bytes (%v)", round, who, what, i, err)
				}
			}
		}
	}
}

// Two mounts write greater parts of one file than the kernel passes on at once, which
// overlap: what both have written is of one of them, to the byte.
func TestOverlappingWritesAreWhole(t *testing.T) {
	c := shared.get(t)
	mounts := []*mount{c.mount(t), c.mount(t)}
	rng := rand.New(rand.NewPCG(11, uint64(os.Getpid())))
	var files [2]*os.File
	for i := range files {
		var err error
		files[i], err = os.OpenFile(filepath.Join(mounts[i].dir, "overlap"), os.O_RDWR|os.O_CREATE, 0o644)
		must(t, err)
		defer files[i].Close()
	}
	wins := map[byte]int{}
	for round := range 40 {
		var from, to [2]int
		var wg sync.WaitGroup
		for i := range files {
			from[i] = rng.IntN(2 << 20)
			to[i] = 3<<20 + rng.IntN(3<<20)
			data := bytes.Repeat([]byte{byte('a' + 2*(round%10) + i)}, to[i]-from[i])
			wg.Go(func() {
				if _, err := files[i].WriteAt(data, int64(from[i])); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		lo, hi := max(from[0], from[1]), min(to[0], to[1])
		for i := range files {
			got := make([]byte, hi-lo)
			_, err := files[i].ReadAt(got, int64(lo))
			must(t, err)
			if n := bytes.Count(got, got[:1]); n != len(got) {
				t.Fatalf("round %d, by mount %d: %d bytes of %d are like the first", round, i, n, len(got))
			}
			wins[(got[0]-'a')%2]++
		}
	}
	t.Logf("the last one was %v", wins)
}

// What is written past the kernel's cache is seen through it, also when it was read
// meanwhile.
func TestDirectWritesAreSeenByBufferedReads(t *testing.T) {
	m := shared.get(t).mount(t)
	name := filepath.Join(m.dir, "direct-and-buffered")
	const size = 1 << 20
	must(t, os.WriteFile(name, make([]byte, size), 0o644))
	direct, err := os.OpenFile(name, os.O_RDWR|unix.O_DIRECT, 0)
	must(t, err)
	defer direct.Close()
	buffered, err := os.Open(name)
	must(t, err)
	defer buffered.Close()
	var stop atomic.Bool
	var reader sync.WaitGroup
	defer reader.Wait()
	defer stop.Store(true)
	reader.Go(func() {
		for got := make([]byte, size); !stop.Load(); {
			if _, err := buffered.ReadAt(got, 0); err != nil {
				t.Error(err)
				return
			}
		}
	})
	raw := make([]byte, size+4096)
	aligned := raw[4096-int(uintptr(unsafe.Pointer(&raw[0]))%4096):][:size]
	got := make([]byte, size)
	for round := range 100 {
		for i := range aligned {
			aligned[i] = byte(round + 1)
		}
		_, err := direct.WriteAt(aligned, 0)
		must(t, err)
		_, err = buffered.ReadAt(got, 0)
		must(t, err)
		if !bytes.Equal(got, aligned) {
			t.Fatalf("round %d: old bytes after a write with O_DIRECT", round)
		}
	}
}
