package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc"

	"dfs"
	"dfs/client"
	"dfs/proto/adminpb"
)

var (
	historySeed = flag.Uint64("history.seed", 0, "seed of the random histories; 0: another one each time")
	historyTime = flag.Duration("history.time", 2*time.Second, "how long each random history is")
)

// Bounds of a history.
const (
	historyCalls = 1000             // by one goroutine
	historyLeast = 150              // about names, and of registers: fewer would say nothing
	historyCheck = 20 * time.Second // for the search of one order; it takes milliseconds when there is one
	historyShown = 12               // calls of each part of a history that is printed
)

// The names of a history: folders with names in each.
const (
	folders = 2
	names   = 3
	slots   = folders * names
)

// nameCall is a call about names. A slot is a name in a folder.
type nameCall struct {
	id       int64 // of this call, for what it may have made
	kind     string
	from, to int // slots; of a listing, the folder
	flags    uint32
}

// nameAnswer is what a nameCall answered.
type nameAnswer struct {
	ino     dfs.Ino
	list    [names]dfs.Ino
	verdict dfs.Errno
	unknown bool // no answer came: it was done, or will be, or not
}

// nameState is where each slot leads: an inode, 0 for nothing, or -id for the unknown
// inode which the call with that id made.
type nameState [slots]int64

func slotName(slot int) string { return fmt.Sprintf("d%d/n%d", slot/names, slot%names) }

func (c nameCall) String() string {
	switch c.kind {
	case "list":
		return fmt.Sprintf("list d%d", c.from)
	case "rename":
		return fmt.Sprintf("rename %s %s flags=%d", slotName(c.from), slotName(c.to), c.flags)
	}
	return c.kind + " " + slotName(c.from)
}

func (a nameAnswer) String() string {
	switch {
	case a.unknown:
		return "no answer"
	case a.verdict != dfs.OK:
		return a.verdict.Error()
	case a.ino != 0:
		return fmt.Sprint("inode ", uint64(a.ino))
	case a.list != [names]dfs.Ino{}:
		return fmt.Sprint(a.list)
	}
	return "ok"
}

// namesModel is two folders, each call atomic. known are the inodes whose makers got an
// answer: they are not what a call without an answer made.
func namesModel(known map[dfs.Ino]bool) porcupine.Model {
	// leads reports whether a slot may lead to ino, and remembers what is learned.
	leads := func(s *nameState, slot int, ino dfs.Ino) bool {
		if s[slot] < 0 && ino != 0 && !known[ino] {
			s[slot] = int64(ino)
		}
		return s[slot] == int64(ino)
	}
	step := func(s nameState, c nameCall, a nameAnswer) (bool, nameState) {
		there := s[c.from] != 0
		switch c.kind {
		case "create":
			switch {
			case a.unknown:
				if !there {
					s[c.from] = -c.id
				}
			case a.verdict == dfs.EEXIST:
				return there, s
			default:
				s[c.from] = int64(a.ino)
				return a.verdict == dfs.OK && !there, s
			}
			return true, s
		case "unlink":
			if a.verdict == dfs.ENOENT {
				return !there, s
			}
			s[c.from] = 0
			return a.unknown || a.verdict == dfs.OK && there, s
		case "rename":
			taken := s[c.to] != 0
			exchange, keep := c.flags == dfs.RenameExchange, c.flags == dfs.RenameNoReplace
			switch {
			case a.verdict == dfs.ENOENT:
				return !there || exchange && !taken, s
			case a.verdict == dfs.EEXIST:
				return keep && taken, s
			}
			can := there && (!exchange || taken) && (!keep || !taken)
			switch {
			case !can || c.from == c.to:
			case exchange:
				s[c.from], s[c.to] = s[c.to], s[c.from]
			default:
				s[c.from], s[c.to] = 0, s[c.from]
			}
			return a.unknown || a.verdict == dfs.OK && can, s
		case "lookup":
			if a.verdict == dfs.ENOENT {
				return !there, s
			}
			return a.verdict == dfs.OK && leads(&s, c.from, a.ino), s
		case "list":
			for i, ino := range a.list {
				if !leads(&s, c.from*names+i, ino) {
					return false, s
				}
			}
			return a.verdict == dfs.OK, s
		}
		return false, s
	}
	return porcupine.Model{
		Init: func() any { return nameState{} },
		Step: func(state, in, out any) (bool, any) {
			return step(state.(nameState), in.(nameCall), out.(nameAnswer))
		},
	}
}

