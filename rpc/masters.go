package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/proto/metapb"
)

// Times of Masters.
const (
	tryTimeout   = 2 * time.Second        // first try of a call; doubles while the leader stays the leader
	tryMax       = 16 * time.Second       // longest try
	doubtAfter   = 600 * time.Millisecond // a try that takes longer makes us ask who leads
	helloTimeout = time.Second            // one Hello
	backoffMin   = 10 * time.Millisecond
	backoffMax   = 200 * time.Millisecond
	mastersMax   = 32 // addresses remembered
)

// ErrNoMasters is returned when there is no address to begin with.
var ErrNoMasters = errors.New("no master address given: set --masters or DFS_MASTERS")

// Masters finds the leading master and keeps finding it: it remembers who leads,
// follows NotLeader, and when the leader does not answer it asks all masters at
// once who leads now. It learns the addresses of masters that were added, and its
// pool learns the cluster from the first of them. Safe for concurrent use; all
// callers share one search.
type Masters struct {
	pool   *Pool
	seeds  []string
	logger *slog.Logger
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	leader  string                // +checklocks:mu
	term    uint64                // +checklocks:mu — of leader, 0 when not known
	addrs   []string              // +checklocks:mu — all masters known, seeds included
	gossip  []string              // +checklocks:mu — gossip addresses told by Hello
	trouble map[string]string     // +checklocks:mu — by address, what went wrong last
	changed chan struct{}         // +checklocks:mu — closed when leader changes
	running map[*running]struct{} // +checklocks:mu — tries at leader
	search  *search               // +checklocks:mu — the one under way
}

// search is one round of asking everybody; done is closed at its end.
type search struct {
	done chan struct{}
	err  error // final: no use in searching on
}

// NewMasters makes a finder over the given addresses (host:port). The pool stays
// the caller's.
func NewMasters(pool *Pool, addrs []string, logger *slog.Logger) *Masters {
	ctx, cancel := context.WithCancel(context.Background())
	m := &Masters{
		pool: pool, logger: logger, ctx: ctx, cancel: cancel,
		trouble: map[string]string{}, changed: make(chan struct{}), running: map[*running]struct{}{},
	}
	for _, a := range addrs {
		if a = strings.TrimSpace(a); a != "" && !slices.Contains(m.seeds, a) && len(m.seeds) < mastersMax {
			m.seeds = append(m.seeds, a)
		}
	}
	m.addrs = slices.Clone(m.seeds)
	return m
}

// ParseMasters splits a list of addresses at commas, spaces and newlines, as in
// --masters, DFS_MASTERS and the file DIR/masters. A missing port becomes port.
func ParseMasters(s string, port int) []string {
	var out []string
	for _, a := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(", \t\r\n;", r) }) {
		if port != 0 && !hasPort(a) {
			a = fmt.Sprintf("%s:%d", a, port)
		}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// hasPort tells "host:1" and "[::1]:1" from "host" and "[::1]"; a bare IPv6 address
// must be in brackets.
func hasPort(a string) bool { return strings.LastIndexByte(a, ':') > strings.LastIndexByte(a, ']') }

// Close ends the search and makes waiting calls fail. It does not close the pool.
func (m *Masters) Close() error {
	m.mu.Lock()
	m.cancel()
	for t := range m.running {
		t.cancel(ErrClosed)
	}
	m.mu.Unlock()
	m.wg.Wait()
	return nil
}

// Pool is the pool that Masters dials with.
func (m *Masters) Pool() *Pool { return m.pool }

// Addrs lists the addresses of all masters known now.
func (m *Masters) Addrs() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.addrs)
}

// Gossip lists the gossip addresses that masters told.
func (m *Masters) Gossip() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.gossip)
}

