package server

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"dfs"
	"dfs/internal/virtualtime"
	"dfs/meta"
	"dfs/proto/metapb"
)

// table makes a leaseTable of a new term, and sessions that have come to it.
func table(t *testing.T, sessions ...dfs.SessionID) *leaseTable {
	ctx, cancel := context.WithCancel(t.Context())
	l := newTerm()
	l.s = &Server{cfg: Config{SessionTTL: DefaultSessionTTL}, logger: slog.New(slog.DiscardHandler)}
	l.ctx, l.cancel = ctx, cancel
	t.Cleanup(func() { cancel(); l.wg.Wait() })
	var before []meta.Session
	for _, id := range sessions {
		before = append(before, meta.Session{ID: id})
	}
	l.leases.expect(before)
	for _, id := range sessions {
		if good, _ := l.leases.attach(id, nil); good <= 0 {
			t.Fatalf("session %d is refused", id)
		}
	}
	return l.leases
}

// mode is what the session has on inode 7: "", "shared" or "exclusive".
func mode(t *leaseTable, session dfs.SessionID) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch h := t.sessions[session].held[7]; {
	case h == nil:
		return ""
	case h.exclusive:
		return "exclusive"
	}
	return "shared"
}

func read(t *testing.T, lt *leaseTable, session dfs.SessionID) []*metapb.Lease {
	t.Helper()
	leases, err := lt.read(t.Context(), session, 7)
	if err != nil {
		t.Fatal(err)
	}
	return leases
}

// begins starts fn and reports whether it is done once nothing else can happen.
func begins(fn func()) (done func() bool) {
	end := make(chan struct{})
	go func() { defer close(end); fn() }()
	return func() bool {
		synctest.Wait()
		select {
		case <-end:
			return true
		default:
			return false
		}
	}
}

func TestReadWaitsForAnExclusiveLease(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		lt := table(t, 1, 2)
		first := read(t, lt, 1)
		if mode(lt, 1) != "exclusive" {
			t.Fatalf("who is alone has %q", mode(lt, 1))
		}
		done := begins(func() { read(t, lt, 2) })
		if done() {
			t.Fatal("a read was answered while another session may have changes to tell")
		}
		recalls := lt.pending(lt.lessee(1))
		if len(recalls) != 1 || !recalls[0].Exclusive || recalls[0].Serial != first[0].Serial {
			t.Fatalf("recalled %v", recalls)
		}
		lt.give(1, []*metapb.Returned{{Ino: 7, Serial: recalls[0].Serial, Shared: true}})
		if !done() || mode(lt, 1) != "shared" || mode(lt, 2) != "shared" {
			t.Errorf("done %v, 1 has %q, 2 has %q", done(), mode(lt, 1), mode(lt, 2))
		}
	})
}

func TestChangeWaitsForAllLeases(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		lt := table(t, 1, 2, 3)
		for _, id := range []dfs.SessionID{1, 2} {
			read(t, lt, 3)
			lt.give(3, []*metapb.Returned{{Ino: 7, Serial: lt.lessee(3).held[7].serial, Shared: true}})
			read(t, lt, id)
		}
		inos := []dfs.Ino{7}
		done := begins(func() { _ = lt.change(t.Context(), 3, inos, false) })
		for _, id := range []dfs.SessionID{1, 2} {
			if done() {
				t.Fatal("it began while others have leases")
			}
			recalls := lt.pending(lt.lessee(id))
			if len(recalls) != 1 || recalls[0].Exclusive {
				t.Fatalf("recalled of %d: %v", id, recalls)
			}
			// Less than what is wanted is not enough.
			lt.give(id, []*metapb.Returned{{Ino: 7, Serial: recalls[0].Serial, Shared: true}})
			if done() {
				t.Fatal("it began although a session kept its lease")
			}
			lt.give(id, []*metapb.Returned{{Ino: 7, Serial: recalls[0].Serial}})
		}
		if !done() {
			t.Fatal("it does not begin")
		}
		if got := read(t, lt, 1); got != nil || mode(lt, 1) != "" {
			t.Errorf("granted %v during a change", got)
		}
		if mode(lt, 3) == "" {
			t.Error("who makes the change has lost its own lease")
		}
		lt.done(inos, false)
		if read(t, lt, 1); mode(lt, 1) == "" {
			t.Error("nothing is granted after the change")
		}
	})
}

// An answer that was given during the change, and without a lease, could come to the kernel
// after it.
func TestReadWaitsForAChangeOfWhoMayDoWhat(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		lt := table(t, 1, 2)
		inos := []dfs.Ino{7}
		if err := lt.change(t.Context(), 1, inos, true); err != nil {
			t.Fatal(err)
		}
		done := begins(func() { read(t, lt, 2) })
		if done() {
			t.Fatal("a read was answered during the change")
		}
		lt.done(inos, true)
		if !done() || mode(lt, 2) == "" {
			t.Errorf("after the change: done %v, with lease %q", done(), mode(lt, 2))
		}
	})
}

