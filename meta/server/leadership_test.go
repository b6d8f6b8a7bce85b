package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/internal/virtualtime"
	"dfs/meta"
	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
)

// newTerm is a term by itself, for what needs no master.
func newTerm(sessions ...dfs.SessionID) *leadership {
	l := &leadership{sessions: map[dfs.SessionID]*liveSession{}, reaping: map[dfs.Ino]struct{}{}, telling: map[dfs.SessionID]*telling{}, reap: make(chan struct{}, 1)}
	l.leases, l.locks = newLeaseTable(l), newLockQueue(l)
	for _, id := range sessions {
		l.begin(id, 0)
	}
	return l
}

func TestOrphanIsEitherOpenOrFreed(t *testing.T) {
	l := newTerm(1, 2)
	l.opened(1, 10)
	idle, done, known := l.claim([]dfs.Ino{10, 11})
	if !known || len(idle) != 1 || idle[0] != 11 {
		t.Fatalf("idle %v, known %v", idle, known)
	}
	// From here on it is being freed: it is too late to open it.
	if _, ok := l.opened(2, 11); ok {
		t.Error("11 was opened while it is freed")
	}
	if _, ok := l.opened(2, 10); !ok {
		t.Error("10 could not be opened")
	}
	done()
	if _, ok := l.opened(2, 11); !ok {
		t.Error("11 is claimed for ever")
	}
	l.released(1, 10)
	if idle, done, _ := l.claim([]dfs.Ino{10}); len(idle) != 0 {
		t.Error("10 is open by the other session")
		done()
	}
}

func TestOpenAndReaperNeverBothWin(t *testing.T) {
	for range 200 {
		l := newTerm(1)
		var opened, claimed bool
		var wg sync.WaitGroup
		wg.Go(func() { _, opened = l.opened(1, 7) })
		wg.Go(func() {
			idle, _, _ := l.claim([]dfs.Ino{7})
			claimed = len(idle) == 1
		})
		wg.Wait()
		if opened == claimed {
			t.Fatalf("opened %v, claimed %v", opened, claimed)
		}
	}
}

func TestNothingIsFreedBeforeAllSessionsHaveTold(t *testing.T) {
	l := newTerm(1)
	l.sessions[2] = &liveSession{seen: time.Now(), open: map[dfs.Ino]struct{}{}} // of an earlier term
	if _, _, known := l.claim([]dfs.Ino{5}); known {
		t.Error("session 2 may have it open")
	}
	l.end(2) // it expired
	idle, done, known := l.claim([]dfs.Ino{5})
	if !known || len(idle) != 1 {
		t.Errorf("idle %v, known %v", idle, known)
	}
	done()
}

func TestSuspectsAreBounded(t *testing.T) {
	l := newTerm(1)
	for i := range dfs.Ino(suspectsMax + 10) {
		l.suspect(i)
	}
	if len(l.suspects) > suspectsMax || !l.scan {
		t.Errorf("%d suspects, scan %v", len(l.suspects), l.scan)
	}
}

// An answer to open(O_CREAT) that finds a file in the moment in which it is freed.
func TestCreateOfAFileThatIsBeingFreedIsStale(t *testing.T) {
	l := newTerm(1)
	l.opened(1, 20)
	_, done, _ := l.claim([]dfs.Ino{9})
	defer done()
	out := &metapb.MutationReply{Attr: &metapb.Attr{Ino: 9}}
	l.created(1, 20, &meta.Reply{Attr: &dfs.Attr{Ino: 9}, Existed: true}, out)
	if dfs.Errno(out.Errno) != dfs.ESTALE || out.Attr != nil {
		t.Errorf("answered %v", out)
	}
	if len(l.sessions[1].open) != 0 {
		t.Errorf("open: %v", l.sessions[1].open)
	}
}

func TestOrphanLivesUntilItsSessionReleasesIt(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	a := openSession(t, s, 1)
	ino := a.Inodes.From
	if r := mutate(t, s, a.Session, 1, createOp("f", ino, true, true)); r.Errno != 0 {
		t.Fatal(dfs.Errno(r.Errno))
	}
	mutate(t, s, a.Session, 2, unlinkOp("f"))
	time.Sleep(3 * reapDelay) // the reaper has looked, and must not have freed it
	if got := getAttr(t, s, ino); got != dfs.OK {
		t.Fatalf("an open file is gone: %v", got)
	}
	beat, err := s.Heartbeat(t.Context(), &metapb.HeartbeatRequest{Session: a.Session, Released: []uint64{ino}})
	if err != nil || beat.Expired {
		t.Fatal(beat, err)
	}
	gone(t, s, ino)
}

