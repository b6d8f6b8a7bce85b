package server

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"dfs"
	"dfs/meta"
	"dfs/meta/backup"
	"dfs/proto/adminpb"
	"dfs/proto/metapb"
)

// backedUp is a master with some state, and a backup of it.
func backedUp(t *testing.T) (*Server, *metapb.OpenSessionReply, []byte) {
	t.Helper()
	s := startMaster(t)
	leads(t, s)
	session := openSession(t, s, 7)
	for i, name := range []string{"a", "b", "c"} {
		r, err := s.node.Propose(t.Context(), meta.Command{Session: dfs.SessionID(session.Session), Seq: uint64(i + 1), Time: now(), Op: &meta.Create{
			Parent: dfs.RootIno, Name: name, Ino: dfs.Ino(session.Inodes.From) + dfs.Ino(i), Mode: dfs.TypeFile | 0o644}})
		if err != nil || r.Errno != dfs.OK {
			t.Fatal(r.Errno, err)
		}
	}
	var b bytes.Buffer
	if _, _, err := s.writeBackup(&b); err != nil {
		t.Fatal(err)
	}
	return s, session, b.Bytes()
}

func TestBackupIsVerified(t *testing.T) {
	_, _, b := backedUp(t)
	scratch := filepath.Join(t.TempDir(), "scratch")
	c, err := VerifyBackup(bytes.NewReader(b), scratch)
	if err != nil || len(c.Problems) > 0 || c.Rows == 0 || c.Level != meta.Level {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := VerifyBackup(bytes.NewReader(b[:len(b)-100]), scratch); err == nil {
		t.Error("a backup that was cut short was taken")
	}
}

func TestEveryRowOfABackupCanBeRead(t *testing.T) {
	_, _, b := backedUp(t)
	kinds := map[string]int{}
	_, err := backup.Read(bytes.NewReader(b), func(backup.Head) error { return nil }, func(k, v []byte) error {
		row, err := meta.Dump(k, v)
		kinds[row.Kind]++
		return err
	})
	if err != nil || kinds["inode"] != 4 || kinds["dentry"] != 3 || kinds["cluster"] != 1 || kinds["session"] != 1 {
		t.Errorf("%v, %v", kinds, err)
	}
}

// TestClusterGoesOnFromABackup: the folder that is made of a backup is a master that leads,
// with all names; numbers that were given out are not given again, sessions of before are
// over, and chunks that it does not know are kept.
func TestClusterGoesOnFromABackup(t *testing.T) {
	old, before, b := backedUp(t)
	cluster, addr := old.clusterID(), old.Addr()
	epoch := old.mapNow().Epoch
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	o := RestoreOptions{Dir: filepath.Join(t.TempDir(), "new"), Name: "master-9", Keep: time.Hour, Version: "v2"}
	c, err := RestoreBackup(bytes.NewReader(b), o)
	if err != nil || len(c.Problems) > 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := RestoreBackup(bytes.NewReader(b), o); err == nil {
		t.Error("it was restored over a master's folder")
	}
	s := startMaster(t, func(c *Config) { c.Dir, c.Name, c.Bootstrap, c.Listen = o.Dir, o.Name, false, addr })
	l := leads(t, s)
	if s.clusterID() != cluster || l.term <= c.Term {
		t.Errorf("cluster %v, was %v; term %d, was %d", s.clusterID(), cluster, l.term, c.Term)
	}
	err = s.read(t.Context(), func(v meta.View) error {
		if m, err := v.Map(); err != nil || m.Epoch <= epoch {
			t.Errorf("epoch %d after %d, %v", m.Epoch, epoch, err)
		}
		for _, name := range []string{"/a", "/b", "/c"} {
			if _, err := v.Resolve(dfs.Cred{}, name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := s.Heartbeat(t.Context(), &metapb.HeartbeatRequest{Session: before.Session}); err != nil || !r.Expired {
		t.Errorf("a session of before: %v, %v", r, err)
	}
	after := openSession(t, s, 8)
	if after.Inodes.From < before.Inodes.To+1<<20 || after.Chunks.From < before.Chunks.To+1<<20 || after.Session < before.Session+1<<20 {
		t.Errorf("numbers are given again: %v after %v", after, before)
	}
	unknown := uint64(dfs.MakeChunkID(dfs.DefaultLayout, before.Chunks.From+5))
	report := func() int {
		r, err := s.ReportChunks(t.Context(), &metapb.ReportChunksRequest{Server: 77, Chunks: []uint64{unknown}})
		if err != nil {
			t.Fatal(err)
		}
		return len(r.Free)
	}
	if n := report(); n != 0 {
		t.Error("a chunk of after the backup is deleted")
	}
	if _, err := s.SetConfig(t.Context(), &adminpb.SetConfigRequest{Name: "keep-unknown-until"}); err != nil {
		t.Fatal(err)
	}
	if n := report(); n != 1 {
		t.Errorf("%d chunks are deleted when none is to be kept any more", n)
	}
	// Another one joins, as ever.
	startMaster(t, func(c *Config) { c.Name, c.Bootstrap, c.Join = "master-2", false, []string{s.Addr()} })
	voters(t, s, 2)
}

func TestCopyIsDueAfterItsTimeAndLateAfterThree(t *testing.T) {
	const every = time.Hour
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	for _, x := range []struct {
		what         string
		began, last  time.Duration // ago; last 0: none is known
		due, overdue bool
	}{
		{"a new leader waits a little", 0, 0, false, false},
		{"none is known", 2 * backupRetry, 0, true, false},
		{"none is known for long", 4 * every, 0, true, true},
		{"a new one", 9 * every, every / 2, false, false},
		{"an old one", 0, every + time.Minute, true, false},
		{"one that is too old", 0, 4 * every, true, true},
	} {
		var c copies
		if x.last != 0 {
			c.note(ago(x.last), nil)
		}
		if got := c.due(ago(x.began), every); got != x.due {
			t.Errorf("%s: due %v", x.what, got)
		}
		if _, _, got := c.late(ago(x.began), every); got != x.overdue {
			t.Errorf("%s: late %v", x.what, got)
		}
		c.note(time.Time{}, dfs.EIO)
		if c.due(ago(x.began), every) {
			t.Errorf("%s: due at once after a failure", x.what)
		}
	}
}

func TestCopiesGoToDifferentHostsFirst(t *testing.T) {
	m := &dfs.ClusterMap{Servers: []dfs.Server{
		{ID: 1, Host: "a", State: dfs.ServerUp}, {ID: 2, Host: "a", State: dfs.ServerUp}, {ID: 3, Host: "b", State: dfs.ServerDown},
		{ID: 4, Host: "c", State: dfs.ServerUp}, {ID: 5, Host: "a", State: dfs.ServerUp}, {ID: 6, Host: "b", State: dfs.ServerUp},
	}}
	var got []dfs.NodeID
	for _, s := range copyServers(m) {
		got = append(got, s.ID)
	}
	if want := []dfs.NodeID{1, 4, 6, 2, 5}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