// knownInodes are those whose makers got an answer.
func knownInodes(history []porcupine.Operation) map[dfs.Ino]bool {
	known := map[dfs.Ino]bool{}
	for _, o := range history {
		if a := o.Output.(nameAnswer); o.Input.(nameCall).kind == "create" && a.ino != 0 {
			known[a.ino] = true
		}
	}
	return known
}

// regCall reads or writes a register: eight bytes of a file, its owner and mode, or an
// extended attribute.
type regCall struct {
	key   string
	write bool
	value uint64 // to write
}

// regAnswer is what a regCall answered.
type regAnswer struct {
	value   uint64 // that was read
	unknown bool   // of a write: no answer came
}

func (c regCall) String() string {
	if c.write {
		return fmt.Sprintf("write %s = %d", c.key, c.value)
	}
	return "read " + c.key
}

func (a regAnswer) String() string {
	if a.unknown {
		return "no answer"
	}
	return fmt.Sprint(a.value)
}

var regModel = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, in, out any) (bool, any) {
		c := in.(regCall)
		if c.write {
			return true, c.value
		}
		return out.(regAnswer).value == state.(uint64), state
	},
}

// judge looks for an order of the calls, each taking effect between its beginning and
// its end, in which all answers are right. It answers what is wrong.
func judge(model porcupine.Model, history []porcupine.Operation, bound time.Duration) string {
	result, info := porcupine.CheckOperationsVerbose(model, history, bound)
	switch result {
	case porcupine.Ok:
		return ""
	case porcupine.Unknown:
		return fmt.Sprintf("whether %d calls have an order is not decided after %v", len(history), bound)
	}
	var most []int
	for _, part := range info.PartialLinearizations() {
		for _, order := range part {
			if len(order) > len(most) {
				most = order
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "no order of %d calls explains their answers; one of %d of them ends with\n", len(history), len(most))
	done := make([]bool, len(history))
	state := model.Init()
	for i, at := range most {
		done[at] = true
		_, state = model.Step(state, history[at].Input, history[at].Output)
		if i >= len(most)-historyShown {
			show(&b, history[at])
		}
	}
	fmt.Fprintf(&b, "now it is %v, and what follows cannot all be right:\n", state)
	var rest []porcupine.Operation
	for i, o := range history {
		if !done[i] {
			rest = append(rest, o)
		}
	}
	slices.SortFunc(rest, func(x, y porcupine.Operation) int { return int(x.Call - y.Call) })
	for _, o := range rest[:min(len(rest), historyShown)] {
		show(&b, o)
	}
	return b.String()
}

func show(b *strings.Builder, o porcupine.Operation) {
	end := "never"
	if o.Return != math.MaxInt64 {
		end = time.Duration(o.Return).String()
	}
	fmt.Fprintf(b, "  client %d, goroutine %d, from %v to %s: %v: %v\n", o.ClientId/2, o.ClientId%2, time.Duration(o.Call), end, o.Input, o.Output)
}

// byKey parts a history of registers.
func byKey(history []porcupine.Operation) map[string][]porcupine.Operation {
	parts := map[string][]porcupine.Operation{}
	for _, o := range history {
		key := o.Input.(regCall).key
		parts[key] = append(parts[key], o)
	}
	return parts
}

// past is a history while it is made.
type past struct {
	t     *testing.T
	c     *Cluster
	calls int           // by one program, at most
	bound time.Duration // of one call
	began time.Time
	stop  atomic.Bool
	next  atomic.Int64 // ids of calls, and values
	last  atomic.Int64 // stamp

	folders [folders]dfs.Ino
	home    dfs.Ino // of the files
	files   []dfs.Ino

	mu    sync.Mutex
	names []porcupine.Operation // +checklocks:mu
	regs  []porcupine.Operation // +checklocks:mu
}

// The files of a history: each has registers at these places in it.
const historyFiles = 4

var places = [...]int64{0, 5000}

// program is one goroutine of one client.
type program struct {
	*past
	rng   *rand.Rand
	fs    *client.FS
	id    int
	sync  bool                       // a change is not done before it lasts
	looks bool                       // it changes nothing
	idle  time.Duration              // the longest pauses; 0: none but short ones
	files [historyFiles]*client.File // open all the time
}

// stamp is the time since the history began, but never the same twice: virtual time
// stands still while something is done.
func (h *past) stamp() int64 {
	for {
		last := h.last.Load()
		now := max(int64(time.Since(h.began)), last+1)
		if h.last.CompareAndSwap(last, now) {
			return now
		}
	}
}

// timed makes one call and tells when it began and ended. A failure is no answer: what
// it wanted may happen at any time.
func (p *program) timed(fn func(ctx context.Context) error) (o porcupine.Operation, verdict dfs.Errno, unknown bool) {
	ctx, cancel := context.WithTimeout(p.t.Context(), p.bound)
	defer cancel()
	o.ClientId, o.Call = p.id, p.stamp()
	err := fn(ctx)
	o.Return = p.stamp()
	if err != nil && !errors.As(err, &verdict) {
		o.Return, unknown = math.MaxInt64, true
	}
	if verdict == dfs.EIO || verdict == dfs.ETIMEDOUT || verdict == dfs.EINTR {
		o.Return, unknown, verdict = math.MaxInt64, true, dfs.OK
	}
	return o, verdict, unknown
}

// lasting is a change that is done when it lasts, if the program wants that. What does
// not last then was done, or will be, or not.
func (p *program) lasting(fn func(ctx context.Context) error, asks bool) func(ctx context.Context) error {
	if !p.sync || asks {
		return fn
	}
	return func(ctx context.Context) error {
		if err := fn(ctx); err != nil {
			return err
		}
		if err := p.fs.Sync(ctx); err != nil {
			return fmt.Errorf("sync: %w", dfs.EIO)
		}
		return nil
	}
}

// name makes one call about names.
func (p *program) name() {
	c := nameCall{id: p.next.Add(1), from: p.rng.IntN(slots), to: p.rng.IntN(slots)}
	dir, name := p.folders[c.from/names], fmt.Sprint("n", c.from%names)
	var a nameAnswer
	var fn func(ctx context.Context) error
	k := p.rng.IntN(100)
	if p.looks {
		k = 60 + k*40/100
	}
	switch {
	case k < 25:
		c.kind = "create"
		fn = func(ctx context.Context) error {
			f, attr, err := p.fs.Create(ctx, root, dir, name, 0o644, oRDWR|oCreate|oExcl)
			if err == nil {
				a.ino = attr.Ino
				f.Release()
			}
			return err
		}
	case k < 40:
		c.kind = "unlink"
		fn = func(ctx context.Context) error { return p.fs.Unlink(ctx, root, dir, name) }
	case k < 60:
		c.kind = "rename"
		c.flags = []uint32{0, 0, dfs.RenameNoReplace, dfs.RenameExchange}[p.rng.IntN(4)]
		fn = func(ctx context.Context) error {
			return p.fs.Rename(ctx, root, dir, name, p.folders[c.to/names], fmt.Sprint("n", c.to%names), c.flags)
		}
	case k < 90:
		c.kind = "lookup"
		fn = func(ctx context.Context) error {
			attr, err := p.fs.Lookup(ctx, root, dir, name)
			a.ino = attr.Ino
			return err
		}
	default:
		c.kind = "list"
		c.from %= folders
		fn = func(ctx context.Context) error {
			l, err := p.fs.ReadDir(ctx, root, p.folders[c.from], 0, 100, p.rng.IntN(2) == 0)
			for _, e := range l.Entries {
				if i, err := strconv.Atoi(e.Name[1:]); err == nil && i < names {
					a.list[i] = e.Ino
				}
			}
			if err == nil && !l.End {
				err = errors.New("the listing has no end")
			}
			return err
		}
	}
	asks := c.kind == "lookup" || c.kind == "list"
	o, verdict, unknown := p.timed(p.lasting(fn, asks))
	if unknown && asks {
		return
	}
	if unknown {
		a.ino = 0
	}
	a.verdict, a.unknown = verdict, unknown
	o.Input, o.Output = c, a
	p.mu.Lock()
	defer p.mu.Unlock()
	p.past.names = append(p.past.names, o)
}

// register reads or writes one register. How to do that is chosen at random.
func (p *program) register() {
	n := p.rng.IntN(historyFiles)
	c := regCall{write: p.rng.IntN(3) == 0 && !p.looks}
	if c.write {
		c.value = uint64(p.next.Add(1))
	}
	var a regAnswer
	var fn func(ctx context.Context) error
	switch p.rng.IntN(5) {
	case 0:
		c.key = fmt.Sprint("owner of f", n)
		fn = func(ctx context.Context) (err error) {
			a.value, err = p.owner(ctx, n, c)
			return err
		}
	case 1:
		c.key = fmt.Sprint("xattr of f", n)
		fn = func(ctx context.Context) (err error) {
			a.value, err = p.xattr(ctx, n, c)
			return err
		}
	default:
		at := places[p.rng.IntN(len(places))]
		c.key = fmt.Sprintf("f%d at %d", n, at)
		fn = func(ctx context.Context) (err error) {
			a.value, err = p.bytes(ctx, n, at, c)
			return err
		}
	}
	o, verdict, unknown := p.timed(p.lasting(fn, !c.write))
	if verdict != dfs.OK {
		p.t.Errorf("%v: %v", c, error(verdict))
		return
	}
	if unknown && !c.write {
		return
	}
	a.unknown = unknown
	o.Input, o.Output = c, a
	p.mu.Lock()
	defer p.mu.Unlock()
	p.regs = append(p.regs, o)
}

// owner keeps the value in owner, group and mode, which change together.
func (p *program) owner(ctx context.Context, n int, c regCall) (uint64, error) {
	ino := p.past.files[n]
	if c.write {
		id, mode := uint32(c.value), uint32(c.value)&0o777
		_, err := p.fs.SetAttr(ctx, root, ino, client.SetAttr{Mode: &mode, UID: &id, GID: &id})
		return 0, err
	}
	var attr dfs.Attr
	var err error
	switch p.rng.IntN(4) {
	case 0:
		attr, err = p.fs.Lookup(ctx, root, p.home, fmt.Sprint("f", n))
	case 1:
		l, lerr := p.fs.ReadDir(ctx, root, p.home, 0, 100, true)
		for _, e := range l.Entries {
			if e.Ino == ino {
				attr = e.Attr
			}
		}
		err = lerr
	case 2:
		attr, err = p.files[n].Attr(ctx)
	default:
		attr, err = p.fs.GetAttr(ctx, ino)
	}
	if err == nil && (attr.Ino != ino || attr.UID != attr.GID || attr.Mode&0o7777 != attr.UID&0o777) {
		p.t.Errorf("%v: half of a change: %+v", c, attr)
	}
	return uint64(attr.UID), err
}

func (p *program) xattr(ctx context.Context, n int, c regCall) (uint64, error) {
	ino := p.past.files[n]
	if c.write {
		return 0, p.fs.SetXattr(ctx, root, ino, "user.r", strconv.AppendUint(nil, c.value, 10), 0)
	}
	b, err := p.fs.GetXattr(ctx, root, ino, "user.r")
	if errors.Is(err, dfs.ENODATA) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil {
		p.t.Errorf("%v: %q", c, b)
	}
	return v, nil
}

// bytes writes and closes, or reads, in a file that is open all the time, or is opened
// for this.
func (p *program) bytes(ctx context.Context, n int, at int64, c regCall) (uint64, error) {
	f := p.files[n]
	if p.rng.IntN(3) == 0 {
		var err error
		if f, err = p.fs.Open(ctx, root, p.past.files[n], oRDWR); err != nil {
			return 0, err
		}
		defer f.Release()
	}
	var b [8]byte
	if c.write {
		binary.BigEndian.PutUint64(b[:], c.value)
		if k, err := f.Write(ctx, b[:], at); err != nil || k != len(b) {
			return 0, errors.Join(err, fmt.Errorf("wrote %d bytes", k))
		}
		return 0, f.Flush(ctx)
	}
	k, err := f.Read(ctx, b[:], at)
	if err == nil && k != 0 && k != len(b) {
		p.t.Errorf("%v: %d bytes", c, k)
	}
	return binary.BigEndian.Uint64(b[:]), err
}

// run makes calls until it is over, in bursts and with pauses: who is quick holds
// leases, who comes after a pause wants them back.
func (p *program) run(over func() bool) {
	for i, ino := range p.past.files {
		f, err := p.fs.Open(p.t.Context(), root, ino, oRDWR)
		if err != nil {
			p.t.Errorf("open: %v", err)
			return
		}
		defer f.Release()
		p.files[i] = f
	}
	for i := 0; i < p.calls && !over() && !p.t.Failed(); i++ {
		if p.rng.IntN(2) == 0 {
			p.name()
		} else {
			p.register()
		}
		if p.rng.IntN(4) == 0 {
			time.Sleep(time.Duration(p.rng.IntN(20_000)) * time.Microsecond)
		}
		if p.idle > 0 && p.rng.IntN(10) == 0 {
			time.Sleep(rand.N(p.idle))
		}
	}
}

// historyVariant is one kind of trouble.
type historyVariant struct {
	name    string
	leaves  bool // the last client is closed in the middle, and another one comes
	trouble func(h *past, w *Wire)
}

var historyVariants = []historyVariant{
	{name: "quiet"},
	{name: "client-leaves", leaves: true},
	{name: "leader-transferred", trouble: func(h *past, _ *Wire) {
		for range 2 {
			h.pause(3)
			err := h.c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
				_, err := adminpb.NewAdminClient(conn).TransferLeader(ctx, &adminpb.TransferLeaderRequest{})
				return err
			})
			if err != nil {
				h.t.Errorf("transfer: %v", err)
			}
		}
	}},
	{name: "leader-killed", trouble: func(h *past, _ *Wire) {
		h.pause(3)
		leader := h.c.Leader()
		h.c.Kill(leader)
		h.pause(4)
		h.c.Restart(leader)
	}},
	{name: "client-cut-off", trouble: func(h *past, w *Wire) {
		for i := range 2 {
			h.pause(5)
			w.cut(i == 1)
			h.pause(5)
			w.mend()
		}
	}},
}

