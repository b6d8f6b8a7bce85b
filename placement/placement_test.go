package placement

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"dfs"
)

const buckets = 256

func layout(t testing.TB, s string) dfs.Layout {
	l, err := dfs.ParseLayout(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// topology draws servers in some zones and hosts.
func topology(t *rapid.T, label string, weights bool) []dfs.Server {
	zones := rapid.IntRange(1, 4).Draw(t, label+"zones")
	var servers []dfs.Server
	for z := range zones {
		hosts := rapid.IntRange(1, 4).Draw(t, label+"hosts")
		for h := range hosts {
			for range rapid.IntRange(1, 3).Draw(t, label+"servers") {
				s := dfs.Server{
					ID: dfs.NodeID(rapid.Uint64Min(1).Draw(t, label+"id")), State: dfs.ServerUp, Weight: 100,
					Host: fmt.Sprintf("h%d.%d", z, h), Zone: fmt.Sprintf("z%d", z),
				}
				if weights {
					s.Weight = rapid.Uint32Range(50, 200).Draw(t, label+"weight")
				}
				servers = append(servers, s)
			}
		}
	}
	slices.SortFunc(servers, func(a, b dfs.Server) int { return cmp.Compare(a.ID, b.ID) })
	return slices.CompactFunc(servers, func(a, b dfs.Server) bool { return a.ID == b.ID })
}

func drawLayout(t *rapid.T) dfs.Layout {
	return rapid.SampledFrom([]dfs.Layout{1 << 3, 1<<3 | 1, 1<<3 | 2, 2<<3 | 1, 4<<3 | 2}).Draw(t, "layout")
}

func at(servers []dfs.Server, id dfs.NodeID) dfs.Server {
	for _, s := range servers {
		if s.ID == id {
			return s
		}
	}
	return dfs.Server{}
}

// distinct counts the servers of a row by some key of theirs.
func distinct[K comparable](row []dfs.NodeID, key func(dfs.NodeID) K) map[K]int {
	out := map[K]int{}
	for _, id := range row {
		if id != 0 {
			out[key(id)]++
		}
	}
	return out
}

func TestRowsAreAsDistinctAsTheTopologyAllows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		servers, l := topology(t, "", true), drawLayout(t)
		zone := func(id dfs.NodeID) string { return at(servers, id).Zone }
		sizes := map[string]int{} // servers in each zone
		hostsIn := map[string]map[string]bool{}
		for _, s := range servers {
			sizes[s.Zone]++
			if hostsIn[s.Zone] == nil {
				hostsIn[s.Zone] = map[string]bool{}
			}
			hostsIn[s.Zone][s.Host] = true
		}
		for b, row := range Assign(servers, l, buckets) {
			width := min(l.Width(), len(servers))
			used := distinct(row, func(id dfs.NodeID) dfs.NodeID { return id })
			if len(row) != l.Width() || len(used) != width {
				t.Fatalf("bucket %d: %v has %d servers, want %d, each once", b, row, len(used), width)
			}
			zones := distinct(row, zone)
			if len(zones) != min(width, len(sizes)) {
				t.Fatalf("bucket %d uses %d of %d zones", b, len(zones), len(sizes))
			}
			for z, n := range zones {
				// No zone has two more than another that has a server left.
				for other, size := range sizes {
					if zones[other] < size && n > zones[other]+1 {
						t.Fatalf("bucket %d: %d in zone %s, %d in zone %s", b, n, z, zones[other], other)
					}
				}
				hosts := distinct(slices.DeleteFunc(slices.Clone(row), func(id dfs.NodeID) bool { return zone(id) != z }),
					func(id dfs.NodeID) string { return at(servers, id).Host })
				if len(hosts) != min(n, len(hostsIn[z])) {
					t.Fatalf("bucket %d: %d fragments in zone %s on %d of %d hosts", b, n, z, len(hosts), len(hostsIn[z]))
				}
			}
		}
	})
}