// A file of O_TMPFILE has no name from the start.
func TestTmpfileLivesUntilItsSessionReleasesOrNamesIt(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	a := openSession(t, s, 1)
	tmpfile := func(seq, ino uint64) {
		op := createOp("", ino, false, true)
		op.GetCreate().Tmpfile = true
		if r := mutate(t, s, a.Session, seq, op); r.Errno != 0 || r.Attr.Nlink != 0 {
			t.Fatal(r)
		}
	}
	released, named := a.Inodes.From, a.Inodes.From+1
	tmpfile(1, released)
	tmpfile(2, named)
	time.Sleep(3 * reapDelay) // the reaper has looked, and must not have freed them
	for _, ino := range []uint64{released, named} {
		if got := getAttr(t, s, ino); got != dfs.OK {
			t.Fatalf("open file %d is gone: %v", ino, got)
		}
	}
	link := &metapb.Mutation{Op: &metapb.Mutation_Link{Link: &metapb.Link{Ino: named, Parent: uint64(dfs.RootIno), Name: []byte("f")}}}
	if r := mutate(t, s, a.Session, 3, link); r.Errno != 0 || r.Attr.Nlink != 1 {
		t.Fatal(r)
	}
	if _, err := s.CloseSession(t.Context(), &metapb.CloseSessionRequest{Session: a.Session}); err != nil {
		t.Fatal(err)
	}
	gone(t, s, released)
	if got := getAttr(t, s, named); got != dfs.OK {
		t.Errorf("the one with a name: %v", got)
	}
}

func gone(t testing.TB, s *Server, ino uint64) {
	t.Helper()
	eventually(t, "the file to be freed", func() error {
		if got := getAttr(t, s, ino); got != dfs.ESTALE {
			return fmt.Errorf("inode %d: %v", ino, got)
		}
		return nil
	})
}

func TestSessionExpiresAndItsOrphansAreFreed(t *testing.T) {
	const ttl = 300 * time.Millisecond
	s := startMaster(t, func(c *Config) { c.SessionTTL = ttl })
	leads(t, s)
	dead, live := openSession(t, s, 1), openSession(t, s, 2)
	ino := dead.Inodes.From
	mutate(t, s, dead.Session, 1, createOp("f", ino, true, true))
	mutate(t, s, dead.Session, 2, unlinkOp("f"))
	beat := func() *metapb.HeartbeatReply {
		r, err := s.Heartbeat(t.Context(), &metapb.HeartbeatRequest{Session: live.Session})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	eventually(t, "the silent session to expire", func() error {
		if beat().Expired {
			t.Fatal("a session that beats expired")
		}
		r, err := s.Mutate(t.Context(), &metapb.MutateRequest{Session: dead.Session, Mutations: []*metapb.Mutation{{Seq: 3, Op: unlinkOp("x").Op}}})
		if err != nil {
			t.Fatal(err)
		}
		if !r.Expired {
			return errors.New("it lives")
		}
		return nil
	})
	gone(t, s, ino)
	r, err := s.Heartbeat(t.Context(), &metapb.HeartbeatRequest{Session: dead.Session})
	if err != nil || !r.Expired {
		t.Errorf("heartbeat of the dead: %v, %v", r, err)
	}
}

// The client of OpenSession may be gone before the answer: nobody beats for it, and
// this leader has never heard of it.
func TestSessionThatNobodyHeardOfExpires(t *testing.T) {
	s := startMaster(t, func(c *Config) { c.SessionTTL = 200 * time.Millisecond })
	leads(t, s)
	if err := s.carry(t.Context(), &meta.OpenSession{Nonce: 77}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the session to end", func() error {
		var n int
		err := s.node.LocalRead(func(v meta.View) error {
			list, err := v.Sessions()
			n = len(list)
			return err
		})
		if err == nil && n != 0 {
			err = fmt.Errorf("%d sessions", n)
		}
		return err
	})
}

