package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dfs"
	"dfs/internal/disk"
	"dfs/meta"
)

// register is a value that one writer counts up, and anybody reads. With one
// writer the history is linearizable if each read answers at least what was
// acknowledged or read before it began, and at most what was begun before it ended.
type register struct {
	name    string
	begun   atomic.Uint64
	acked   atomic.Uint64
	seen    atomic.Uint64
	reads   atomic.Uint64
	creates []string // of names that were acknowledged
}

func raise(a *atomic.Uint64, v uint64) {
	for {
		old := a.Load()
		if old >= v || a.CompareAndSwap(old, v) {
			return
		}
	}
}

// any picks a node that runs.
func (g *group) any() *Node {
	nodes := g.nodes()
	if len(nodes) == 0 {
		return nil
	}
	ids := make([]dfs.NodeID, 0, len(nodes))
	for id := range nodes {
		ids = append(ids, id)
	}
	return nodes[ids[rand.IntN(len(ids))]]
}

// persist proposes a command to one node after the other, under the same name,
// until it is answered.
func (g *group) persist(ctx context.Context, c meta.Command) (meta.Reply, error) {
	n := g.any()
	for ctx.Err() == nil {
		if n == nil {
			n = g.any()
			continue
		}
		once, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		r, err := n.Propose(once, c)
		if err == nil {
			cancel()
			return r, nil
		}
		var other *NotLeaderError
		if n = g.any(); errors.As(err, &other) && other.Leader != 0 {
			if l := g.nodes()[other.Leader]; l != nil {
				n = l
			}
		} else {
			// Nobody leads: not as fast as the machine can ask.
			select {
			case <-n.Changed():
			case <-once.Done():
			}
		}
		cancel()
	}
	return meta.Reply{}, ctx.Err()
}

// write counts the register up and makes names, until ctx ends.
func (r *register) write(ctx context.Context, t *testing.T, g *group, session dfs.SessionID, inos meta.Range) {
	seq := uint64(0)
	for ctx.Err() == nil {
		v := r.begun.Add(1)
		seq++
		reply, err := g.persist(ctx, meta.Command{Session: session, Seq: seq, Acked: seq - 1, Op: &meta.SetXattr{
			Ino: dfs.RootIno, Name: r.name, Value: []byte(strconv.FormatUint(v, 10)),
		}})
		if err != nil {
			return
		}
		if reply.Errno != dfs.OK || reply.Duplicate || reply.Expired {
			t.Errorf("%s = %d: %+v", r.name, v, reply)
			return
		}
		raise(&r.acked, v)
		if inos.From+uint64(len(r.creates)) >= inos.To || v%10 != 0 {
			continue
		}
		// A name is made exclusively: a retry that took effect twice would show.
		seq++
		name := fmt.Sprintf("%s-%d", r.name, v)
		reply, err = g.persist(ctx, meta.Command{Session: session, Seq: seq, Acked: seq - 1, Op: &meta.Create{
			Parent: dfs.RootIno, Name: name, Ino: dfs.Ino(inos.From + uint64(len(r.creates))), Mode: dfs.TypeFile | 0o600, Excl: true,
		}})
		if err != nil {
			return
		}
		if reply.Errno != dfs.OK {
			t.Errorf("%s: %+v", name, reply)
			return
		}
		r.creates = append(r.creates, name)
	}
}

func (r *register) value(v meta.View) (uint64, error) {
	b, err := v.GetXattr(dfs.Cred{}, dfs.RootIno, r.name)
	if errors.Is(err, dfs.ENODATA) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(b), 10, 64)
}

