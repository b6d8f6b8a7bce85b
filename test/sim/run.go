package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dfs"
)

// run is one simulation.
type run struct {
	t      *testing.T
	seed   uint64
	length time.Duration // of the programs' work, virtual
	lag    time.Duration // of the network in good weather
	heavy  bool          // programs mostly append
	layout dfs.Layout    // of all files; 0: copies=3
	only   []string      // kinds of faults; none: all
	log    lines
	logger *slog.Logger
	faults []fault
	began  time.Time

	model   *model
	writers []*writer
	cluster *cluster
	over    atomic.Bool
	dying   sync.WaitGroup // clients that were killed

	mu       turn       // held while daemons and clients are started and ended
	programs []*program // by writer; nil: it was killed, and is not back
	lives    []int      // clients that each writer had
	ending   bool       // nobody comes back

	failMu sync.Mutex
	fails  []string // +checklocks:failMu
}

const failsMax = 8

// turn is a mutex that may be held over waiting: in a bubble, time stands still as long as
// anybody waits for a sync.Mutex.
type turn chan struct{}

func (t turn) Lock()   { t <- struct{}{} }
func (t turn) Unlock() { <-t }

// failf notes what is wrong.
func (r *run) failf(format string, args ...any) {
	r.failMu.Lock()
	defer r.failMu.Unlock()
	text := fmt.Sprintf(format, args...)
	r.logger.Error("FAILURE", "what", text)
	if len(r.fails) < failsMax {
		at := time.Duration(0)
		if !r.began.IsZero() {
			at = time.Since(r.began)
		}
		r.fails = append(r.fails, fmt.Sprintf("at %v: %s", at, text))
	}
}

func (r *run) failed() bool {
	r.failMu.Lock()
	defer r.failMu.Unlock()
	return len(r.fails) > 0
}

func (r *run) verdict() string {
	r.failMu.Lock()
	defer r.failMu.Unlock()
	return strings.Join(r.fails, "\n")
}

// fork gives an independent source of chance.
func (r *run) fork(n uint64) *rand.Rand { return rand.New(rand.NewPCG(r.seed, n)) }

func isErrno(err error, e syscall.Errno) bool { return errors.Is(err, e) }

// hostOf is the host that a writer's client is on now.
func (r *run) hostOf(i int) string { return fmt.Sprintf("client-%d-%d", i, r.lives[i]) }

func (r *run) clientHosts() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.writers {
		all = append(all, r.hostOf(i))
	}
	return all
}