func TestNewTermAsksWhatIsOpenBeforeItFrees(t *testing.T) {
	dir := t.TempDir()
	s := startMaster(t, func(c *Config) { c.Dir = dir })
	leads(t, s)
	a := openSession(t, s, 1)
	ino := a.Inodes.From
	mutate(t, s, a.Session, 1, createOp("f", ino, true, true))
	mutate(t, s, a.Session, 2, unlinkOp("f"))
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	s = startMaster(t, func(c *Config) { c.Dir, c.Bootstrap = dir, false })
	leads(t, s)
	time.Sleep(3 * reapDelay)
	if got := getAttr(t, s, ino); got != dfs.OK {
		t.Fatalf("freed before its session has told: %v", got)
	}
	beat := &metapb.HeartbeatRequest{Session: a.Session}
	r, err := s.Heartbeat(t.Context(), beat)
	if err != nil || !r.WantOpen {
		t.Fatalf("it does not ask: %v, %v", r, err)
	}
	beat = &metapb.HeartbeatRequest{Session: a.Session, LeaderTerm: r.LeaderTerm, OpenComplete: true, Open: []uint64{ino}}
	if r, err = s.Heartbeat(t.Context(), beat); err != nil || r.WantOpen {
		t.Fatalf("it asks on: %v, %v", r, err)
	}
	time.Sleep(reapEvery + 3*reapDelay)
	if got := getAttr(t, s, ino); got != dfs.OK {
		t.Fatalf("freed although it was told that it is open: %v", got)
	}
	if _, err := s.CloseSession(t.Context(), &metapb.CloseSessionRequest{Session: a.Session}); err != nil {
		t.Fatal(err)
	}
	gone(t, s, ino)
}

// fakeChunk is a chunk server that answers Ping, or does not.
type fakeChunk struct {
	chunkpb.UnimplementedChunkServer
	id    uint64
	hangs atomic.Bool
	pings atomic.Int64
	addr  string
}

func (f *fakeChunk) Ping(ctx context.Context, _ *chunkpb.PingRequest) (*chunkpb.PingReply, error) {
	f.pings.Add(1)
	if f.hangs.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &chunkpb.PingReply{Server: f.id}, nil
}

