package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"dfs/internal/disk"
)

// fault is one thing that goes wrong for a while.
type fault struct {
	at, lasts time.Duration // since the programs began
	kind      string
	target    string // a daemon, a client, "leader" or "all"
	seed      uint64
}

func (f fault) String() string {
	return fmt.Sprintf("%v %s %s for %v", f.at.Round(time.Millisecond), f.kind, f.target, f.lasts.Round(time.Millisecond))
}

// kind is a kind of faults.
type kind struct {
	kind  string
	often int
	on    string // master, chunk, client, leader, all, net
}

// kinds are all, and how often each comes.
var kinds = []kind{
	{"kill", 3, "leader"}, {"kill", 2, "master"}, {"kill", 4, "chunk"},
	{"power", 2, "master"}, {"power", 3, "chunk"}, {"power", 2, "all"},
	{"part", 3, "leader"}, {"part", 2, "master"}, {"part", 2, "chunk"},
	{"deaf", 2, "leader"}, {"mute", 2, "leader"}, {"deaf", 1, "chunk"}, {"mute", 1, "chunk"},
	{"flap", 3, "leader"},
	{"cut", 3, "client"}, {"mute", 1, "client"}, {"deaf", 1, "client"}, {"die", 2, "client"},
	{"weather", 2, "net"},
	{"full", 1, "chunk"}, {"slow", 1, "chunk"}, {"hung", 1, "chunk"}, {"flip", 2, "chunk"},
}

// plan draws a schedule.
func (r *run) plan(rng *rand.Rand) (all []fault) {
	kinds := slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return len(r.only) > 0 && !slices.Contains(r.only, k.kind) })
	sum := 0
	for _, k := range kinds {
		sum += k.often
	}
	at := time.Duration(rng.Int64N(int64(3 * time.Second)))
	for at < r.length {
		n := rng.IntN(sum)
		i := 0
		for ; n >= kinds[i].often; i++ {
			n -= kinds[i].often
		}
		f := fault{at: at, kind: kinds[i].kind, seed: rng.Uint64()}
		f.lasts = []time.Duration{500 * time.Millisecond, 3 * time.Second, 10 * time.Second}[rng.IntN(3)]
		f.lasts = f.lasts/2 + time.Duration(rng.Int64N(int64(f.lasts)))
		switch kinds[i].on {
		case "leader", "all", "net":
			f.target = kinds[i].on
		case "client":
			f.target = fmt.Sprint("client-", rng.IntN(len(r.writers)))
			if rng.IntN(3) == 0 {
				f.lasts += r.cluster.ttl
			}
		case "master":
			f.target = r.cluster.masters[rng.IntN(len(r.cluster.masters))].name
		case "chunk":
			f.target = r.cluster.chunks[rng.IntN(len(r.cluster.chunks))].name
			if f.kind == "flip" { // always the same server: no chunk may lose all that it has
				f.target = r.cluster.chunks[0].name
			}
		}
		all = append(all, f)
		// Some overlap.
		at += time.Duration(rng.Int64N(int64(r.length / 6)))
		if rng.IntN(2) == 0 {
			at += f.lasts
		}
	}
	return all
}

func describe(all []fault) string {
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, "  %v\n", f)
	}
	return b.String()
}

// bring makes a fault happen, and undoes it. It is called by one goroutine for each.
func (r *run) bring(f fault) {
	rng := rand.New(rand.NewPCG(f.seed, 5))
	c := r.cluster
	r.logger.Info("FAULT begins", "fault", f.String())
	defer func() { r.logger.Info("FAULT ends", "fault", f.String()) }()
	switch f.target {
	case "net":
		c.net.weather(time.Duration(rng.Int64N(int64(30*time.Millisecond))), rng.IntN(100))
		time.Sleep(f.lasts)
		c.net.weather(r.lag, 0)
		return
	case "all":
		r.blackout(rng, f.lasts)
		return
	}
	if strings.HasPrefix(f.target, "client") {
		r.clientFault(f)
		return
	}
	r.mu.Lock()
	d := c.leader()
	if f.target != "leader" {
		d = c.daemon(f.target)
	}
	r.mu.Unlock()
	if d == nil {
		return // nobody leads now
	}
	others := append(c.hosts(c.daemons()), r.clientHosts()...)
	if f.kind == "part" && rng.IntN(2) == 0 || f.kind == "flap" && rng.IntN(3) > 0 {
		others = c.hosts(c.masters) // its clients still see it
	}
	switch f.kind {
	case "kill", "power":
		r.mu.Lock()
		if !d.runs() {
			r.mu.Unlock()
			return
		}
		c.stop(rng, f.kind == "power", d)
		r.mu.Unlock()
		time.Sleep(f.lasts)
		r.mu.Lock()
		if !d.runs() {
			c.start(d)
		}
		r.mu.Unlock()
	case "part", "deaf", "mute":
		c.part(d.name, others, f.kind != "mute", f.kind != "deaf", true)
		time.Sleep(f.lasts)
		c.part(d.name, others, true, true, false)
	case "flap":
		for range 4 + rng.IntN(10) {
			c.part(d.name, others, true, true, true)
			time.Sleep(200*time.Millisecond + time.Duration(rng.Int64N(int64(1500*time.Millisecond))))
			c.part(d.name, others, true, true, false)
			time.Sleep(time.Duration(rng.Int64N(int64(600 * time.Millisecond))))
			if l := c.leader(); l != nil && rng.IntN(2) == 0 {
				d = l
			}
		}
	default:
		r.diskFault(d, f, rng)
	}
}

