package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/client"
	"dfs/internal/virtualtime"
	"dfs/proto/adminpb"
)

var appendSeeds = flag.Int("append.seeds", 4, "how many journals of random appends in virtual time; seeds follow each other from history.seed on")

// Bounds of a journal.
const (
	entriesMax  = 100      // by one client
	entryBytes  = 6000     // the longest
	entryHeader = 16       // mark, client, number, length
	journalMark = 0xfeed05 // begins an entry
)

// TestAppendsInVirtualTime lets three clients append entries to one file that is open with
// O_APPEND, and look at it meanwhile in all ways that bring leases, while leaders lose and
// get back their links in quick succession. Each entry that was acknowledged is there once,
// and whole; and whoever reads the file sees a beginning of what it becomes.
func TestAppendsInVirtualTime(t *testing.T) {
	first := *historySeed
	if first == 0 {
		first = rand.Uint64N(1 << 50)
	}
	for i := range uint64(*appendSeeds) {
		t.Run(fmt.Sprintf("history.seed=%d", first+i), func(t *testing.T) {
			t.Parallel()
			j := &journal{seed: first + i, rng: rand.New(rand.NewPCG(first+i, 98))}
			defer func() {
				if t.Failed() || testing.Verbose() {
					b := j.c.said.Bytes()
					t.Logf("log:\n%s", b[max(0, len(b)-*historyLog):])
					t.Log(strings.Join(j.log, "; "))
				}
			}()
			virtualtime.Test(t, j.run)
			j.judge(t)
		})
	}
}

// journal is a file that entries are appended to.
type journal struct {
	t    *testing.T
	c    *Cluster
	seed uint64
	rng  *rand.Rand
	ino  dfs.Ino
	log  []string // what went wrong, and when

	mu    sync.Mutex
	acked map[[2]uint32]bool // +checklocks:mu — by client and number; false: no answer came
	seen  [][]byte           // +checklocks:mu — what was read
	final []byte
}

func (j *journal) run(t *testing.T) {
	j.t, j.acked = t, map[[2]uint32]bool{}
	lag := []time.Duration{0, 200 * time.Microsecond, 2 * time.Millisecond}[j.rng.IntN(3)]
	o := Options{ChunkServers: 3, Mem: true, Wires: map[string]*Wire{}}
	for i := range 3 {
		o.Wires[fmt.Sprintf("master-%d", i+1)] = &Wire{lag: lag}
		o.Wires[fmt.Sprintf("chunk-%d", i+1)] = &Wire{lag: lag}
	}
	j.c = Start(t, o)
	u := user{t, "first", j.c.Client()}
	j.ino = u.create(dfs.RootIno, "journal")
	u.ok("sync", u.fs.Sync(t.Context()))
	var wg sync.WaitGroup
	var over atomic.Bool
	for i := range 3 {
		w := &Wire{name: fmt.Sprintf("client-%d", i), lag: lag}
		fs, err := j.c.dial(w, 2*healthyTimeout)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			var both sync.WaitGroup
			var done atomic.Bool
			both.Go(func() { defer done.Store(true); j.write(fs, uint32(i)) })
			both.Go(func() { j.look(fs, uint64(i), &done) })
			both.Wait()
			if err := fs.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	go func() { wg.Wait(); over.Store(true) }()
	began := time.Now()
	for !over.Load() {
		time.Sleep(time.Duration(j.rng.Int64N(int64(time.Second))))
		what, at := j.trouble(), time.Since(began)
		j.log = append(j.log, fmt.Sprintf("%s until %v", what, at))
	}
	f := u.open(j.ino, oRead)
	j.final = u.peek(f)
	f.Release()
}

// trouble is a leader that loses its links again and again, or leaders that hand over in
// quick succession.
func (j *journal) trouble() string {
	leader := j.c.Leader()
	m, _ := j.c.find(leader)
	apart, together := time.Duration(j.rng.Int64N(int64(2*time.Second))), time.Duration(j.rng.Int64N(int64(500*time.Millisecond)))
	clients := j.rng.IntN(2) == 0
	times := 1 + j.rng.IntN(4)
	if j.rng.IntN(2) == 0 {
		for range 2 * times {
			// It may be refused, or too late: then the same one leads on.
			_ = j.c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
				_, err := adminpb.NewAdminClient(conn).TransferLeader(ctx, &adminpb.TransferLeaderRequest{})
				return err
			})
			time.Sleep(time.Duration(j.rng.Int64N(int64(together) + 1)))
		}
		return fmt.Sprintf("%d times another leader, for %v at most", 2*times, together)
	}
	for range times {
		if clients {
			j.c.network.Cut("client", m.addr)
		}
		j.c.part(leader, apart)
		if clients {
			j.c.network.Heal("client", m.addr)
		}
		time.Sleep(together)
	}
	return fmt.Sprintf("%s %d times apart for %v, together for %v, clients too: %v", leader, times, apart, together, clients)
}

