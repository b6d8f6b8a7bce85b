package gossip

import (
	"bytes"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"dfs"
)

func member(i int) Member {
	return Member{
		ID: dfs.NodeID(100 + i), Cluster: 7, Name: fmt.Sprintf("chunk-%d", i), Role: RoleChunk,
		Addr: fmt.Sprintf("10.0.0.%d:7500", i), Version: "v1", Zone: "z", Host: "h", Total: 1000, Free: 900,
	}
}

func start(t *testing.T, network *Network, self Member) *Node {
	t.Helper()
	cfg := Config{Self: self, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)}
	if network != nil {
		cfg.Transport = network.Transport()
	}
	n, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func waitFor(t *testing.T, what string, cond func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !cond() {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(begin)
}

// sees counts the members that n takes for alive.
func sees(n *Node) int {
	alive := 0
	for _, m := range n.Members() {
		if m.Alive {
			alive++
		}
	}
	return alive
}

func find(n *Node, id dfs.NodeID) Member {
	for _, m := range n.Members() {
		if m.ID == id {
			return m
		}
	}
	return Member{}
}

// network runs a test over loopback and in memory.
func overBoth(t *testing.T, f func(t *testing.T, network *Network)) {
	t.Run("loopback", func(t *testing.T) { f(t, nil) })
	t.Run("memory", func(t *testing.T) { f(t, NewNetwork()) })
}

func TestNodesMeetChangeAndLeave(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, network *Network) {
		var nodes []*Node
		for i := range 4 {
			n := start(t, network, member(i))
			if i > 0 {
				if err := n.Join([]string{nodes[0].Addr()}); err != nil {
					t.Fatal(err)
				}
			}
			nodes = append(nodes, n)
		}
		for _, n := range nodes {
			waitFor(t, "all see all", func() bool { return sees(n) == 4 })
		}
		want := member(2)
		want.Alive, want.Gossip = true, nodes[2].Addr()
		if got := find(nodes[0], want.ID); got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}

		drain(nodes[0])
		nodes[2].Update(Figures{Total: 1000, Free: 100, Sync: 250 * time.Millisecond, Trouble: DiskHung})
		<-nodes[0].Changes()
		waitFor(t, "news of the disks", func() bool {
			m := find(nodes[0], want.ID)
			return m.Free == 100 && m.Sync == 250*time.Millisecond && m.Trouble == DiskHung
		})

		if err := nodes[3].Close(); err != nil {
			t.Fatal(err)
		}
		d := waitFor(t, "the leave is noticed", func() bool { return sees(nodes[0]) == 3 })
		if d > 2*time.Second {
			t.Errorf("a node that said goodbye was missed after %v", d)
		}
		if m := find(nodes[0], member(3).ID); m.Name != "chunk-3" || m.Alive {
			t.Errorf("the dead one is %+v", m)
		}
	})
}

func drain(n *Node) {
	for {
		select {
		case <-n.Changes():
		case <-time.After(300 * time.Millisecond):
			return
		}
	}
}

func TestSilentNodeIsNoticedAndComesBack(t *testing.T) {
	t.Parallel()
	network := NewNetwork()
	var nodes []*Node
	for i := range 5 {
		n := start(t, network, member(i))
		if i > 0 {
			if err := n.Join([]string{nodes[0].Addr()}); err != nil {
				t.Fatal(err)
			}
		}
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		waitFor(t, "all see all", func() bool { return sees(n) == 5 })
	}
	for _, n := range nodes[:4] {
		network.Cut(n.Addr(), nodes[4].Addr())
	}
	d := waitFor(t, "the silent one is dead", func() bool { return !find(nodes[0], member(4).ID).Alive })
	if d < time.Second || d > 6*time.Second {
		t.Errorf("noticed after %v", d)
	}
	t.Logf("noticed after %v", d)
	waitFor(t, "it thinks that all others are dead", func() bool { return sees(nodes[4]) == 1 })
	for _, n := range nodes[:4] {
		network.Heal(n.Addr(), nodes[4].Addr())
	}
	for _, n := range nodes {
		waitFor(t, "all see all again", func() bool { return sees(n) == 5 })
	}
}

func TestSeedThatIsDownAtStartIsMetLater(t *testing.T) {
	t.Parallel()
	network := NewNetwork()
	second := start(t, network, member(2))
	late := network.Transport() // its address is known before it runs
	seed := late.(*end).addr
	network.Cut(second.Addr(), seed)
	if err := second.Join([]string{seed}); err == nil {
		t.Error("joined nobody without an error")
	}
	first, err := Start(Config{Self: member(1), Transport: late, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	network.Heal(second.Addr(), seed)
	waitFor(t, "they meet", func() bool { return sees(first) == 2 && sees(second) == 2 })
}

func TestClustersDoNotMix(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, network *Network) {
		ours := start(t, network, member(1))
		other := member(2)
		other.Cluster = 8
		theirs := start(t, network, other)
		if err := theirs.Join([]string{ours.Addr()}); err == nil {
			t.Error("joined another cluster")
		}
		third := start(t, network, member(3))
		if err := third.Join([]string{theirs.Addr(), ours.Addr()}); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "our own meet", func() bool { return sees(ours) == 2 && sees(third) == 2 })
		if sees(theirs) != 1 || find(ours, other.ID).ID != 0 {
			t.Errorf("clusters met: %v", ours.Members())
		}
	})
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Config){
		"needs an id and a cluster": func(c *Config) { c.Self.Cluster = 0 },
		"role":                      func(c *Config) { c.Self.Role = "x" },
		"at most":                   func(c *Config) { c.Self.Zone, c.Self.Host = strings.Repeat("z", 250), strings.Repeat("h", 250) },
		"port":                      func(c *Config) { c.Listen = "127.0.0.1:99999" },
		"gossip on 192.0.2.1":       func(c *Config) { c.Listen = "192.0.2.1:1" },
	} {
		cfg := Config{Self: member(1), Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)}
		change(&cfg)
		n, err := Start(cfg)
		if err == nil {
			n.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestMetadataRoundTrip(t *testing.T) {
	t.Parallel()
	for _, m := range []Member{member(1), {Role: RoleMaster, ID: 1<<64 - 1, Free: 1<<64 - 1}} {
		b, err := encodeMeta(m)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeMeta(b); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("got %+v, %v", got, err)
		}
		if got, err := decodeMeta(append(b, "a field of later versions"...)); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("with more at the end: %+v, %v", got, err)
		}
		for i := range b {
			if _, err := decodeMeta(b[:i]); err == nil && i != len(b)-metaFigures { // as earlier versions made it
				t.Errorf("cut after %d bytes it is still read", i)
			}
		}
		b[0]++
		if _, err := decodeMeta(b); err == nil || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("a later version: %v", err)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	for _, m := range []Member{member(1), {Role: RoleMaster}} {
		b, err := encodeMeta(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := encodeMeta(m)
		if err != nil || !bytes.HasPrefix(b, again) {
			t.Errorf("%+v does not encode to what it came from: %v", m, err)
		}
	})
}