// check reads from any node, also one that is cut off or was leader once.
func (r *register) check(ctx context.Context, t *testing.T, g *group) {
	for ctx.Err() == nil {
		n := g.any()
		if n == nil {
			continue
		}
		least := max(r.acked.Load(), r.seen.Load())
		once, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		got := uint64(0)
		err := n.Read(once, func(v meta.View) (err error) {
			got, err = r.value(v)
			return err
		})
		cancel()
		if err != nil {
			select { // of a node that does not lead
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		most := r.begun.Load()
		if got < least || got > most {
			t.Errorf("%v read %s = %d, want from %d to %d", n.cfg.ID, r.name, got, least, most)
			return
		}
		raise(&r.seen, got)
		r.reads.Add(1)
	}
}

// powerOff ends a node as a loss of power does, in the middle of what it writes:
// from now on no sync of its log succeeds, and so nothing is applied or acknowledged.
func (g *group) powerOff(id dfs.NodeID, rng *rand.Rand) {
	g.mu.Lock()
	n, mem := g.node[id], g.logs[id]
	delete(g.node, id)
	g.mu.Unlock()
	if n == nil {
		return
	}
	mem.Fail(disk.Rule{Op: disk.OpSync, Path: "raft/*", Err: errors.New("no power")})
	_ = n.Abandon() // the log may say that it is broken
	g.mu.Lock()
	g.logs[id] = mem.Crash(rng)
	g.mu.Unlock()
}

// pause holds raft's goroutine, as a stopped process; what reads goes on.
func (g *group) pause(n *Node, d time.Duration) {
	g.wg.Go(func() {
		n.later(func() {
			select {
			case <-time.After(d):
			case <-n.Done():
			}
		})
	})
}

func (g *group) heal() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.cut)
	clear(g.deaf)
	g.loss = 0
}

// trouble does one bad thing, for a while.
func (g *group) trouble(t *testing.T, rng *rand.Rand, size int) string {
	id := dfs.NodeID(1 + rng.IntN(size))
	if rng.IntN(2) == 0 { // the leader is where it hurts
		for other, n := range g.nodes() {
			if n.Status().Leading {
				id = other
			}
		}
	}
	n := g.nodes()[id]
	if n == nil {
		return ""
	}
	span := time.Duration(20+rng.IntN(300)) * time.Millisecond
	what := ""
	switch rng.IntN(9) {
	case 0, 1:
		what = "cut"
		g.isolate(id, true)
	case 2:
		what = "deaf"
		g.mu.Lock()
		g.deaf[id] = true
		g.mu.Unlock()
	case 3:
		what = "loss"
		g.mu.Lock()
		g.loss = 10 + rng.IntN(40)
		g.mu.Unlock()
	case 4:
		what = "pause"
		g.pause(n, span)
	case 5:
		what = "power"
		g.powerOff(id, rng)
	case 6:
		what = "kill"
		g.stop(id, false)
	case 7:
		what = "stop"
		g.stop(id, true)
	case 8:
		what = "compact"
		if err := n.Compact(rng.Uint64N(20)); err != nil && !errors.Is(err, ErrStopped) {
			t.Errorf("compact: %v", err)
		}
	}
	select {
	case <-time.After(span):
	case <-t.Context().Done():
	}
	g.heal()
	if g.nodes()[id] == nil {
		g.start(id, false)
	}
	return what
}

// TestHistoryIsLinearizableInTrouble lets writers and readers work while masters
// are cut off, paused, killed and lose their power.
func TestHistoryIsLinearizableInTrouble(t *testing.T) {
	const size, troubles = 3, 30
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			g := newGroup(t)
			g.logs = map[dfs.NodeID]*disk.Mem{}
			bootstrappedOn(g, t, size)
			rng := rand.New(rand.NewPCG(seed, 8))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var wg sync.WaitGroup
			var registers []*register
			for i := range 3 {
				r := &register{name: fmt.Sprint("user.r", i)}
				registers = append(registers, r)
				session := g.retry(meta.Command{Op: &meta.OpenSession{Nonce: uint64(100 + i)}})
				wg.Go(func() { r.write(ctx, t, g, session.Session, session.Inodes) })
				wg.Go(func() { r.check(ctx, t, g) })
			}
			did := map[string]int{}
			for range troubles {
				did[g.trouble(t, rng, size)]++
				if t.Failed() {
					break
				}
			}
			// It recovers: each register is written and read once more.
			for _, r := range registers {
				acked, reads := r.acked.Load(), r.reads.Load()
				eventually(t, "work goes on after the trouble", func() bool {
					return t.Failed() || r.acked.Load() > acked && r.reads.Load() > reads
				})
			}
			cancel()
			wg.Wait()
			g.same()
			have := names(t, g.leader())
			for _, r := range registers {
				for _, name := range r.creates {
					if _, there := slices.BinarySearch(have, name); !there {
						t.Errorf("%s was acknowledged and is lost", name)
					}
				}
				t.Logf("%s: %d written, %d read, %d names", r.name, r.acked.Load(), r.reads.Load(), len(r.creates))
			}
			t.Logf("%v", did)
		})
	}
}