// Where hosts have several servers and zones differ, distinct hosts come first, and
// shares are not the whole truth: so each server has a host of its own here.
func TestNoServerHasATenthOverItsShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		servers, l := topology(t, "", true), drawLayout(t)
		for i := range servers {
			servers[i].Host = ""
		}
		r := NewRing(servers)
		limit := newAssignment(r, l, buckets).limit
		load := map[dfs.NodeID]int{}
		for _, row := range r.Assign(l, buckets) {
			for _, id := range row {
				load[id]++
			}
		}
		for i, s := range r.servers {
			if load[s.ID] > limit[i] {
				t.Fatalf("%v (weight %d, zone %s, host %s) has %d fragments, limit %d", s.ID, s.Weight, s.Zone, s.Host, load[s.ID], limit[i])
			}
		}
	})
}

// Found by the test above: in some clusters a server over its limit can only hand
// fragments to servers that are at theirs, and these to others. One pass of direct
// moves left it over.
func TestFragmentsMoveAlongChains(t *testing.T) {
	for _, seed := range []uint64{3889, 4887} {
		rng := rand.New(rand.NewPCG(seed, 1))
		var servers []dfs.Server
		for range 6 + rng.IntN(8) {
			servers = append(servers, dfs.Server{
				ID: dfs.NodeID(rng.Uint64()), Weight: 50 + rng.Uint32N(150), Zone: string('a' + rune(rng.IntN(3))), State: dfs.ServerUp,
			})
		}
		r := NewRing(servers)
		for _, l := range []dfs.Layout{1<<3 | 1, 1<<3 | 2, 4<<3 | 2} {
			a := newAssignment(r, l, buckets)
			for _, row := range r.Assign(l, buckets) {
				for _, id := range row {
					if id != 0 {
						a.load[r.index(id)]++
					}
				}
			}
			for i := range a.load {
				if a.load[i] > a.limit[i] {
					t.Errorf("seed %d, %v: server %d has %d, limit %d", seed, l, i, a.load[i], a.limit[i])
				}
			}
		}
	}
}

func TestSharesFollowWeightsAndAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		servers, l := topology(t, "", true), drawLayout(t)
		r := NewRing(servers)
		width := min(l.Width(), len(r.servers))
		var sum uint64
		for _, s := range shares(r, width) {
			if s > shareUnit {
				t.Fatalf("a share of %d is more than one fragment of each group", s)
			}
			sum += s
		}
		want := uint64(width) * shareUnit
		if diff := max(sum, want) - min(sum, want); diff > want/1000+uint64(len(servers)*4) {
			t.Fatalf("shares add up to %d, want %d", sum, want)
		}
	})
	// Without domains that stand in the way, shares are the weights.
	var servers []dfs.Server
	for i := range 6 {
		servers = append(servers, dfs.Server{ID: dfs.NodeID(i + 1), Weight: uint32(10 * (i + 5)), State: dfs.ServerUp})
	}
	total := 5 + 6 + 7 + 8 + 9 + 10
	for i, s := range shares(NewRing(servers), 3) {
		want := uint64(3*shareUnit*(i+5)) / uint64(total)
		if max(s, want)-min(s, want) > shareUnit/1000 {
			t.Errorf("server %d: share %d, want %d", i, s, want)
		}
	}
}

// moved counts fragments of b on a server that does not have them in a.
func moved(a, b [][]dfs.NodeID) int {
	n := 0
	for i := range a {
		for _, id := range b[i] {
			if !slices.Contains(a[i], id) {
				n++
			}
		}
	}
	return n
}

func TestJoinAndLeaveMoveLittle(t *testing.T) {
	for _, n := range []int{4, 6, 10, 30} {
		for _, l := range []dfs.Layout{layout(t, "copies=3"), layout(t, "copies=1")} {
			worst, sum := 0.0, 0.0
			const rounds = 20
			for seed := range rounds {
				var servers []dfs.Server
				for i := range n + 1 {
					servers = append(servers, dfs.Server{ID: dfs.NodeID(mix(uint64(seed*1000 + i))), Weight: 100, State: dfs.ServerUp})
				}
				without, with := Assign(servers[:n], l, buckets), Assign(servers, l, buckets)
				ideal := float64(buckets*l.Width()) / float64(n+1)
				for _, m := range []int{moved(without, with), moved(with, without)} {
					sum += float64(m) / ideal / (2 * rounds)
					worst = max(worst, float64(m)/ideal)
				}
			}
			t.Logf("%v, %d servers: %.2f of 1/N on average, %.2f at worst", l, n, sum, worst)
			if sum > 1.6 || worst > 2.8 {
				t.Errorf("%v, %d servers: one more moves %.2f times 1/N on average, %.2f at worst", l, n, sum, worst)
			}
		}
	}
}

func TestOrderOfServersDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		servers, l := topology(t, "", true), drawLayout(t)
		shuffled := rapid.Permutation(servers).Draw(t, "order")
		if !slices.EqualFunc(Assign(servers, l, 64), Assign(shuffled, l, 64), slices.Equal) {
			t.Fatal("another order, another assignment")
		}
	})
}

func TestTargetIsARowOfAssign(t *testing.T) {
	servers := []dfs.Server{{ID: 1, State: dfs.ServerUp}, {ID: 2, State: dfs.ServerDown}, {ID: 3, State: dfs.ServerDrain}, {ID: 4, State: dfs.ServerGone}}
	l := layout(t, "copies=3")
	for b, row := range Assign(servers, l, 8) {
		if got := Target(servers, l, uint32(b), 8); !slices.Equal(got, row) {
			t.Errorf("bucket %d: %v, want %v", b, got, row)
		}
		if got := slices.Sorted(slices.Values(row)); !slices.Equal(got, []dfs.NodeID{0, 1, 2}) {
			t.Errorf("bucket %d: %v: only servers that are up or down take data", b, row)
		}
	}
	if Target(servers, l, 8, 8) != nil {
		t.Error("a bucket that does not exist has a target")
	}
	for _, row := range Assign(nil, l, 2) {
		if !slices.Equal(row, make([]dfs.NodeID, 3)) {
			t.Errorf("without servers: %v", row)
		}
	}
}

// TestNextKeepsItsPromises lets servers come, go and change state at random.
func TestNextKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLayout(t)
		m := &dfs.ClusterMap{Buckets: 32, Home: map[dfs.PG][]dfs.NodeID{}}
		data := map[dfs.PG]bool{}
		empty := func(pg dfs.PG) bool { return !data[pg] }
		for step := range rapid.IntRange(1, 12).Draw(t, "steps") {
			if len(m.Servers) < 8 && rapid.Bool().Draw(t, "join") {
				m.Servers = append(m.Servers, dfs.Server{
					ID: dfs.NodeID(mix(uint64(len(m.Servers)))), Weight: 10, State: dfs.ServerUp,
					Zone: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "zone"),
				})
			} else if len(m.Servers) > 0 {
				s := &m.Servers[rapid.IntRange(0, len(m.Servers)-1).Draw(t, "which")]
				if s.State != dfs.ServerGone {
					s.State = rapid.SampledFrom([]dfs.ServerState{dfs.ServerUp, dfs.ServerDown, dfs.ServerDrain, dfs.ServerGone}).Draw(t, "state")
				}
			}
			for range 4 {
				data[dfs.MakePG(l, uint16(rapid.IntRange(0, 31).Draw(t, "data")))] = true
			}
			changed, home := Next(m, []dfs.Layout{l, l}, empty, nil)
			if !slices.Equal(changed, slices.Sorted(maps.Keys(home))) {
				t.Fatalf("changed and home differ")
			}
			up := map[dfs.NodeID]bool{}
			for _, s := range m.Servers {
				up[s.ID] = s.State == dfs.ServerUp
			}
			for pg, row := range home {
				old := m.Home[pg]
				if slices.Equal(row, old) {
					t.Fatalf("step %d: %v is said to change and does not", step, pg)
				}
				seen := map[dfs.NodeID]bool{}
				for i, id := range row {
					if id != 0 && seen[id] {
						t.Fatalf("step %d: %v: %v twice", step, pg, id)
					}
					seen[id] = true
					stays := old != nil && old[i] == id
					if id != 0 && !stays && !up[id] {
						t.Fatalf("step %d: %v: %v is new and not up", step, pg, id)
					}
					if old != nil && data[pg] && old[i] != 0 && old[i] != id && m.Server(old[i]).State != dfs.ServerGone {
						t.Fatalf("step %d: %v has data and position %d moves from %v to %v", step, pg, i, old[i], id)
					}
				}
			}
			for b := range m.Buckets {
				pg := dfs.MakePG(l, uint16(b))
				if row, ok := home[pg]; ok {
					m.Home[pg] = row
				}
				row := m.Home[pg]
				if len(row) != l.Width() {
					t.Fatalf("step %d: %v has %d positions", step, pg, len(row))
				}
				// A hole stays only when no other server is up.
				for id, isUp := range up {
					if isUp && slices.Contains(row, 0) && !slices.Contains(row, id) {
						t.Fatalf("step %d: %v: a hole, and %v is free", step, pg, id)
					}
				}
			}
			if again, _ := Next(m, []dfs.Layout{l}, empty, nil); len(again) != 0 {
				t.Fatalf("step %d: Next wants more after it was done: %v", step, again)
			}
		}
	})
}

