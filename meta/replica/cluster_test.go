package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"dfs"
	"dfs/internal/disk"
	"dfs/meta"
)

// group is masters in one process over a network in memory.
type group struct {
	t    testing.TB
	dir  string
	mu   sync.Mutex
	node map[dfs.NodeID]*Node
	cut  map[dfs.NodeID]bool      // nothing comes or goes
	deaf map[dfs.NodeID]bool      // nothing comes
	loss int                      // percent of messages that are lost
	logs map[dfs.NodeID]*disk.Mem // disks of the logs; nil: the machine's
	wg   sync.WaitGroup
}

// port is one node's transport: a queue for each receiver, so that order holds and
// a sender never waits.
type port struct {
	g     *group
	from  dfs.NodeID
	queue chan []*raftpb.Message
}

func newGroup(t testing.TB) *group {
	g := &group{t: t, dir: t.TempDir(), node: map[dfs.NodeID]*Node{}, cut: map[dfs.NodeID]bool{}, deaf: map[dfs.NodeID]bool{}}
	t.Cleanup(func() {
		for id := range g.nodes() {
			g.stop(id, true)
		}
		g.wg.Wait()
	})
	return g
}

func (g *group) nodes() map[dfs.NodeID]*Node {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[dfs.NodeID]*Node{}
	for id, n := range g.node {
		out[id] = n
	}
	return out
}

// reach is the node that a message gets to; nil when the network is cut.
func (g *group) reach(from, to dfs.NodeID) *Node {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut[from] || g.cut[to] || g.deaf[to] || g.loss > 0 && rand.IntN(100) < g.loss {
		return nil
	}
	return g.node[to]
}

func (g *group) isolate(id dfs.NodeID, cut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut[id] = cut
}

func (p *port) Send(messages []*raftpb.Message) {
	select {
	case p.queue <- messages:
	default:
	}
}

func (p *port) SendSnapshot(ctx context.Context, m *raftpb.Message, dir string) error {
	n := p.g.reach(p.from, dfs.NodeID(m.GetTo()))
	if n == nil {
		return errors.New("unreachable")
	}
	return n.ReceiveSnapshot(ctx, m, func(to string) error {
		return copyFiles(n.cfg.FS, to, p.g.logDisk(p.from), dir)
	})
}