// pause waits for a part of the history's time.
func (h *past) pause(part time.Duration) { time.Sleep(*historyTime / part) }

// enough waits until the history has had its time, some of it after the trouble, and
// says something: who waits for a new leader, or for the leases of a client that is
// silent, makes no calls.
func (h *past) enough() {
	end := h.began.Add(*historyTime)
	if after := time.Now().Add(*historyTime / 4); end.Before(after) {
		end = after
	}
	for bound := end.Add(healthyTimeout / 2); time.Now().Before(bound) && !h.t.Failed(); time.Sleep(pollInterval) {
		h.mu.Lock()
		few := len(h.names) < historyLeast || len(h.regs) < historyLeast
		h.mu.Unlock()
		if !few && time.Now().After(end) {
			break
		}
	}
	h.stop.Store(true)
}

// TestRandomHistoriesAreLinearizable lets three clients, each with two programs, work
// on a few names and files, and then looks for an order of all calls that explains
// what they answered.
func TestRandomHistoriesAreLinearizable(t *testing.T) {
	t.Parallel()
	for _, v := range historyVariants {
		t.Run(v.name, func(t *testing.T) {
			seed := *historySeed
			if seed == 0 {
				seed = rand.Uint64()
			}
			t.Logf("-history.seed=%d", seed)
			v.run(t, seed)
		})
	}
}