func TestServerThatIsBackHasItsPositions(t *testing.T) {
	l := layout(t, "copies=3")
	m := &dfs.ClusterMap{Buckets: 16, Home: map[dfs.PG][]dfs.NodeID{}}
	for i := range 4 {
		m.Servers = append(m.Servers, dfs.Server{ID: dfs.NodeID(i + 1), State: dfs.ServerUp})
	}
	_, home := Next(m, []dfs.Layout{l}, nil, nil)
	maps.Copy(m.Home, home)
	m.Derive()
	before := m.Acting
	m.Servers[2].State = dfs.ServerDown
	if changed, _ := Next(m, []dfs.Layout{l}, nil, nil); len(changed) != 0 {
		t.Errorf("homes change when a server is down for a while: %v", changed)
	}
	m.Derive()
	for pg, row := range before {
		want := slices.Clone(row)
		if i := slices.Index(want, m.Servers[2].ID); i >= 0 {
			want[i] = 0
		}
		if !slices.Equal(m.Acting[pg], want) {
			t.Errorf("%v: acting %v, want %v", pg, m.Acting[pg], want)
		}
	}
	m.Servers[2].State = dfs.ServerUp
	m.Derive()
	if !maps.EqualFunc(m.Acting, before, slices.Equal) {
		t.Error("back, it does not have its positions")
	}
}

var update = flag.Bool("update", false, "write the golden files anew: they are as good as a disk format")

// TestGolden holds the placement of some clusters fixed for ever.
func TestGolden(t *testing.T) {
	zones := func(n, zones, perHost int, weight func(int) uint32) []dfs.Server {
		var out []dfs.Server
		for i := range n {
			out = append(out, dfs.Server{
				ID: dfs.NodeID(0x1000 + 17*i), Name: fmt.Sprintf("chunk-%d", i+1), Weight: weight(i), State: dfs.ServerUp,
				Zone: fmt.Sprintf("z%d", i%zones), Host: fmt.Sprintf("h%d", i/perHost),
			})
		}
		return out
	}
	same := func(int) uint32 { return 100 }
	for name, c := range map[string]struct {
		servers []dfs.Server
		layout  string
	}{
		"three":         {zones(3, 1, 1, same), "copies=3"},
		"six-weighted":  {zones(6, 1, 1, func(i int) uint32 { return uint32(100 + 100*i) }), "copies=3"},
		"nine-in-three": {zones(9, 3, 1, same), "copies=3"},
		"ec-in-three":   {zones(12, 3, 1, same), "ec=4+2"},
		"two-per-host":  {zones(8, 1, 2, same), "copies=3"},
		"too-few":       {zones(2, 1, 1, same), "copies=3"},
	} {
		t.Run(name, func(t *testing.T) {
			l := layout(t, c.layout)
			var out bytes.Buffer
			for _, s := range c.servers {
				fmt.Fprintf(&out, "server %s %s weight=%d zone=%s host=%s\n", s.ID, s.Name, s.Weight, s.Zone, s.Host)
			}
			fmt.Fprintf(&out, "assign %s buckets=64\n", c.layout)
			load := map[dfs.NodeID]int{}
			for b, row := range Assign(c.servers, l, 64) {
				fmt.Fprintf(&out, "%d:", b)
				for _, id := range row {
					load[id]++
					name := "-"
					if id != 0 {
						name = at(c.servers, id).Name
					}
					fmt.Fprintf(&out, " %s", name)
				}
				fmt.Fprintln(&out)
			}
			for _, s := range c.servers {
				fmt.Fprintf(&out, "load %s %d\n", s.Name, load[s.ID])
			}
			fmt.Fprintf(&out, "%s\n", Survives(c.servers, l))
			if err := Holds(c.servers, l); err != nil {
				fmt.Fprintf(&out, "%v\n", err)
			}
			file := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("the placement of %s changed: clusters that exist would move their data\n%s", name, out.String())
			}
		})
	}
}