// diskFault lets a disk be full, slow or hung, or flips bits on it.
func (r *run) diskFault(d *daemon, f fault, rng *rand.Rand) {
	r.mu.Lock()
	mem := d.disk
	r.mu.Unlock()
	switch f.kind {
	case "full":
		total, free, err := mem.Usage("/")
		if err != nil {
			r.failf("usage: %v", err)
			return
		}
		mem.SetCapacity(total - free + uint64(rng.IntN(2<<20)))
		time.Sleep(f.lasts)
		r.mu.Lock()
		mem.SetCapacity(total)
		d.disk.SetCapacity(total) // it may have lost its power meanwhile
		r.mu.Unlock()
	case "slow", "hung":
		rule := disk.Rule{Op: disk.OpSync, Path: "*", Delay: time.Duration(rng.Int64N(int64(300 * time.Millisecond)))}
		if f.kind == "hung" {
			rule = disk.Rule{Path: "*", Delay: f.lasts}
		}
		remove := mem.Fail(rule)
		time.Sleep(f.lasts)
		remove()
	case "flip":
		r.flip(mem, rng)
	}
}

// flip inverts bits of chunk files.
func (r *run) flip(mem *disk.Mem, rng *rand.Rand) {
	shards, err := mem.ReadDir("/data/chunks")
	if err != nil {
		return // nothing was written yet
	}
	for _, s := range shards {
		files, err := mem.ReadDir("/data/chunks/" + s.Name)
		if err != nil {
			continue
		}
		for _, f := range files {
			name := "/data/chunks/" + s.Name + "/" + f.Name
			info, err := mem.Stat(name)
			if err == nil && info.Size > 0 && rng.IntN(3) == 0 {
				err = mem.Flip(name, rng.Int64N(info.Size), byte(1)<<rng.IntN(8))
			}
			if err != nil && !isErrno(err, syscall.ENOENT) && !isErrno(err, syscall.EINVAL) {
				r.failf("flip: %v", err)
			}
		}
	}
}

// blackout takes the power of everything, clients and all.
func (r *run) blackout(rng *rand.Rand, lasts time.Duration) {
	c := r.cluster
	r.mu.Lock()
	r.killClients(r.live()...)
	c.stop(rng, true, c.daemons()...)
	r.mu.Unlock()
	time.Sleep(lasts)
	r.mu.Lock()
	for _, i := range rng.Perm(len(c.daemons())) {
		if d := c.daemons()[i]; !d.runs() {
			c.start(d)
		}
	}
	r.mu.Unlock()
	r.revive()
}

func (r *run) clientFault(f fault) {
	var i int
	if _, err := fmt.Sscanf(f.target, "client-%d", &i); err != nil {
		panic(err) // a schedule names what is there
	}
	if f.kind == "die" {
		r.mu.Lock()
		if p := r.programs[i]; p != nil {
			r.killClients(p)
		}
		r.mu.Unlock()
		time.Sleep(f.lasts)
		r.revive()
		return
	}
	r.mu.Lock()
	host := r.hostOf(i)
	r.mu.Unlock()
	others := r.cluster.hosts(r.cluster.daemons())
	r.cluster.part(host, others, f.kind != "mute", f.kind != "deaf", true)
	time.Sleep(f.lasts)
	r.cluster.part(host, others, true, true, false)
}