// copyFiles copies a snapshot from one node's disk to another's.
func copyFiles(to disk.FS, target string, from disk.FS, source string) error {
	entries, err := from.ReadDir(source)
	if err != nil {
		return err
	}
	for _, e := range entries {
		b, err := disk.ReadFile(from, filepath.Join(source, e.Name), 1<<30)
		if err == nil {
			err = disk.WriteFile(to, filepath.Join(target, e.Name), b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *group) start(id dfs.NodeID, bootstrap bool) *Node {
	g.t.Helper()
	p := &port{g: g, from: id, queue: make(chan []*raftpb.Message, 1024)}
	n, err := Start(Config{
		ID: id, Dir: filepath.Join(g.dir, id.String()), FS: g.logDisk(id), Bootstrap: bootstrap, Transport: p,
		Tick: 10 * time.Millisecond, SegmentBytes: 1 << 20,
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	g.node[id] = n
	g.mu.Unlock()
	g.wg.Go(func() {
		for {
			select {
			case messages := <-p.queue:
				for _, m := range messages {
					if to := g.reach(id, dfs.NodeID(m.GetTo())); to != nil {
						to.Step(proto.Clone(m).(*raftpb.Message))
					}
				}
			case <-n.Done():
				return
			}
		}
	})
	return n
}

// logDisk is where a node has its log.
func (g *group) logDisk(id dfs.NodeID) disk.FS {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.logs == nil {
		return disk.OS()
	}
	mem := g.logs[id]
	if mem == nil {
		mem = disk.NewMem()
		g.logs[id] = mem
	}
	if err := disk.MkdirSync(mem, g.dir); err != nil {
		g.t.Fatal(err)
	}
	return mem
}

func (g *group) stop(id dfs.NodeID, clean bool) {
	g.mu.Lock()
	n := g.node[id]
	delete(g.node, id)
	g.mu.Unlock()
	if n == nil {
		return
	}
	end := n.Close
	if !clean {
		end = n.Abandon
	}
	if err := end(); err != nil {
		g.t.Errorf("stop %v: %v", id, err)
	}
	if err := n.Err(); err != nil {
		g.t.Errorf("%v stopped by itself: %v", id, err)
	}
}

// leader waits until one node leads and can make changes.
func (g *group) leader() *Node {
	g.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		for _, n := range g.nodes() {
			if n.Status().Leading {
				ctx, cancel := context.WithTimeout(g.t.Context(), 500*time.Millisecond)
				err := n.Read(ctx, func(meta.View) error { return nil })
				cancel()
				if err == nil {
					return n
				}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	g.t.Fatal("no leader")
	return nil
}

// bootstrapped makes a group of size nodes with a file system and a session.
func bootstrapped(t testing.TB, size int) (*group, dfs.SessionID, meta.Range) {
	return bootstrappedOn(newGroup(t), t, size)
}

func bootstrappedOn(g *group, t testing.TB, size int) (*group, dfs.SessionID, meta.Range) {
	t.Helper()
	first := g.start(1, true)
	g.leader()
	ctx := t.Context()
	mustPropose(t, first, meta.Command{Op: &meta.Bootstrap{Cluster: 7, Buckets: 16}})
	for id := dfs.NodeID(2); id <= dfs.NodeID(size); id++ {
		g.start(id, false)
		if err := first.AddLearner(ctx, id); err != nil {
			t.Fatal(err)
		}
		if err := first.Promote(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	r := mustPropose(t, first, meta.Command{Op: &meta.OpenSession{Nonce: 1}})
	session := r.Session
	// The first range is a small one.
	r = mustPropose(t, first, meta.Command{Session: r.Session, Seq: grantSeq, Op: &meta.GrantIDs{Inodes: true}})
	return g, session, r.Inodes
}

// grantSeq is a sequence that the tests do not come to.
const grantSeq = 50_000

func mustPropose(t testing.TB, n *Node, c meta.Command) meta.Reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := n.Propose(ctx, c)
	if err != nil || r.Errno != dfs.OK {
		t.Fatalf("%T: %v, %v", c.Op, r.Errno, err)
	}
	return r
}

// retry proposes a command under the same name until somebody carries it out.
func (g *group) retry(c meta.Command) meta.Reply {
	g.t.Helper()
	for {
		n := g.leader()
		ctx, cancel := context.WithTimeout(g.t.Context(), 2*time.Second)
		r, err := n.Propose(ctx, c)
		cancel()
		if err == nil {
			return r
		}
	}
}

func create(session dfs.SessionID, seq uint64, ino uint64) meta.Command {
	return meta.Command{
		Session: session, Seq: seq, Time: dfs.Time{Sec: int64(seq)},
		Op: &meta.Create{Parent: dfs.RootIno, Name: fmt.Sprintf("f%d", seq), Ino: dfs.Ino(ino), Mode: dfs.TypeFile | 0o644, Excl: true},
	}
}

func names(t testing.TB, n *Node) []string {
	t.Helper()
	var out []string
	err := n.LocalRead(func(v meta.View) error {
		l, err := v.ReadDir(dfs.Cred{}, dfs.RootIno, 0, 1<<20, false)
		for _, e := range l.Entries {
			out = append(out, e.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// settle waits until all nodes have applied what the leader has.
func (g *group) settle() {
	g.t.Helper()
	l := g.leader()
	ctx, cancel := context.WithTimeout(g.t.Context(), 20*time.Second)
	defer cancel()
	index := l.Applied()
	for id, n := range g.nodes() {
		if err := n.WaitApplied(ctx, index-1); err != nil {
			g.t.Fatalf("%v is at %d of %d: %v", id, n.Applied(), index, err)
		}
	}
}

// same compares the rows of all nodes at one index of the log. A command whose
// caller has given up may still be on its way, so they may have to be looked at
// again.
func (g *group) same() {
	g.t.Helper()
	var rows map[dfs.NodeID]map[string]string
	eventually(g.t, "all masters come to one place in the log", func() bool {
		g.settle()
		rows = map[dfs.NodeID]map[string]string{}
		places := map[uint64]bool{}
		for id, n := range g.nodes() {
			before := n.Position().Index
			rows[id] = n.rows(g.t)
			places[before], places[n.Position().Index] = true, true
		}
		return len(places) == 1
	})
	first := slices.Min(slices.Collect(maps.Keys(rows)))
	for id, got := range rows {
		for _, k := range slices.Sorted(maps.Keys(got)) {
			if got[k] != rows[first][k] {
				g.t.Fatalf("master %v has %q = %q, master %v has %q", id, k, got[k], first, rows[first][k])
			}
		}
		if len(got) != len(rows[first]) {
			g.t.Fatalf("master %v has %d rows, master %v has %d", id, len(got), first, len(rows[first]))
		}
	}
}

func (n *Node) rows(t testing.TB) map[string]string {
	rows := map[string]string{}
	if err := n.store.View(func(r meta.Reader) error {
		return r.Scan(nil, []byte{0xff, 0xff}, func(k, v []byte) (bool, error) {
			rows[string(k)] = string(v)
			return true, nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestNothingAcknowledgedIsLostWhenLeadersDie(t *testing.T) {
	g, session, inos := bootstrapped(t, 3)
	seq := uint64(0)
	for round := range 4 {
		for range 30 {
			seq++
			if r := g.retry(create(session, seq, inos.From+seq)); r.Errno != dfs.OK {
				t.Fatalf("round %d: %v", round, r.Errno)
			}
		}
		id := g.leader().cfg.ID
		g.stop(id, round%2 == 0)
		seq++
		if r := g.retry(create(session, seq, inos.From+seq)); r.Errno != dfs.OK {
			t.Fatalf("round %d, without %v: %v", round, id, r.Errno)
		}
		g.start(id, false)
	}
	g.same()
	if got := len(names(t, g.leader())); got != int(seq) {
		t.Fatalf("%d names, want %d", got, seq)
	}
}

func TestRetriedCommandTakesEffectOnce(t *testing.T) {
	g, session, inos := bootstrapped(t, 3)
	c := create(session, 1, inos.From)
	first := g.retry(c)
	g.stop(g.leader().cfg.ID, true)
	again := g.retry(c)
	if first.Errno != dfs.OK || again.Errno != dfs.OK || !again.Replayed {
		t.Fatalf("first %+v, again %+v", first, again)
	}
}

func TestAllStoppedAtOnceKeepEverything(t *testing.T) {
	g, session, inos := bootstrapped(t, 3)
	for seq := uint64(1); seq <= 100; seq++ {
		g.retry(create(session, seq, inos.From+seq))
	}
	for id := range g.nodes() {
		g.stop(id, false)
	}
	for id := dfs.NodeID(1); id <= 3; id++ {
		g.start(id, false)
	}
	if got := len(names(t, g.leader())); got != 100 {
		t.Fatalf("%d names, want 100", got)
	}
	g.same()
}

func TestEmptyMasterGetsSnapshot(t *testing.T) {
	g, session, inos := bootstrapped(t, 1)
	for seq := uint64(1); seq <= 50; seq++ {
		g.retry(create(session, seq, inos.From+seq))
	}
	l := g.leader()
	if err := l.Compact(0); err != nil {
		t.Fatal(err)
	}
	g.start(2, false)
	if err := l.AddLearner(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	g.same()
	// And one that was away while the log was shortened.
	if err := l.Promote(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	g.start(3, false)
	if err := l.AddLearner(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	g.settle()
	g.stop(3, false)
	for seq := uint64(51); seq <= 90; seq++ {
		g.retry(create(session, seq, inos.From+seq))
	}
	if err := g.leader().Compact(0); err != nil {
		t.Fatal(err)
	}
	g.start(3, false)
	g.same()
	g.stop(3, false)
	g.start(3, false)
	g.same()
}

func TestCutOffLeaderDoesNotAnswerReads(t *testing.T) {
	g, session, inos := bootstrapped(t, 3)
	g.retry(create(session, 1, inos.From+1))
	old := g.leader()
	g.isolate(old.cfg.ID, true)
	// The others elect one of them and change the state.
	var next *Node
	for deadline := time.Now().Add(20 * time.Second); next == nil; {
		for id, n := range g.nodes() {
			if id != old.cfg.ID && n.Status().Leading {
				next = n
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("no new leader")
		}
		time.Sleep(time.Millisecond)
	}
	mustPropose(t, next, create(session, 2, inos.From+2))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	seen := -1
	if err := old.Read(ctx, func(v meta.View) error {
		_, err := v.Lookup(dfs.Cred{}, dfs.RootIno, "f2")
		seen = 0
		if err == nil {
			seen = 1
		}
		return nil
	}); err == nil {
		t.Fatalf("the old leader answered a read (new name seen: %d)", seen)
	}
	if _, err := old.Propose(ctx, create(session, 3, inos.From+3)); err == nil {
		t.Fatal("the old leader acknowledged a change")
	}
	g.isolate(old.cfg.ID, false)
	g.same()
}

func TestMembershipChangesWhileItWorks(t *testing.T) {
	g, session, inos := bootstrapped(t, 5)
	g.retry(create(session, 1, inos.From+1))
	for _, id := range []dfs.NodeID{5, 4} {
		if err := g.leader().Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		g.stop(id, true)
	}
	l := g.leader()
	to := dfs.NodeID(1)
	if l.cfg.ID == 1 {
		to = 2
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.Transfer(ctx, to); err != nil {
		t.Fatal(err)
	}
	g.retry(create(session, 2, inos.From+2))
	peers, _, err := g.leader().Peers(ctx)
	if err != nil || len(peers) != 3 {
		t.Fatalf("%v, %v", peers, err)
	}
	g.same()
}

func TestBootstrapOverDataIsRefused(t *testing.T) {
	g, _, _ := bootstrapped(t, 1)
	dir := g.leader().cfg.Dir
	g.stop(1, true)
	_, err := Start(Config{ID: 1, Dir: dir, Bootstrap: true})
	if !errors.Is(err, ErrExists) {
		t.Fatalf("%v", err)
	}
	g.start(1, false)
	g.leader()
}

func BenchmarkPropose(b *testing.B) {
	for _, callers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			g, _, _ := bootstrapped(b, 3)
			l := g.leader()
			var wg sync.WaitGroup
			work := make(chan int)
			for c := range callers {
				r := mustPropose(b, l, meta.Command{Op: &meta.OpenSession{Nonce: uint64(100 + c)}})
				wg.Go(func() {
					seq, ino := uint64(0), r.Inodes
					for range work {
						seq++
						// The names are not made again: a verdict costs the same log.
						_, err := l.Propose(b.Context(), meta.Command{Session: r.Session, Seq: seq, Acked: seq, Op: &meta.Create{
							Parent: dfs.RootIno, Name: fmt.Sprintf("c%d-%d", c, seq), Ino: dfs.Ino(ino.From + seq), Mode: dfs.TypeFile,
						}})
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ResetTimer()
			for i := range b.N {
				work <- i
			}
			close(work)
			wg.Wait()
		})
	}
}