// Call carries out fn with a connection to the leading master, again and again,
// with ever new tries, until it returns nil, a verdict or a failure that is final
// (see Retryable), or ctx ends. The context of one try ends after 2 s or when
// another master is found to lead, so fn must give the request the same identity
// each time. When ctx ends, the error tells what was wrong with each master.
func (m *Masters) Call(ctx context.Context, fn func(ctx context.Context, conn *grpc.ClientConn) error) error {
	return m.call(ctx, tryTimeout, fn)
}

// CallStream is Call for what goes on for long, as a stream: a try has no time of
// its own, but ends when another master is found to lead. fn returning nil ends
// it.
func (m *Masters) CallStream(ctx context.Context, fn func(ctx context.Context, conn *grpc.ClientConn) error) error {
	return m.call(ctx, 0, fn)
}

// Leader waits for a leading master and returns its address.
func (m *Masters) Leader(ctx context.Context) (string, error) {
	for try := 0; ; try++ {
		addr, err := m.find(ctx)
		if err != nil || addr != "" {
			return addr, err
		}
		if err := m.pause(ctx, try); err != nil {
			return "", err
		}
	}
}

func (m *Masters) call(ctx context.Context, timeout time.Duration, fn func(context.Context, *grpc.ClientConn) error) error {
	long := timeout
	last := ""
	for try := 0; ; try++ {
		addr, err := m.find(ctx)
		if err != nil {
			return err
		}
		if addr == "" {
			if err := m.pause(ctx, try); err != nil {
				return err
			}
			continue
		}
		if addr != last {
			last, long = addr, timeout
		}
		err = m.try(ctx, attempt{addr, long}, fn)
		if err == nil || IsVerdict(err) {
			return err
		}
		if ctx.Err() != nil {
			return m.explain(ctx, err)
		}
		if m.ctx.Err() != nil {
			return ErrClosed
		}
		again, now := m.judge(addr, err)
		if !again {
			return err
		}
		if isTimeout(err) {
			long = min(2*long, tryMax)
		}
		if now {
			continue
		}
		if err := m.pause(ctx, try); err != nil {
			return err
		}
	}
}

// attempt is one try of a call.
type attempt struct {
	addr    string
	timeout time.Duration // 0: none
}

// errLeaderChanged ends a try whose master was found not to lead any more.
var errLeaderChanged = errors.New("another master leads now")

func (m *Masters) try(ctx context.Context, a attempt, fn func(context.Context, *grpc.ClientConn) error) error {
	conn, err := m.pool.Conn(a.addr)
	if err != nil {
		return err
	}
	tryCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &running{cancel: cancel}
	if !m.begin(t, a.addr) {
		return errLeaderChanged
	}
	defer m.end(t)
	if a.timeout > 0 {
		var stop context.CancelFunc
		tryCtx, stop = context.WithTimeout(tryCtx, a.timeout)
		defer stop()
		// A leader that is stopped or cut off never answers: while we wait for it,
		// find out whether another one was elected.
		doubt := time.AfterFunc(doubtAfter, func() { m.doubt(t, a.addr) })
		defer doubt.Stop()
	}
	err = fn(tryCtx, conn)
	if err != nil && !IsVerdict(err) && ctx.Err() == nil && tryCtx.Err() != nil {
		if errors.Is(context.Cause(tryCtx), errLeaderChanged) {
			return errLeaderChanged
		}
		return fmt.Errorf("no answer in %v: %w", a.timeout, context.DeadlineExceeded)
	}
	return err
}

// running is a try under way: it is cancelled when the leader changes.
type running struct{ cancel context.CancelCauseFunc }

// begin registers a try at addr; false when addr is not the leader any more.
func (m *Masters) begin(t *running, addr string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leader != addr || m.ctx.Err() != nil {
		return false
	}
	m.running[t] = struct{}{}
	return true
}

func (m *Masters) end(t *running) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.running, t)
}

// doubt searches for another leader for as long as the try at addr goes on.
func (m *Masters) doubt(t *running, addr string) {
	m.mu.Lock()
	_, on := m.running[t]
	m.mu.Unlock()
	if on && m.startSearch(addr) != nil {
		time.AfterFunc(doubtAfter, func() { m.doubt(t, addr) })
	}
}

