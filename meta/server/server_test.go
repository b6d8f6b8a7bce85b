package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/meta"
	"dfs/proto/adminpb"
	"dfs/proto/metapb"
	"dfs/rpc"
)

const testTimeout = 20 * time.Second

// startMaster starts a master that ends with the test; a cluster of its own unless
// edit says otherwise.
func startMaster(t testing.TB, edit ...func(*Config)) *Server {
	t.Helper()
	cfg := Config{Name: "master-1", Dir: t.TempDir(), Listen: "127.0.0.1:0", Bootstrap: true, Tick: 10 * time.Millisecond}
	for _, e := range edit {
		e(&cfg)
	}
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// leads waits until the master serves changes.
func leads(t testing.TB, s *Server) *leadership {
	t.Helper()
	eventually(t, s.Name()+" to lead", func() error {
		if s.leading.Load() == nil {
			return errors.New("it does not")
		}
		return nil
	})
	return s.leading.Load()
}

func eventually(t testing.TB, what string, fn func() error) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s: %v", what, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// openSession registers a client; its sequence numbers are the test's.
func openSession(t testing.TB, s *Server, nonce uint64) *metapb.OpenSessionReply {
	t.Helper()
	r, err := s.OpenSession(t.Context(), &metapb.OpenSessionRequest{Nonce: nonce, Host: "here"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mutate(t testing.TB, s *Server, session, seq uint64, m *metapb.Mutation) *metapb.MutationReply {
	t.Helper()
	m.Seq, m.Cred = seq, &metapb.Cred{Checked: true}
	r, err := s.Mutate(t.Context(), &metapb.MutateRequest{Session: session, Mutations: []*metapb.Mutation{m}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Expired || len(r.Replies) != 1 {
		t.Fatalf("expired %v, %d replies", r.Expired, len(r.Replies))
	}
	return r.Replies[0]
}

func createOp(name string, ino uint64, excl, open bool) *metapb.Mutation {
	return &metapb.Mutation{Op: &metapb.Mutation_Create{Create: &metapb.Create{
		Parent: uint64(dfs.RootIno), Name: []byte(name), Ino: ino, Mode: dfs.TypeFile | 0o644, Excl: excl, Open: open,
	}}}
}

func unlinkOp(name string) *metapb.Mutation {
	return &metapb.Mutation{Op: &metapb.Mutation_Unlink{Unlink: &metapb.Unlink{Parent: uint64(dfs.RootIno), Name: []byte(name)}}}
}

func getAttr(t testing.TB, s *Server, ino uint64) dfs.Errno {
	t.Helper()
	r, err := s.GetAttr(t.Context(), &metapb.GetAttrRequest{Ino: ino})
	if err != nil {
		t.Fatal(err)
	}
	return dfs.Errno(r.Errno)
}

func TestSecondBootstrapIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := startMaster(t, func(c *Config) { c.Dir = dir })
	leads(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Name: "master-1", Dir: dir, Listen: "127.0.0.1:0", Tick: 10 * time.Millisecond, Bootstrap: true}
	if again, err := Start(t.Context(), cfg); err == nil {
		again.Close()
		t.Fatal("a second --bootstrap was taken")
	} else if !strings.Contains(err.Error(), "without --bootstrap") {
		t.Errorf("the error does not help: %v", err)
	}
	// Nothing was destroyed.
	cfg.Bootstrap = false
	again, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	leads(t, again)
	if again.clusterID() != s.clusterID() {
		t.Errorf("cluster %v became %v", s.clusterID(), again.clusterID())
	}
}

// A crash between the identity and the first state must not need a person.
func TestInterruptedBootstrapGoesOn(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Name: "master-1", Dir: dir, Bootstrap: true}
	id, err := identify(osFS, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := startMaster(t, func(c *Config) { c.Dir = dir })
	leads(t, s)
	if s.clusterID() != id.Cluster {
		t.Errorf("cluster %v, the identity said %v", s.clusterID(), id.Cluster)
	}
}

func TestBootstrapOfAMasterThatIsToJoinIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := startMaster(t, func(c *Config) { c.Dir, c.Bootstrap, c.Join = dir, false, []string{"127.0.0.1:1"} })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if again, err := Start(t.Context(), Config{Name: "master-1", Dir: dir, Listen: "127.0.0.1:0", Bootstrap: true}); err == nil {
		again.Close()
		t.Fatal("it made a second cluster")
	}
}

func TestEmptyFolderNeedsBootstrapOrJoin(t *testing.T) {
	s, err := Start(t.Context(), Config{Name: "master-1", Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err == nil {
		s.Close()
		t.Fatal("it started")
	}
	for _, want := range []string{"--bootstrap", "--join"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %s", err, want)
		}
	}
}

func TestFolderIsUsedByOneProcess(t *testing.T) {
	s := startMaster(t)
	again, err := Start(t.Context(), Config{Name: "master-1", Dir: s.cfg.Dir, Listen: "127.0.0.1:0"})
	if err == nil {
		again.Close()
		t.Fatal("two masters in one folder")
	}
	if !strings.Contains(err.Error(), "in use") {
		t.Errorf("the error does not help: %v", err)
	}
}

// pair is two masters, both with a vote; the first leads.
func pair(t *testing.T) (first, second *Server) {
	t.Helper()
	first = startMaster(t)
	leads(t, first)
	second = startMaster(t, func(c *Config) { c.Name, c.Bootstrap, c.Join = "master-2", false, []string{first.Addr()} })
	eventually(t, "two votes", func() error {
		st, err := first.Status(t.Context(), &adminpb.StatusRequest{})
		if err != nil {
			return err
		}
		for _, m := range st.Masters {
			if m.Name == "master-2" && m.Role == "follower" {
				return nil
			}
		}
		return fmt.Errorf("masters: %v", st.Masters)
	})
	return first, second
}

func TestRemovedMasterDoesNotComeBack(t *testing.T) {
	first, second := pair(t)
	if _, err := first.RemoveMaster(t.Context(), &adminpb.RemoveMasterRequest{Name: "master-2"}); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	// As a service manager would.
	again, err := Start(t.Context(), second.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	select {
	case <-again.Done():
	case <-time.After(testTimeout):
		t.Fatal("it runs on")
	}
	if err := again.Err(); err == nil || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("it ended with %v", err)
	}
	peers, _, err := first.node.Peers(t.Context())
	if err != nil || len(peers) != 1 {
		t.Errorf("members: %v, %v", peers, err)
	}
}

func TestMasterNameIsUnique(t *testing.T) {
	first := startMaster(t)
	leads(t, first)
	twin := startMaster(t, func(c *Config) { c.Bootstrap, c.Join = false, []string{first.Addr()} })
	select {
	case <-twin.Done():
	case <-time.After(testTimeout):
		t.Fatal("a second master of the same name runs on")
	}
	if err := twin.Err(); err == nil || !strings.Contains(err.Error(), "another --name") {
		t.Errorf("it ended with %v", err)
	}
}

func TestLeadershipIsHandedOverAtClose(t *testing.T) {
	first, second := pair(t)
	start := time.Now()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// It cannot win an election by itself: one vote of two is no majority.
	if !second.Leading() {
		t.Errorf("master-2 does not lead %v after master-1 began to end", time.Since(start))
	}
}

func TestFollowerSendsToTheLeader(t *testing.T) {
	first, second := pair(t)
	calls := map[string]func() error{
		"mutate": func() error {
			_, err := second.Mutate(t.Context(), &metapb.MutateRequest{Session: 1, Mutations: []*metapb.Mutation{unlinkOp("x")}})
			return err
		},
		"lookup": func() error { _, err := second.Lookup(t.Context(), &metapb.LookupRequest{Parent: 1}); return err },
		"open":   func() error { _, err := second.Open(t.Context(), &metapb.OpenRequest{Session: 1, Ino: 1}); return err },
		"report": func() error {
			_, err := second.ReportChunks(t.Context(), &metapb.ReportChunksRequest{Chunks: []uint64{1}})
			return err
		},
		"status": func() error { _, err := second.Status(t.Context(), &adminpb.StatusRequest{}); return err },
	}
	for name, call := range calls {
		id, addr, ok := rpc.IsNotLeader(call())
		if !ok || id != first.id.Node || addr != first.Addr() {
			t.Errorf("%s: leader %v at %q, %v", name, id, addr, ok)
		}
	}
}

func TestHostileChangesAreRefusedBeforeTheLog(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	session := openSession(t, s, 1).Session
	many := make([]*metapb.Mutation, mutationsMax+1)
	for i := range many {
		many[i] = unlinkOp("x")
	}
	extents := make([]*metapb.Extent, commitExtentsMax+1)
	for i := range extents {
		extents[i] = &metapb.Extent{}
	}
	one := func(m *metapb.Mutation) []*metapb.Mutation { return []*metapb.Mutation{m} }
	before := s.node.Applied()
	for name, mutations := range map[string][]*metapb.Mutation{
		"too many":      many,
		"no operation":  one(&metapb.Mutation{Seq: 1}),
		"groups":        one(&metapb.Mutation{Cred: &metapb.Cred{Groups: make([]uint32, groupsMax+1)}, Op: unlinkOp("x").Op}),
		"symlink":       one(&metapb.Mutation{Op: &metapb.Mutation_Create{Create: &metapb.Create{Target: make([]byte, targetBytesMax+1)}}}),
		"xattr":         one(&metapb.Mutation{Op: &metapb.Mutation_SetXattr{SetXattr: &metapb.SetXattr{Value: make([]byte, dfs.XattrMax+2)}}}),
		"commit files":  one(&metapb.Mutation{Op: &metapb.Mutation_Commit{Commit: &metapb.Commit{Files: filled(commitFilesMax+1, &metapb.FileCommit{})}}}),
		"commit chunks": one(&metapb.Mutation{Op: &metapb.Mutation_Commit{Commit: &metapb.Commit{Chunks: filled(commitChunksMax+1, &metapb.ChunkCommit{})}}}),
		"extents":       one(&metapb.Mutation{Op: &metapb.Mutation_Commit{Commit: &metapb.Commit{Files: []*metapb.FileCommit{{Extents: extents}}}}}),
		"servers":       one(&metapb.Mutation{Op: &metapb.Mutation_Commit{Commit: &metapb.Commit{Chunks: []*metapb.ChunkCommit{{Servers: make([]uint64, 64)}}}}}),
		// Within the limits one by one, but an entry of them would not fit in a message.
		"bytes": filled(64, &metapb.Mutation{Op: &metapb.Mutation_SetXattr{SetXattr: &metapb.SetXattr{Value: make([]byte, dfs.XattrMax)}}}),
	} {
		_, err := s.Mutate(t.Context(), &metapb.MutateRequest{Session: session, Mutations: mutations})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Mutate(t.Context(), &metapb.MutateRequest{Mutations: many[:1]}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no session: %v", err)
	}
	if after := s.node.Applied(); after != before {
		t.Errorf("%d entries came into the log", after-before)
	}
	// What POSIX has a verdict for gets it.
	long := strings.Repeat("n", 4000)
	if r := mutate(t, s, session, 1, createOp(long, 16, true, false)); dfs.Errno(r.Errno) != dfs.ENAMETOOLONG {
		t.Errorf("long name: %v", dfs.Errno(r.Errno))
	}
}

func filled[T any](n int, v T) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func TestListingIsBounded(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	session := openSession(t, s, 1).Session
	grant := mutate(t, s, session, 1, &metapb.Mutation{Op: &metapb.Mutation_GrantIds{GrantIds: &metapb.GrantIDs{Inodes: true}}}).Inodes
	const files = entriesMax + 100
	var all []*metapb.Mutation
	for i := range uint64(files) {
		m := createOp(fmt.Sprintf("f%d", i), grant.From+i, true, false)
		m.Seq, m.Cred = 2+i, &metapb.Cred{Checked: true}
		all = append(all, m)
	}
	for len(all) > 0 {
		n := min(len(all), 500)
		if _, err := s.Mutate(t.Context(), &metapb.MutateRequest{Session: session, Mutations: all[:n]}); err != nil {
			t.Fatal(err)
		}
		all = all[n:]
	}
	for _, plus := range []bool{false, true} {
		seen, cookie, most := map[string]bool{}, uint64(0), 0
		for end := false; !end; {
			r, err := s.ReadDir(t.Context(), &metapb.ReadDirRequest{Ino: uint64(dfs.RootIno), Cookie: cookie, Limit: 1 << 30, Plus: plus, Cred: &metapb.Cred{}})
			if err != nil || r.Errno != 0 {
				t.Fatal(err, r)
			}
			for _, e := range r.Entries {
				seen[string(e.Name)], cookie = true, e.Cookie
			}
			most, end = max(most, len(r.Entries)), r.End
		}
		if len(seen) != files || most > entriesMax {
			t.Errorf("plus %v: %d names, want %d; %d in one answer", plus, len(seen), files, most)
		}
	}
}

func TestPolicyThatServersCannotHoldIsRefused(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	for i := range uint64(2) {
		joinServer(t, s, 100+i, "127.0.0.1:1")
	}
	session := openSession(t, s, 1).Session
	set := func(seq uint64, copies int) dfs.Errno {
		l, err := dfs.Copies(copies)
		if err != nil {
			t.Fatal(err)
		}
		return dfs.Errno(mutate(t, s, session, seq, &metapb.Mutation{Op: &metapb.Mutation_SetPolicy{SetPolicy: &metapb.SetPolicy{Ino: 1, Layout: uint32(l)}}}).Errno)
	}
	if got := set(1, 5); got != dfs.EINVAL {
		t.Errorf("five copies on two servers: %v", got)
	}
	if got := set(2, 2); got != dfs.OK {
		t.Errorf("two copies on two servers: %v", got)
	}
	// Before it was acknowledged, each group had its home.
	l, err := dfs.Copies(2)
	if err != nil {
		t.Fatal(err)
	}
	m := mapOf(t, s)
	for b := range m.Buckets {
		if home := m.Home[dfs.MakePG(l, uint16(b))]; len(home) != 2 || home[0] == 0 || home[1] == 0 {
			t.Fatalf("bucket %d lives on %v", b, home)
		}
	}
}

func mapOf(t testing.TB, s *Server) *dfs.ClusterMap {
	t.Helper()
	var m *dfs.ClusterMap
	err := s.node.LocalRead(func(v meta.View) (err error) { m, err = v.Map(); return err })
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func joinServer(t testing.TB, s *Server, id uint64, addr string) {
	t.Helper()
	_, err := s.Join(t.Context(), &metapb.JoinRequest{Server: &metapb.Server{Id: id, Name: fmt.Sprintf("chunk-%d", id), Addr: addr, Weight: 1}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestChunkServerOfAnotherClusterIsRefused(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	_, err := s.Join(t.Context(), &metapb.JoinRequest{Cluster: uint64(s.clusterID()) + 1, Server: &metapb.Server{Id: 5, Name: "chunk-5", Addr: "127.0.0.1:1"}})
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "cluster") {
		t.Errorf("another cluster: %v", err)
	}
	joinServer(t, s, 5, "127.0.0.1:1")
	_, err = s.Join(t.Context(), &metapb.JoinRequest{Server: &metapb.Server{Id: 6, Name: "chunk-5", Addr: "127.0.0.1:2"}})
	if status.Code(err) != codes.AlreadyExists {
		t.Errorf("a name that is taken: %v", err)
	}
	if got := len(mapOf(t, s).Servers); got != 1 {
		t.Errorf("%d servers in the map", got)
	}
}

// The whole of a map change is proposed, however many homes it has.
func TestManyHomesComeInSeveralChanges(t *testing.T) {
	s := startMaster(t, func(c *Config) { c.Buckets = bucketsMax })
	l := leads(t, s)
	for i := range uint64(5) {
		joinServer(t, s, 100+i, "127.0.0.1:1")
	}
	var layouts []dfs.Layout
	for n := 1; n <= dfs.CopiesMax; n++ {
		layout, err := dfs.Copies(n)
		if err != nil {
			t.Fatal(err)
		}
		layouts = append(layouts, layout)
	}
	if len(layouts)*bucketsMax <= homesMax {
		t.Fatal("this is no test")
	}
	l.mapMu.Lock()
	_, err := l.changeMapLocked(t.Context(), layouts, nil)
	l.mapMu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if got := len(mapOf(t, s).Home); got != len(layouts)*bucketsMax {
		t.Errorf("%d homes, want %d", got, len(layouts)*bucketsMax)
	}
}

func TestIdentitySurvivesAndDamageIsFound(t *testing.T) {
	dir := t.TempDir()
	want := identity{Format: identityFormat, Version: identityVersion, Cluster: 7, Node: 9, Name: "master-1", Founder: true}
	if err := writeIdentity(osFS, dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := readIdentity(osFS, dir)
	if err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	b, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		for _, flip := range []byte{1, 0x20, 0x80} {
			bad := append([]byte(nil), b...)
			bad[i] ^= flip
			if id, err := decodeIdentity(bad); err == nil && id != want {
				t.Fatalf("byte %d ^ %#x gives %+v", i, flip, id)
			}
		}
		if _, err := decodeIdentity(b[:i]); err == nil {
			t.Fatalf("%d of %d bytes are taken", i, len(b))
		}
	}
}

func TestUnknownIdentityVersionIsNamed(t *testing.T) {
	_, err := decodeIdentity(signed(`{"format":"dfs-master","version":9,"cluster":1,"node":2,"name":"m"}` + "\n"))
	if err == nil || !strings.Contains(err.Error(), "version 9") {
		t.Errorf("%v", err)
	}
	_, err = decodeIdentity(signed(`{"format":"other","version":1,"node":2}` + "\n"))
	if !errors.Is(err, errIdentity) {
		t.Errorf("another format: %v", err)
	}
}

func FuzzDecodeIdentity(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(signed("{}\n"))
	b, err := identity{Node: 1, Name: "m"}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := decodeIdentity(b); err == nil && (id.Node == 0 || id.Version != identityVersion) {
			t.Errorf("%q is taken as %+v", b, id)
		}
	})
}

func TestWrongNameIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := writeIdentity(osFS, dir, identity{Node: 9, Name: "master-1", Cluster: 1}); err != nil {
		t.Fatal(err)
	}
	_, err := identify(osFS, &Config{Name: "master-2", Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "master-1") {
		t.Errorf("%v", err)
	}
	if _, err := readIdentity(osFS, filepath.Join(dir, "none")); err == nil {
		t.Error("an identity out of nothing")
	}
}

func TestMapIsWatched(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	pool := rpc.NewPool(s.clusterID(), nil)
	defer pool.Close()
	conn, err := pool.Conn(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	stream, err := metapb.NewClusterClient(conn).WatchMap(ctx, &metapb.WatchMapRequest{})
	if err != nil {
		t.Fatal(err)
	}
	last := uint64(0)
	for i := range uint64(3) {
		joinServer(t, s, 100+i, "127.0.0.1:1")
		for {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if m.Epoch <= last {
				t.Fatalf("epoch %d after %d", m.Epoch, last)
			}
			last = m.Epoch
			if len(m.Servers) == int(i)+1 {
				break
			}
		}
	}
}