func TestLeaseGivenBackIsNotALaterOne(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		lt := table(t, 1)
		first := read(t, lt, 1)[0].Serial
		if second := read(t, lt, 1)[0].Serial; second == first {
			t.Fatal("two grants have one number")
		}
		lt.give(1, []*metapb.Returned{{Ino: 7, Serial: first}})
		if mode(lt, 1) == "" {
			t.Error("giving back the first grant took the second")
		}
	})
}

func TestNewTermWaitsForTheSessionsOfTheLast(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		lt := table(t)
		for _, x := range []struct {
			name string
			late bool
		}{{"all come", false}, {"one is silent", true}} {
			l := newTerm()
			l.s, l.ctx = lt.l.s, lt.l.ctx
			l.leases.expect([]meta.Session{{ID: 1}, {ID: 2}})
			begin := time.Now()
			done := begins(func() { _ = l.leases.ready(t.Context()) })
			l.leases.attach(1, []uint64{7})
			if mode(l.leases, 1) != "exclusive" {
				t.Errorf("%s: what was to be kept is %q", x.name, mode(l.leases, 1))
			}
			if done() {
				t.Fatalf("%s: it did not wait for both", x.name)
			}
			if !x.late {
				l.leases.attach(2, nil)
				if !done() {
					t.Errorf("%s: it waits on", x.name)
				}
			}
			l.wg.Wait()
			if !done() || x.late && time.Since(begin) < leaseMax {
				t.Errorf("%s: after %v", x.name, time.Since(begin))
			}
			l.leases.attach(2, []uint64{8})
			if _, held := l.leases.sessions[2].held[8]; held {
				t.Errorf("%s: a lease of before was kept too late", x.name)
			}
		}
	})
}

func TestSessionThatGivesNothingBackIsNotRenewed(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		lt := table(t, 1, 2)
		read(t, lt, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _, _ = lt.read(ctx, 2, 7) }()
		for begin := time.Now(); ; time.Sleep(time.Second) {
			good, _ := lt.attach(1, nil)
			if waited := time.Since(begin); good == 0 {
				if waited < recallMax {
					t.Errorf("given up after %v", waited)
				}
				return
			} else if waited > recallMax+2*time.Second {
				t.Fatal("renewed for ever")
			}
		}
	})
}

// What nobody asked for is not worth to disturb anybody.
func TestHintsDisturbNobody(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		lt := table(t, 1, 2)
		read(t, lt, 1) // exclusive
		if got := lt.hint(2, false, 7); len(got) != 0 || len(lt.pending(lt.lessee(1))) != 0 {
			t.Errorf("while another session may be changing it: granted %v, recalled %v", got, lt.pending(lt.lessee(1)))
		}
		lt.give(1, []*metapb.Returned{{Ino: 7, Serial: lt.lessee(1).held[7].serial}})
		inos := []dfs.Ino{7}
		_ = lt.change(t.Context(), 1, inos, false)
		if got := lt.hint(2, false, 7); len(got) != 0 {
			t.Errorf("while it is being changed: granted %v", got)
		}
		lt.done(inos, false)
		time.Sleep(2 * contendedIn)
		if got := lt.hint(2, true, 7); len(got) != 1 || mode(lt, 2) != "shared" {
			t.Errorf("granted %v, which is %q, want shared", got, mode(lt, 2))
		}
		if got := lt.hint(2, false, 7); len(got) != 1 || mode(lt, 2) != "exclusive" {
			t.Errorf("granted %v, which is %q, want exclusive", got, mode(lt, 2))
		}
		if got := lt.hint(1, false, 7); len(got) != 0 {
			t.Errorf("to another session: %v", got)
		}
		if got := lt.hint(3, false, 7); len(got) != 0 {
			t.Errorf("to a session that has not come: %v", got)
		}
	})
}

func TestLeaseOfTheLastLeaderThatIsGivenBackIsNoneOfThisOne(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		before := table(t, 1)
		old := read(t, before, 1)
		lt := table(t, 1, 2)
		lt.l.term = 7
		lt.serial = newLeaseTable(lt.l).serial
		if now := read(t, lt, 1); now[0].Serial == old[0].Serial {
			t.Fatalf("both have the serial %d", now[0].Serial)
		}
		lt.give(1, []*metapb.Returned{{Ino: 7, Serial: old[0].Serial}})
		if mode(lt, 1) != "exclusive" {
			t.Errorf("it has %q", mode(lt, 1))
		}
	})
}

func TestSessionThatComesTooLateWithWrittenBytesIsEnded(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		lt := table(t, 1)
		if lt.late(1, []uint64{7}) {
			t.Error("a session that comes again, since it did not hear the answer, is late")
		}
		if lt.late(2, nil) {
			t.Error("a session without written bytes is late")
		}
		if !lt.late(2, []uint64{7}) {
			t.Error("others may have changed the file, and it is not late")
		}
	})
}
