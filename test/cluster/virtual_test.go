package cluster

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc"

	"dfs/internal/virtualtime"
	"dfs/proto/adminpb"
)

var (
	virtualSeeds = flag.Int("history.seeds", 6, "how many random histories in virtual time; seeds follow each other")
	historyLog   = flag.Int("history.log", logMax, "how many bytes of the log of a history in virtual time that went wrong are shown")
)

// Bounds of a history in virtual time.
const (
	virtualClients = 3
	virtualCalls   = 150 // by one program
	// A client that is not doomed may be silent for as long as leases, which are good for
	// 5 s, leave to the heartbeats.
	virtualSilence = 1500 * time.Millisecond
)

// TestRandomHistoriesInVirtualTime runs whole clusters in memory, where a session
// expires in no time: clients work on a few names and files, and meanwhile links are
// cut or silent for a while, leaders killed, deposed and parted from the others. What
// the seed gives is who does what and what goes wrong when; how goroutines take turns,
// it does not.
func TestRandomHistoriesInVirtualTime(t *testing.T) {
	first := *historySeed
	if first == 0 {
		first = rand.Uint64N(1 << 50)
	}
	for i := range uint64(*virtualSeeds) {
		t.Run(fmt.Sprintf("history.seed=%d", first+i), func(t *testing.T) {
			t.Parallel()
			v := &virtual{seed: first + i, rng: rand.New(rand.NewPCG(first+i, 99))}
			defer func() { // also when what is in the bubble has failed: then nothing comes after it
				if t.Failed() || testing.Verbose() {
					b := v.c.said.Bytes()
					t.Logf("log:\n%s", b[max(0, len(b)-*historyLog):])
					if *historyLog > logMax {
						t.Logf("calls:\n%s", v.story())
					}
					t.Logf("sessions of %v; clients are %v; %s", v.ttl, v.roles, strings.Join(v.log, "; "))
				}
			}()
			virtualtime.Test(t, v.run)
			v.t = t
			v.judge() // outside of the bubble: it takes time
		})
	}
}

// virtual is a history in virtual time.
type virtual struct {
	past
	seed uint64
	rng  *rand.Rand
	ttl  time.Duration

	wires [virtualClients]Wire
	roles [virtualClients]role
	log   []string // what went wrong, and when
}

// role is what a client does.
type role int

const (
	faithful role = iota // never silent for so long that it loses its session
	// The others may. What a client said it had done and had not synced is lost then, so
	// one syncs all, and has one program: two would see each other's changes before they
	// last. The other only looks.
	syncing
	looking
)

func (r role) String() string { return [...]string{"faithful", "syncing", "looking"}[r] }

func (v *virtual) run(t *testing.T) {
	v.ttl = []time.Duration{10, 20, 30}[v.rng.IntN(3)] * time.Second
	lag := []time.Duration{0, 200 * time.Microsecond, 5 * time.Millisecond}[v.rng.IntN(3)]
	o := Options{ChunkServers: 3, Mem: true, SessionTTL: v.ttl, Wires: map[string]*Wire{}}
	for i := range 3 {
		o.Wires[fmt.Sprintf("master-%d", i+1)] = &Wire{lag: lag}
		o.Wires[fmt.Sprintf("chunk-%d", i+1)] = &Wire{lag: lag}
	}
	v.c = Start(t, o)
	v.t, v.calls, v.bound = t, virtualCalls, 3*v.ttl+healthyTimeout
	for i := range v.wires {
		v.wires[i].name, v.wires[i].lag = fmt.Sprintf("client-%d", i), lag
		if i > 0 {
			v.roles[i] = []role{faithful, faithful, syncing, looking}[v.rng.IntN(4)]
		}
	}
	v.make(user{t, "first", v.c.Client()})
	v.began = time.Now()
	var over atomic.Bool
	var wg sync.WaitGroup
	for i := range v.wires {
		leaves := v.rng.IntN(3) == 0
		wg.Go(func() {
			v.client(i, 0, leaves)
			if leaves {
				v.client(i, 1, false)
			}
		})
	}
	go func() {
		wg.Wait()
		over.Store(true)
	}()
	for !over.Load() {
		time.Sleep(time.Duration(v.rng.Int64N(int64(v.ttl / 3))))
		v.trouble()
	}
	v.stop.Store(true)
}