func startFakeChunk(t testing.TB, id uint64) *fakeChunk {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeChunk{id: id, addr: l.Addr().String()}
	g := grpc.NewServer()
	chunkpb.RegisterChunkServer(g, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return f
}

func stateOf(t testing.TB, s *Server, id uint64) dfs.ServerState {
	t.Helper()
	server := mapOf(t, s).Server(dfs.NodeID(id))
	if server == nil {
		t.Fatalf("no server %d in the map", id)
	}
	return server.State
}

func TestReportedServerThatHangsIsTakenOutOnce(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	f := startFakeChunk(t, 5)
	joinServer(t, s, 5, f.addr)
	report := func() *metapb.ReportServerReply {
		r, err := s.ReportServer(t.Context(), &metapb.ReportServerRequest{Server: 5, Reason: "test"})
		if err != nil {
			t.Error(err)
			return &metapb.ReportServerReply{}
		}
		return r
	}
	if r := report(); !r.Up || stateOf(t, s, 5) != dfs.ServerUp {
		t.Fatal("a server that answers was taken out")
	}
	f.hangs.Store(true)
	before := f.pings.Load()
	start := time.Now()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if r := report(); r.Up {
				t.Error("a server that hangs is said to be up")
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("decided after %v", took)
	}
	if stateOf(t, s, 5) != dfs.ServerDown {
		t.Error("it is still up")
	}
	if pings := f.pings.Load() - before; pings > 3*probeTries {
		t.Errorf("50 reports made %d pings", pings)
	}
	f.hangs.Store(false)
	eventually(t, "the server to be up again", func() error {
		if st := stateOf(t, s, 5); st != dfs.ServerUp {
			return fmt.Errorf("it is %v", st)
		}
		return nil
	})
}

func TestReportOfAServerThatIsGoneIsQuick(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	joinServer(t, s, 5, addr)
	start := time.Now()
	r, err := s.ReportServer(t.Context(), &metapb.ReportServerRequest{Server: 5})
	if err != nil || r.Up {
		t.Fatalf("%v, %v", r, err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("decided after %v", took)
	}
	if r.Epoch != uint64(mapOf(t, s).Epoch) {
		t.Errorf("answered epoch %d, the map is at %d", r.Epoch, mapOf(t, s).Epoch)
	}
}

// Another server at the address of one that is gone is not that one.
func TestOtherServerAtTheAddressDoesNotCount(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	f := startFakeChunk(t, 6)
	joinServer(t, s, 5, f.addr)
	if r, err := s.ReportServer(t.Context(), &metapb.ReportServerRequest{Server: 5}); err != nil || r.Up {
		t.Errorf("%v, %v", r, err)
	}
}

// parts is a stream of a snapshot's parts.
type parts struct {
	metapb.Raft_SnapshotServer
	list []*metapb.SnapshotPart
}

func (p *parts) Recv() (*metapb.SnapshotPart, error) {
	if len(p.list) == 0 {
		return nil, io.EOF
	}
	part := p.list[0]
	p.list = p.list[1:]
	return part, nil
}

func TestSnapshotFilesArriveWhole(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	want := map[string]string{"a": strings.Repeat("x", 2*snapshotPartBytes), "b": "", "c": strings.Repeat("y", snapshotPartBytes+5)}
	in := &parts{}
	for _, name := range []string{"a", "b", "c"} {
		path := filepath.Join(from, name)
		if err := os.WriteFile(path, []byte(want[name]), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := sendFile(osFS, path, name, func(p *metapb.SnapshotPart) error { in.list = append(in.list, p); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	in.list = append(in.list, &metapb.SnapshotPart{Last: true})
	if err := receiveFiles(osFS, in, to); err != nil {
		t.Fatal(err)
	}
	for name, text := range want {
		if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(text))
		}
	}
}

func TestDamagedSnapshotIsRefused(t *testing.T) {
	part := func(file, data string) *metapb.SnapshotPart {
		return &metapb.SnapshotPart{File: file, Data: []byte(data), Crc: dfs.CRC([]byte(data))}
	}
	flipped := part("f", "hello")
	flipped.Data[0] ^= 1
	last := &metapb.SnapshotPart{Last: true}
	for name, list := range map[string][]*metapb.SnapshotPart{
		"ends early":     {part("f", "x")},
		"flipped bit":    {flipped, last},
		"no name":        {part("", "x"), last},
		"folder above":   {part("../f", "x"), last},
		"absolute":       {part("/tmp/f", "x"), last},
		"the folder":     {part(".", "x"), last},
		"the one above":  {part("..", "x"), last},
		"the same again": {part("f", "x"), part("f", "y"), last},
	} {
		dir := filepath.Join(t.TempDir(), "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := receiveFiles(osFS, &parts{list: list}, dir); err == nil {
			t.Errorf("%s: taken", name)
		}
		if _, err := os.Stat(filepath.Join(dir, "..", "f")); err == nil {
			t.Errorf("%s: wrote outside of its folder", name)
		}
	}
}

func TestSessionThatIsBeingEndedTellsNothing(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		l := newTerm(1, 2)
		l.ctx = t.Context()
		told, ok := l.tell(1)
		if !ok {
			t.Fatal("a session may not tell what it has changed")
		}
		var mayAgain func()
		silent := begins(func() {
			var err error
			if mayAgain, err = l.silence(t.Context(), 1); err != nil {
				t.Error(err)
			}
		})
		if silent() {
			t.Fatal("a session is ended while it tells something")
		}
		if _, ok := l.tell(1); ok {
			t.Fatal("a session tells something while it is ended")
		}
		if done, ok := l.tell(2); !ok {
			t.Fatal("another session has to wait")
		} else {
			done()
		}
		told()
		if !silent() {
			t.Fatal("a session that tells nothing any more is not ended")
		}
		if _, ok := l.tell(1); ok {
			t.Fatal("a session tells something while it is ended")
		}
		mayAgain() // it could not be
		if told, ok = l.tell(1); !ok {
			t.Fatal("a session that goes on may not tell what it has changed")
		}
		told()
		if len(l.telling) > 0 {
			t.Errorf("%d sessions are remembered", len(l.telling))
		}
	})
}