func TestHoldsSaysWhyAndWhatHelps(t *testing.T) {
	server := func(id int, zone, host string, state dfs.ServerState) dfs.Server {
		return dfs.Server{ID: dfs.NodeID(id), Zone: zone, Host: host, State: state}
	}
	three := []dfs.Server{server(1, "a", "h1", dfs.ServerUp), server(2, "b", "h2", dfs.ServerUp), server(3, "c", "h3", dfs.ServerDown)}
	for _, c := range []struct {
		servers []dfs.Server
		layout  string
		want    string // in the error; empty: it holds
		loss    string
	}{
		{three, "copies=3", "", "survives the loss of 2 servers, 2 hosts or 2 zones"},
		{three, "copies=1", "", "survives no loss"},
		{three[:2], "copies=3", "copies=3 needs 3 chunk servers, the cluster has 2: add 1 more, or take copies=2, which survives the loss of 1 server, 1 host or 1 zone", "survives no loss"},
		{nil, "copies=2", "needs 2 chunk servers, the cluster has none: add 2 more", "survives no loss"},
		{append(three[:2:2], server(4, "c", "h4", dfs.ServerDrain)), "copies=3", "the cluster has 2", "survives no loss"},
		{three, "ec=4+2", "needs 6 chunk servers", "survives no loss"},
		{[]dfs.Server{server(1, "", "same", dfs.ServerUp), server(2, "", "same", dfs.ServerUp), server(3, "", "same", dfs.ServerUp)}, "copies=3", "", "survives the loss of 2 servers"},
		{[]dfs.Server{
			server(1, "a", "", dfs.ServerUp), server(2, "a", "", dfs.ServerUp), server(3, "b", "", dfs.ServerUp), server(4, "b", "", dfs.ServerUp),
			server(5, "c", "", dfs.ServerUp), server(6, "c", "", dfs.ServerUp),
		}, "ec=4+2", "", "survives the loss of 2 servers, 2 hosts or 1 zone"},
	} {
		l := layout(t, c.layout)
		err := Holds(c.servers, l)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s on %d servers: %v, want %q", c.layout, len(c.servers), err, c.want)
		}
		if got := Survives(c.servers, l).String(); got != c.loss {
			t.Errorf("%s on %d servers: %s, want %s", c.layout, len(c.servers), got, c.loss)
		}
	}
	if Holds(three, dfs.Layout(0xff00)) == nil {
		t.Error("an unknown layout is held")
	}
}

func TestMisplacedCountsGroupsNotPositions(t *testing.T) {
	l := layout(t, "copies=2")
	m := &dfs.ClusterMap{Buckets: 32, Home: map[dfs.PG][]dfs.NodeID{}}
	for i := range 4 {
		m.Servers = append(m.Servers, dfs.Server{ID: dfs.NodeID(i + 1), State: dfs.ServerUp})
	}
	_, home := Next(m, []dfs.Layout{l}, nil, nil)
	maps.Copy(m.Home, home)
	if n := Misplaced(m, l); n != 0 {
		t.Errorf("%d misplaced in a new cluster", n)
	}
	row := m.Home[dfs.MakePG(l, 0)]
	row[0], row[1] = row[1], row[0]
	if n := Misplaced(m, l); n != 0 {
		t.Errorf("%d misplaced, only the order changed", n)
	}
	row[0] = 1 + row[0]%4
	if row[0] == row[1] {
		row[0] = 1 + row[0]%4
	}
	if n := Misplaced(m, l); n != 1 {
		t.Errorf("%d misplaced, want 1", n)
	}
}

func BenchmarkAssign(b *testing.B) {
	var servers []dfs.Server
	for i := range 100 {
		servers = append(servers, dfs.Server{ID: dfs.NodeID(mix(uint64(i))), Weight: 4000, State: dfs.ServerUp, Zone: fmt.Sprint(i % 5)})
	}
	for b.Loop() {
		Assign(servers, dfs.DefaultLayout, buckets)
	}
}