func (v *historyVariant) run(t *testing.T, seed uint64) {
	const clients = 3
	c := Start(t, Options{ChunkServers: 3})
	h := &past{t: t, c: c, calls: historyCalls, bound: healthyTimeout / 3}
	var wires [clients]Wire
	open := func(i int) *client.FS {
		fs, err := c.dial(&wires[i], healthyTimeout/2)
		if err != nil {
			t.Errorf("dial: %v", err)
			return nil
		}
		return fs
	}
	shut := func(fs *client.FS) {
		if err := fs.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	var all [clients]*client.FS
	for i := range all {
		if all[i] = open(i); all[i] == nil {
			return
		}
	}
	h.make(user{t, "first", all[0]})
	h.began = time.Now()
	var wg sync.WaitGroup
	for i, fs := range all {
		wg.Go(func() {
			both := func(fs *client.FS, part uint64, over func() bool) {
				var programs sync.WaitGroup
				for k := range 2 {
					id := 2*i + k
					p := &program{past: h, fs: fs, id: id, rng: rand.New(rand.NewPCG(seed, uint64(id)+part*clients*2))}
					programs.Go(func() { p.run(over) })
				}
				programs.Wait()
				shut(fs)
			}
			if v.leaves && i == clients-1 {
				both(fs, 0, func() bool { return time.Since(h.began) > *historyTime/2 })
				if fs = open(i); fs == nil {
					return
				}
				both(fs, 1, h.stop.Load)
				return
			}
			both(fs, 0, h.stop.Load)
		})
	}
	if v.trouble != nil {
		v.trouble(h, &wires[clients-1])
	}
	h.enough()
	wg.Wait()
	h.judge()
}

// make makes the folders and the files.
func (h *past) make(u user) {
	for i := range h.folders {
		h.folders[i] = u.mkdir(dfs.RootIno, fmt.Sprint("d", i))
	}
	h.home = u.mkdir(dfs.RootIno, "files")
	for i := range historyFiles {
		ino := u.create(h.home, fmt.Sprint("f", i))
		u.set(ino, client.SetAttr{Mode: new(uint32(0))})
		h.files = append(h.files, ino)
	}
	u.ok("sync", u.fs.Sync(u.t.Context()))
}

// judge wants each part of the history to have an order.
func (h *past) judge() {
	h.mu.Lock()
	defer h.mu.Unlock()
	unknown, kinds := 0, map[string]int{}
	for _, o := range h.names {
		c, a := o.Input.(nameCall), o.Output.(nameAnswer)
		if a.unknown {
			unknown++
		} else if a.verdict == dfs.OK {
			kinds[c.kind]++
		}
	}
	for _, o := range h.regs {
		if a := o.Output.(regAnswer); a.unknown {
			unknown++
		}
	}
	h.t.Logf("%d calls about names, %d of registers, %d without an answer; that succeeded: %v", len(h.names), len(h.regs), unknown, kinds)
	for _, kind := range []string{"create", "unlink", "rename", "lookup", "list"} {
		if kinds[kind] == 0 {
			h.t.Errorf("%d calls of %s succeeded: the history says nothing", kinds[kind], kind)
		}
	}
	if wrong := judge(namesModel(knownInodes(h.names)), h.names, historyCheck); wrong != "" {
		h.t.Errorf("names: %s", wrong)
	}
	for key, part := range byKey(h.regs) {
		if wrong := judge(regModel, part, historyCheck); wrong != "" {
			h.t.Errorf("%s: %s", key, wrong)
		}
	}
}

// The judge of histories must be able to condemn: each of these histories is one that
// a cache which was not told would make, and is right with one answer changed.
func TestHistoriesThatAreWrongAreCondemned(t *testing.T) {
	type op struct {
		call, end int64
		in        any
		out       any
	}
	never := int64(math.MaxInt64)
	create, look, unlink := nameCall{id: 1, kind: "create"}, nameCall{kind: "lookup"}, nameCall{kind: "unlink"}
	move := nameCall{kind: "rename", to: 4}
	there, missing := nameAnswer{ino: 7}, nameAnswer{verdict: dfs.ENOENT}
	lost := nameAnswer{unknown: true}
	write := func(v uint64) regCall { return regCall{key: "r", write: true, value: v} }
	read := regCall{key: "r"}
	for name, x := range map[string]struct {
		right bool
		ops   []op
	}{
		"absent name that is there": {false, []op{{1, 2, create, there}, {3, 4, look, missing}}},
		"absent name at that time":  {true, []op{{1, 4, create, there}, {3, 5, look, missing}}},
		"unlinked name":             {false, []op{{1, 2, create, there}, {3, 4, unlink, nameAnswer{}}, {5, 6, look, there}}},
		"name unlinked twice":       {false, []op{{1, 2, create, there}, {3, 5, unlink, nameAnswer{}}, {4, 6, unlink, nameAnswer{}}}},
		"name made twice":           {false, []op{{1, 3, create, there}, {2, 4, create, nameAnswer{ino: 8}}}},
		"old inode":                 {false, []op{{1, 2, create, there}, {3, 4, unlink, nameAnswer{}}, {5, 6, create, nameAnswer{ino: 8}}, {7, 8, look, there}}},
		"half of a rename": {false, []op{
			{1, 2, create, there}, {3, 9, move, nameAnswer{}},
			{4, 5, nameCall{kind: "list", from: 1}, nameAnswer{list: [names]dfs.Ino{0, 7}}}, {6, 7, look, there},
		}},
		"whole rename": {true, []op{
			{1, 2, create, there}, {3, 9, move, nameAnswer{}},
			{4, 5, look, there}, {6, 7, nameCall{kind: "list", from: 1}, nameAnswer{list: [names]dfs.Ino{0, 7}}},
		}},
		"listing without a name": {false, []op{{1, 2, create, there}, {3, 4, nameCall{kind: "list"}, nameAnswer{}}}},
		"verdict of no sense":    {false, []op{{1, 2, look, nameAnswer{verdict: dfs.ESTALE}}}},
		"create without answer, done later": {true, []op{
			{1, never, create, lost}, {2, 3, look, missing}, {4, 5, look, there}, {6, 7, look, there},
		}},
		"create without answer, never done": {true, []op{{1, never, create, lost}, {2, 3, look, missing}}},
		"create without answer, undone": {false, []op{
			{1, never, create, lost}, {2, 3, look, there}, {4, 5, look, missing},
		}},
		"unlink without answer": {true, []op{
			{1, 2, create, there}, {3, never, unlink, lost}, {4, 5, look, there}, {6, 7, look, missing},
		}},
		"stale read":       {false, []op{{1, 2, write(5), regAnswer{}}, {3, 4, read, regAnswer{}}}},
		"read at the time": {true, []op{{1, 4, write(5), regAnswer{}}, {3, 5, read, regAnswer{}}}},
		"read goes back": {false, []op{
			{1, 9, write(5), regAnswer{}}, {2, 3, read, regAnswer{value: 5}}, {4, 5, read, regAnswer{}},
		}},
		"lost write": {false, []op{
			{1, 2, write(5), regAnswer{}}, {3, 4, write(6), regAnswer{}}, {5, 6, read, regAnswer{value: 5}},
		}},
		"bytes that nobody wrote": {false, []op{{1, 2, write(5), regAnswer{}}, {3, 4, read, regAnswer{value: 4}}}},
		"write without answer": {true, []op{
			{1, never, write(5), regAnswer{unknown: true}}, {2, 3, read, regAnswer{}}, {4, 5, read, regAnswer{value: 5}},
		}},
		"write without answer, undone": {false, []op{
			{1, never, write(5), regAnswer{unknown: true}}, {2, 3, read, regAnswer{value: 5}}, {4, 5, read, regAnswer{}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			model := regModel
			var history []porcupine.Operation
			for i, o := range x.ops {
				history = append(history, porcupine.Operation{ClientId: i, Input: o.in, Call: o.call, Output: o.out, Return: o.end})
			}
			if _, is := x.ops[0].in.(nameCall); is {
				model = namesModel(knownInodes(history))
			}
			wrong := judge(model, history, historyCheck)
			if x.right != (wrong == "") {
				t.Errorf("it is right: %v; the judge says %q", x.right, wrong)
			}
			if wrong != "" && testing.Verbose() {
				t.Log(wrong)
			}
		})
	}
}