// entry makes an entry, which says all about itself.
func (j *journal) entry(client, number uint32, n int) []byte {
	b := make([]byte, 0, n)
	for _, v := range [...]uint32{journalMark, client, number, uint32(n)} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(b, content(j.seed+uint64(client)<<32+uint64(number), n-entryHeader)...)
}

func (j *journal) write(fs *client.FS, id uint32) {
	rng := rand.New(rand.NewPCG(j.seed, uint64(id)))
	ctx := context.Background()
	f, err := fs.Open(ctx, root, j.ino, oRDWR|oAppend)
	if err != nil {
		j.t.Errorf("open: %v", err)
		return
	}
	defer f.Release()
	for k := range uint32(entriesMax) {
		e := j.entry(id, k, entryHeader+rng.IntN(entryBytes-entryHeader))
		err := j.append(ctx, f, e, rng)
		if err == nil && rng.IntN(3) == 0 {
			if err := f.Fsync(ctx, false); err != nil {
				j.t.Errorf("fsync: %v", err)
			}
		}
		j.mu.Lock()
		j.acked[[2]uint32{id, k}] = err == nil
		j.mu.Unlock()
		if err != nil {
			j.t.Logf("client %d, entry %d: %v", id, k, err)
		}
		time.Sleep(time.Duration(rng.Int64N(int64(30 * time.Millisecond))))
	}
}

// append writes an entry, at once or in parts, as the kernel does.
func (j *journal) append(ctx context.Context, f *client.File, e []byte, rng *rand.Rand) error {
	whole := len(e)
	for cut := 0; len(e) > 0; e = e[cut:] {
		var goesOn func() bool
		if cut = len(e); rng.IntN(2) == 0 {
			cut = 1 + rng.IntN(len(e))
		}
		if cut < len(e) {
			goesOn = func() bool { return true }
		}
		if len(e) < whole {
			time.Sleep(time.Duration(rng.Int64N(int64(20 * time.Millisecond))))
		}
		n, err := f.WritePart(ctx, e[:cut], 0, goesOn)
		if err != nil {
			return err
		}
		if n != cut {
			j.t.Errorf("%d of %d bytes are written", n, cut)
		}
	}
	return nil
}

// look asks for the file in all ways that may bring a lease, or find one.
func (j *journal) look(fs *client.FS, id uint64, done *atomic.Bool) {
	rng := rand.New(rand.NewPCG(j.seed, 100+id))
	ctx := context.Background()
	for !done.Load() && !j.t.Failed() {
		var err error
		switch rng.IntN(5) {
		case 0:
			_, err = fs.GetAttr(ctx, j.ino)
		case 1:
			_, err = fs.Lookup(ctx, root, dfs.RootIno, "journal")
		case 2:
			_, err = fs.ReadDir(ctx, root, dfs.RootIno, 0, 100, true)
		case 3:
			var f *client.File
			if f, err = fs.Open(ctx, root, j.ino, oRead); err == nil {
				f.Release()
			}
		default:
			err = j.read(ctx, fs)
		}
		if err != nil {
			j.t.Errorf("client %d looks: %v", id, err)
		}
		time.Sleep(time.Duration(rng.Int64N(int64(20 * time.Millisecond))))
	}
}

func (j *journal) read(ctx context.Context, fs *client.FS) error {
	f, err := fs.Open(ctx, root, j.ino, oRead)
	if err != nil {
		return err
	}
	defer f.Release()
	b := make([]byte, 3*entriesMax*entryBytes)
	n, err := f.Read(ctx, b, 0)
	if err == nil {
		j.mu.Lock()
		j.seen = append(j.seen, slices.Clip(b[:n]))
		j.mu.Unlock()
	}
	return err
}

// judge looks at all entries.
func (j *journal) judge(t *testing.T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	found := map[[2]uint32]bool{}
	for at := 0; at < len(j.final); {
		b := j.final[at:]
		if len(b) < entryHeader || binary.BigEndian.Uint32(b) != journalMark {
			t.Fatalf("what begins at %d of %d is no entry", at, len(j.final))
		}
		client, number, n := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), int(binary.BigEndian.Uint32(b[12:]))
		if n > len(b) || n < entryHeader {
			t.Fatalf("entry %d of client %d, which begins at %d, has %d bytes of %d", number, client, at, len(b), n)
		}
		if want := j.entry(client, number, n); !bytes.Equal(b[:n], want) {
			t.Fatalf("entry %d of client %d, which begins at %d and has %d bytes, is right for %d", number, client, at, n, common(b[:n], want))
		}
		key := [2]uint32{client, number}
		if found[key] {
			t.Errorf("entry %d of client %d is there twice", number, client)
		}
		found[key] = true
		at += n
	}
	for key, acked := range j.acked {
		if acked && !found[key] {
			t.Errorf("entry %d of client %d is lost", key[1], key[0])
		}
	}
	for _, b := range j.seen {
		if !bytes.HasPrefix(j.final, b) {
			t.Errorf("%d bytes were read, of which %d are a beginning of the file", len(b), common(b, j.final))
		}
	}
	t.Logf("%d bytes in %d entries, %d times read", len(j.final), len(found), len(j.seen))
}