// judge learns from the failure of a try at addr: is there another try, and at once?
func (m *Masters) judge(addr string, err error) (again, now bool) {
	if errors.Is(err, errLeaderChanged) {
		return true, true
	}
	if _, next, ok := IsNotLeader(err); ok {
		m.note(addr, "does not lead")
		if next == addr {
			next = "" // it has only just lost or won
		}
		m.move(addr, next)
		return true, false
	}
	if !Retryable(err) {
		return false, false
	}
	m.note(addr, m.describe(addr, err))
	m.move(addr, "")
	return true, false
}

// move makes next the leader if from still was.
func (m *Masters) move(from, next string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leader == from {
		m.setLeaderLocked(next, 0)
	}
}

// +checklocks:m.mu
func (m *Masters) setLeaderLocked(addr string, term uint64) {
	m.term = term
	if m.leader == addr {
		return
	}
	for t := range m.running {
		t.cancel(errLeaderChanged)
	}
	clear(m.running)
	m.leader = addr
	if addr != "" && !slices.Contains(m.addrs, addr) && len(m.addrs) < mastersMax {
		m.addrs = append(m.addrs, addr)
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Masters) note(addr, trouble string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.trouble) < 4*mastersMax || m.trouble[addr] != "" {
		m.trouble[addr] = trouble
	}
}