// story is all calls.
func (v *virtual) story() string {
	var b strings.Builder
	all := append(slices.Clone(v.past.names), v.regs...)
	slices.SortFunc(all, func(x, y porcupine.Operation) int { return int(x.Call - y.Call) })
	for _, o := range all {
		show(&b, o)
	}
	return b.String()
}

// client runs the programs of one client.
func (v *virtual) client(i, part int, half bool) {
	fs, err := v.c.dial(&v.wires[i], v.bound)
	if err != nil {
		v.t.Errorf("dial: %v", err)
		return
	}
	both := 2
	if v.roles[i] == syncing {
		both = 1
	}
	var wg sync.WaitGroup
	for k := range both {
		p := &program{
			past: &v.past, fs: fs, id: 2*i + k, sync: v.roles[i] == syncing, looks: v.roles[i] == looking, idle: v.ttl / 3,
			rng: rand.New(rand.NewPCG(v.seed, uint64(2*i+k+part*virtualClients*2))),
		}
		calls := 0
		wg.Go(func() {
			p.run(func() bool {
				calls++
				return half && calls > virtualCalls/2
			})
		})
	}
	wg.Wait()
	if err := fs.Close(); err != nil && v.roles[i] == faithful {
		v.t.Errorf("close: %v", err)
	}
}

// trouble makes something go wrong, and waits until it is mended.
func (v *virtual) trouble() {
	i := v.rng.IntN(virtualClients)
	w := &v.wires[i]
	short := time.Duration(v.rng.Int64N(int64(time.Second)))
	began := time.Since(v.began)
	what := ""
	kind := v.rng.IntN(7)
	if v.roles[i] != faithful && v.rng.IntN(3) == 0 {
		kind = 1
	}
	switch kind {
	case 0:
		what = fmt.Sprintf("connections of client %d broken", i)
		w.cut(false)
		time.Sleep(short)
		w.mend()
	case 1:
		// Requests, answers and recalls come late.
		most := virtualSilence
		if v.roles[i] != faithful {
			most = 2 * v.ttl
		}
		what = fmt.Sprintf("client %d silent", i)
		w.cut(true)
		time.Sleep(time.Duration(v.rng.Int64N(int64(most))))
		w.mend()
	case 2:
		// Their senders do not know whether they came.
		what = fmt.Sprintf("client %d silent, then broken", i)
		w.cut(true)
		time.Sleep(short)
		w.cut(false)
		w.mend()
	case 3:
		leader := v.c.Leader()
		what = leader + " killed"
		v.c.Kill(leader)
		time.Sleep(short * 3)
		v.c.Restart(leader)
	case 4:
		what = "leader changed"
		err := v.c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := adminpb.NewAdminClient(conn).TransferLeader(ctx, &adminpb.TransferLeaderRequest{})
			return err
		})
		if err != nil {
			v.t.Errorf("transfer: %v", err)
		}
	case 5:
		leader := v.c.Leader()
		what = leader + " parted"
		v.c.part(leader, 5*short)
	case 6:
		name := fmt.Sprintf("chunk-%d", 1+v.rng.IntN(3))
		what = name + " cut off"
		w := v.c.o.Wires[name]
		w.cut(v.rng.IntN(2) == 0)
		time.Sleep(short)
		w.mend()
	}
	v.log = append(v.log, fmt.Sprintf("%s from %v to %v", what, began, time.Since(v.began)))
}

// part cuts a master off from the other masters, not from clients.
func (c *Cluster) part(name string, d time.Duration) {
	m, _ := c.find(name)
	for _, other := range c.masters {
		if other != m {
			c.network.Cut(m.name, other.addr)
			c.network.Cut(other.name, m.addr)
		}
	}
	time.Sleep(d)
	for _, other := range c.masters {
		if other != m {
			c.network.Heal(m.name, other.addr)
			c.network.Heal(other.name, m.addr)
		}
	}
}