// live are the programs whose clients have not been killed.
func (r *run) live() (all []*program) {
	for _, p := range r.programs {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// killClients takes the power of clients; r.mu is held.
func (r *run) killClients(all ...*program) {
	for _, p := range all {
		p.dead.Store(true)
		r.cluster.net.down(r.hostOf(p.w.id), true)
		r.model.shake(p.w)
		r.programs[p.w.id] = nil
		r.dying.Go(func() {
			<-p.done
			if p.fs != nil {
				_ = p.fs.Close() // nothing of it arrives
			}
		})
	}
}

// revive gives each writer without a client a new one, on another host.
func (r *run) revive() {
	for i := range r.writers {
		r.mu.Lock()
		gone := r.programs[i] == nil && !r.ending
		if gone {
			r.lives[i]++
			r.programs[i] = &program{run: r, w: r.writers[i], done: make(chan struct{}), over: &r.over}
		}
		p, host := r.programs[i], r.hostOf(i)
		r.mu.Unlock()
		if gone {
			r.begin(p, host)
		}
	}
}

// begin dials a program's client, and lets it work. p.done is closed when it has ended.
func (r *run) begin(p *program, host string) {
	p.rng = r.fork(uint64(100 + p.w.id + 10*r.lives[p.w.id]))
	first := true
	fs, err := r.cluster.dial(host, func() {
		if !first && !p.dead.Load() {
			r.model.shake(p.w) // a new session: the old one is lost
		}
		first = false
	})
	if err != nil {
		if !p.dead.Load() {
			r.failf("%s does not come up: %v", host, err)
		}
		close(p.done)
		return
	}
	p.fs = fs
	go p.work()
}

// do runs the simulation; in a bubble.
func (r *run) do(t *testing.T) {
	r.t = t
	rng := r.fork(0)
	r.logger = newLogger(&r.log)
	masters, chunks := 3, 3+rng.IntN(3)
	if rng.IntN(6) == 0 {
		masters = 5
	}
	r.lag = []time.Duration{0, 200 * time.Microsecond, 5 * time.Millisecond}[rng.IntN(3)]
	r.heavy = rng.IntN(3) == 0
	ttl := []time.Duration{10, 20, 30}[rng.IntN(3)] * time.Second
	r.layout = cmp.Or(r.layout, dfs.DefaultLayout)
	chunks = max(chunks, r.layout.Width())
	r.model = newModel(r)
	r.cluster = r.newCluster(masters, chunks, ttl)
	r.cluster.net.weather(r.lag, 0)
	defer r.cluster.close()
	if r.failed() || !r.cluster.until("healthy cluster", bootTimeout, r.cluster.healthy) {
		return
	}
	clients := 2 + rng.IntN(2)
	for i := range clients {
		r.writers = append(r.writers, &writer{id: i, name: fmt.Sprint("client-", i)})
	}
	r.programs, r.lives = make([]*program, clients), make([]int, clients)
	first, err := r.cluster.dial("setup", func() {})
	if err == nil {
		err = errors.Join(r.setup(first, clients), first.Close())
	}
	if err != nil {
		r.failf("setup: %v", err)
		return
	}
	r.faults = r.plan(rng)
	r.began = time.Now()
	r.revive()
	var wg sync.WaitGroup
	for _, f := range r.faults {
		wg.Go(func() {
			time.Sleep(f.at)
			if !r.failed() {
				r.bring(f)
			}
		})
	}
	time.Sleep(r.length)
	wg.Wait()
	r.end(rng)
}

// end lets the programs end, takes all power, and looks at what is left.
func (r *run) end(rng *rand.Rand) {
	c := r.cluster
	r.over.Store(true)
	c.until("end of all programs", healTimeout, func() error {
		for _, p := range r.live() {
			select {
			case <-p.done:
			default:
				return fmt.Errorf("%s works", p.w.name)
			}
		}
		return nil
	})
	if !r.failed() {
		for _, p := range r.live() {
			p.again("last sync", func() error {
				s := r.model.sync(p.w)
				era, list := r.model.logSyncing(p.w)
				err := p.fs.Sync(context.Background())
				if err != nil {
					p.lost("sync", err)
				} else {
					r.model.synced(p.w, s)
					r.model.logSynced(p.w, era, list)
				}
				return err
			})
		}
	}
	r.model.condemn()
	r.mu.Lock()
	r.ending = true
	quiet := rng.IntN(3) == 0 || r.failed()
	if quiet {
		for _, p := range r.live() {
			if p.fs != nil {
				if err := p.fs.Close(); err != nil {
					r.failf("%s: close: %v", p.w.name, err)
				}
			}
		}
	} else {
		r.killClients(r.live()...)
		c.stop(rng, true, c.daemons()...)
		time.Sleep(time.Second)
		for _, d := range c.daemons() {
			c.start(d)
		}
	}
	r.mu.Unlock()
	r.dying.Wait()
	if r.failed() {
		return
	}
	if c.until("healthy cluster after all faults", healTimeout, c.healthy) {
		r.inspect()
	}
}

// inspect reads everything by a new client, and then looks into the servers.
func (r *run) inspect() {
	reader := &program{run: r, w: &writer{id: len(r.writers), name: "reader"}, rng: r.fork(9), over: &r.over, done: make(chan struct{})}
	var err error
	if reader.fs, err = r.cluster.dial("reader", func() {}); err != nil {
		r.failf("reader: %v", err)
		return
	}
	reader.again("reading of everything", func() error { return reader.readAll(context.Background()) })
	if err := reader.fs.Close(); err != nil {
		r.failf("reader: close: %v", err)
	}
	if !r.failed() {
		r.cluster.until("whole state of all servers", healTimeout, r.cluster.whole)
	}
}