// find returns the leader, or "" after a search that found none. The error is
// final.
func (m *Masters) find(ctx context.Context) (string, error) {
	if len(m.seeds) == 0 {
		return "", ErrNoMasters
	}
	if err := ctx.Err(); err != nil {
		return "", m.explain(ctx, err)
	}
	m.mu.Lock()
	leader, changed := m.leader, m.changed
	m.mu.Unlock()
	if leader != "" {
		return leader, nil
	}
	s := m.startSearch("")
	if s == nil {
		return "", ErrClosed
	}
	select {
	case <-changed: // found one before everybody has answered
	case <-s.done:
		if s.err != nil {
			return "", s.err
		}
	case <-ctx.Done():
		return "", m.explain(ctx, ctx.Err())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leader, nil
}

// startSearch begins to ask all masters who leads, or joins the search under way.
// doubted is the leader that does not answer, "" when none is known. It returns nil
// after Close.
func (m *Masters) startSearch(doubted string) *search {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.search != nil {
		return m.search
	}
	if m.ctx.Err() != nil || doubted != "" && m.leader != doubted {
		return nil
	}
	s := &search{done: make(chan struct{})}
	m.search = s
	addrs := slices.Clone(m.addrs)
	m.wg.Go(func() {
		err := m.ask(addrs)
		m.mu.Lock()
		m.search = nil
		m.mu.Unlock()
		s.err = err
		close(s.done)
	})
	return s
}

// answer is what one master said to Hello.
type answer struct {
	addr  string
	hello *metapb.HelloReply
	err   error
}

// ask says Hello to all addresses at once. A master that says it leads itself is
// believed at once if its term is not older than what we know; what others say
// about it only when all have answered or were too slow.
func (m *Masters) ask(addrs []string) error {
	ctx, cancel := context.WithTimeout(m.ctx, helloTimeout)
	defer cancel()
	answers := make(chan answer, len(addrs))
	for _, addr := range addrs {
		m.wg.Go(func() {
			h, err := m.hello(ctx, addr)
			answers <- answer{addr, h, err}
		})
	}
	var hearsay answer
	alien := 0
	var alienErr error
	for range addrs {
		a := <-answers
		switch {
		case a.err != nil && IsWrongCluster(a.err):
			alien, alienErr = alien+1, a.err
			m.note(a.addr, "is of another cluster")
		case a.err != nil:
			m.note(a.addr, m.describe(a.addr, a.err))
		default:
			m.learn(a)
			if a.hello.Leading || a.hello.Leader != 0 && a.hello.Leader == a.hello.Node {
				m.elect(a.addr, a.hello.Term)
			} else if a.hello.LeaderAddr != "" && (hearsay.hello == nil || a.hello.Term > hearsay.hello.Term) {
				hearsay = a
			}
		}
	}
	if alien == len(addrs) {
		return alienErr
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := hearsay.hello; h != nil && m.leader == "" {
		// Nobody says so itself: it may be unreachable from here only for Hello's
		// time, or gone. Trying it costs one try.
		if t := m.trouble[h.LeaderAddr]; t == "" || !slices.Contains(addrs, h.LeaderAddr) {
			m.setLeaderLocked(h.LeaderAddr, h.Term)
		}
	}
	return nil
}

// elect makes addr the leader, unless one of a later term is known.
func (m *Masters) elect(addr string, term uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leader != "" && m.leader != addr && term < m.term {
		return
	}
	delete(m.trouble, addr)
	m.setLeaderLocked(addr, term)
}

// learn takes over what a master told about the cluster.
func (m *Masters) learn(a answer) {
	trouble := "knows no leader"
	if a.hello.LeaderAddr != "" {
		trouble = "says that " + a.hello.LeaderAddr + " leads"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trouble[a.addr] = trouble
	for _, addr := range a.hello.Masters {
		if addr != "" && !slices.Contains(m.addrs, addr) && len(m.addrs) < mastersMax {
			m.addrs = append(m.addrs, addr)
		}
	}
	if len(a.hello.Masters) > 0 && a.hello.Leading {
		// The leader's list is the truth; the seeds stay, to find the way back.
		m.addrs = slices.DeleteFunc(m.addrs, func(addr string) bool {
			return !slices.Contains(a.hello.Masters, addr) && !slices.Contains(m.seeds, addr)
		})
	}
	if len(a.hello.Gossip) > 0 {
		m.gossip = slices.Clone(a.hello.Gossip[:min(len(a.hello.Gossip), mastersMax)])
	}
}

func (m *Masters) hello(ctx context.Context, addr string) (*metapb.HelloReply, error) {
	conn, err := m.pool.Conn(addr)
	if err != nil {
		return nil, err
	}
	h, err := metapb.NewClusterClient(conn).Hello(ctx, &metapb.HelloRequest{})
	if err != nil {
		return nil, err
	}
	if id := dfs.ClusterID(h.Cluster); id != 0 && !m.pool.SetCluster(id) {
		return nil, refuse("%s is of cluster %s, this client of cluster %s", addr, id, m.pool.Cluster())
	}
	return h, nil
}

// pause waits a little longer each time, with jitter so that the clients of a dead
// leader do not come back all at once.
func (m *Masters) pause(ctx context.Context, try int) error {
	d := min(backoffMin<<min(try, 10), backoffMax)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-m.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return m.explain(ctx, ctx.Err())
	}
}

// explain says what is wrong when the caller's time is over.
func (m *Masters) explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leader != "" {
		return fmt.Errorf("master %s did not answer in time: %w", m.leader, err)
	}
	var parts []string
	for _, addr := range m.addrs {
		if t := m.trouble[addr]; t != "" {
			parts = append(parts, addr+" "+t)
		}
	}
	if len(parts) == 0 {
		parts = append(parts, "none of "+strings.Join(m.addrs, ", ")+" answered yet")
	}
	return fmt.Errorf("no master leads: %s: %w", strings.Join(parts, ", "), err)
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}

// describe shortens a failure to what a person wants to know of a master.
func (m *Masters) describe(addr string, err error) string {
	if status.Code(err) == codes.Unavailable {
		if cause := m.pool.dialError(addr); cause != nil {
			err = cause
		}
	}
	var late interface{ Timeout() bool }
	switch {
	case isTimeout(err), errors.As(err, &late) && late.Timeout():
		return "timed out"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused the connection"
	case status.Code(err) == codes.Unavailable:
		return "is not reachable (" + status.Convert(err).Message() + ")"
	}
	return "failed (" + err.Error() + ")"
}
